"""Checkpoints: a folder of safetensors files and one JSON, written beside and renamed into place.

    checkpoint/model.safetensors      the weights
               ema.safetensors        their moving average
               best.safetensors       the average at the best validation loss so far
               optimizer.safetensors  the optimizers' moments
               early.safetensors      the average as it once was, where the recipe asks for it
               loop.json              step, best validation loss, seconds so far, seeds of the stack
               SHA256SUMS             of these files, written last; `sha256sum -c` reads it
    checkpoint.old/                   the one before, in case this one is damaged

The order of the images and all noise are functions of (seed, step), so no generator is stored.
"""

import errno
import hashlib
import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor, nn

from triptych.errors import UserError
from triptych.train.files import flush, of_place, write_flushed

FILES = ("model", "ema", "best", "optimizer")
PLACES = ("checkpoint", "checkpoint.old")  # the newest first
SUMS = "SHA256SUMS"
Tensors = dict[str, Tensor]


@dataclass
class Checkpoint:
    """Everything that a run needs to go on as if it had not stopped."""

    model: Tensors
    ema: Tensors
    best: Tensors
    optimizer: Tensors
    loop: dict[str, Any]
    early: Tensors = field(default_factory=dict)


class Damaged(Exception):
    """Why a checkpoint is not whole."""


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `folder/checkpoint` so that at every moment a whole one exists.

    The new one is read back before it gets its name. The one before is kept as `checkpoint.old`
    until the next save: if it is whole, and not of a later step, as a stack may have left one that
    went back to the step that all its seeds had.
    """
    target, old = (folder / name for name in PLACES)
    fresh = folder / "checkpoint.new"
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        _write(fresh, checkpoint)
        _check_sums(fresh)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise of_place(error, target) from error
    except Damaged as fault:
        shutil.rmtree(fresh, ignore_errors=True)
        raise OSError(errno.EIO, str(fault), str(target)) from fault
    if _is_whole(target) and _read_loop(target)["step"] <= checkpoint.loop["step"]:
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
    else:
        shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    flush(folder)


def _write(place: Path, checkpoint: Checkpoint) -> None:
    raw = {"loop.json": json.dumps(checkpoint.loop).encode()}
    for name in (*FILES, *(["early"] if checkpoint.early else [])):
        tensors = {k: v.detach().cpu().contiguous() for k, v in getattr(checkpoint, name).items()}
        raw[f"{name}.safetensors"] = to_bytes(tensors)
    for name, content in raw.items():
        write_flushed(place / name, content)
    sums = (f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in raw.items())
    write_flushed(place / SUMS, "".join(sums).encode())
    flush(place)


def put(target: Path, files: dict[str, bytes]) -> None:
    """The files of a checkpoint from another machine, all of them or none, in place of what is
    there."""
    fresh = target.with_name("checkpoint.new")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(parents=True)
        for name, content in files.items():
            write_flushed(fresh / name, content)
        flush(fresh)
    except OSError as error:
        shutil.rmtree(fresh, ignore_errors=True)
        raise of_place(error, target) from error
    shutil.rmtree(target, ignore_errors=True)
    fresh.rename(target)
    flush(target.parent)


def load(folder: Path, step: int | None = None) -> Checkpoint:
    """The newest whole checkpoint, or the one of this step. Says so where a newer one is damaged.

    Raises:
        UserError: there is none, or none is whole.
    """
    found, faults = _newest(folder, step)
    if faults:  # or another process was saving, and renamed the folders meanwhile
        found, faults = _newest(folder, step)
    if found is not None:
        if faults:
            told = f"{folder}/{faults[0]}; taking the checkpoint before, of step"
            print(f"triptych: {told} {found.loop['step']}", file=sys.stderr)
        return found
    if faults:
        raise UserError(
            f"{folder} holds no whole checkpoint ({'; '.join(faults)}); delete that folder and "
            f"train again"
        )
    raise UserError(f"{folder} holds no checkpoint; train it first")


def _newest(folder: Path, step: int | None) -> tuple[Checkpoint | None, list[str]]:
    """The first of `PLACES` with a whole one, of this step; and what is wrong before it."""
    faults = []
    for name in PLACES:
        if not (folder / name).is_dir():
            continue
        try:
            found = _read(folder / name)
        except Damaged as fault:
            faults.append(f"{name}/{fault}")
            continue
        if step is None or found.loop["step"] == step:
            return found, faults
    return None, faults


def loops(folder: Path) -> list[dict[str, Any]]:
    """loop.json of each whole checkpoint, the newest first."""
    places = (folder / name for name in PLACES)
    return [_read_loop(place) for place in places if _is_whole(place)]


def exists(folder: Path) -> bool:
    """Whether there is a checkpoint, whole or not."""
    return any((folder / name).is_dir() for name in PLACES)


def forget(folder: Path) -> None:
    """Remove what an earlier training left, which could be taken for the new one's."""
    for name in PLACES:
        shutil.rmtree(folder / name, ignore_errors=True)


def _is_whole(place: Path) -> bool:
    try:
        _check_sums(place)
        _read_loop(place)
    except (OSError, Damaged):
        return False
    return True


def _check_sums(place: Path) -> None:
    """Compare every file with SHA256SUMS, which checkpoints of earlier versions do not have."""
    if not (place / SUMS).is_file():
        return
    lines = _bytes(place / SUMS).decode(errors="replace").splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    needed = {"loop.json", *(f"{name}.safetensors" for name in _parts(place))}
    for name in sorted(needed | sums.keys()):
        # A name that is none of ours is never opened.
        if name not in needed or name not in sums:
            raise Damaged(f"{SUMS} and the files beside it do not belong together")
        if hashlib.sha256(_bytes(place / name)).hexdigest() != sums[name]:
            raise Damaged(f"{name} is damaged (its SHA-256 is not that of {SUMS})")


def _parts(place: Path) -> tuple[str, ...]:
    return (*FILES, "early") if (place / "early.safetensors").is_file() else FILES


def _read(place: Path) -> Checkpoint:
    _check_sums(place)
    parts = {name: _read_tensors(place / f"{name}.safetensors") for name in _parts(place)}
    return Checkpoint(**parts, loop=_read_loop(place))


def _read_tensors(path: Path) -> Tensors:
    try:
        return from_bytes(_bytes(path))
    except Damaged:
        raise
    except Exception as error:  # the library's own, and many of its parser's
        raise Damaged(f"{path.name} cannot be read ({error})") from error


def _read_loop(place: Path) -> dict[str, Any]:
    try:
        loop = json.loads(_bytes(place / "loop.json"))
        kinds = {"step": int, "best": float | int | None, "seconds": float | int}
        if all(isinstance(loop[key], kind) for key, kind in kinds.items()) and loop["step"] >= 0:
            return loop
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise Damaged("loop.json is damaged (it names no step, best loss and seconds)")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Damaged(f"{path.name} cannot be read ({error.strerror})") from error


def load_into(model: nn.Module, tensors: Tensors, folder: Path) -> None:
    """Give a model the weights of a checkpoint, which must be of this very model."""
    check_like(tensors, model.state_dict(), folder)
    model.load_state_dict(tensors)


def check_like(tensors: Tensors, model: Tensors, folder: Path) -> None:
    """Refuse tensors whose names, shapes or types are not the model's."""
    for name in sorted(tensors.keys() | model.keys()):
        theirs, ours = tensors.get(name), model.get(name)
        if (
            theirs is None
            or ours is None
            or theirs.shape != ours.shape
            or theirs.dtype != ours.dtype
        ):
            raise UserError(
                f"{folder}: the checkpoint's {name} does not fit the model of config.json; restore "
                f"the one or the other, or delete that folder and train again"
            )
