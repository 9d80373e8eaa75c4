"""Checkpoints: a folder of safetensors files and one JSON, written beside and renamed into place.

    checkpoint/model.safetensors      the weights
               ema.safetensors        their moving average
               best.safetensors       the average at the best validation loss so far
               optimizer.safetensors  Adam's two moments
               early.safetensors      the average as it once was, where the recipe asks for it
               loop.json              step, best validation loss, seconds so far

The order of the images and all noise are functions of (seed, step), so no generator is stored.
"""

import json
import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from triptych.protocols import UserError

FILES = ("model", "ema", "best", "optimizer")
Tensors = dict[str, Tensor]


@dataclass
class Checkpoint:
    """Everything that a run needs to go on as if it had not stopped."""

    model: Tensors
    ema: Tensors
    best: Tensors
    optimizer: Tensors
    loop: dict[str, Any] = field(default_factory=dict)
    early: Tensors = field(default_factory=dict)


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write `folder/checkpoint` so that at every moment a whole one exists."""
    target, fresh, old = (folder / f"checkpoint{s}" for s in ("", ".new", ".old"))
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    early = ["early"] if checkpoint.early else []
    for name in (*FILES, *early):
        tensors = {k: v.detach().cpu().contiguous() for k, v in getattr(checkpoint, name).items()}
        save_file(tensors, fresh / f"{name}.safetensors")
    (fresh / "loop.json").write_text(json.dumps(checkpoint.loop))
    for path in fresh.iterdir():
        _fsync(path)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    _fsync(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path) -> Checkpoint:
    """Read `folder/checkpoint`, or the one before if a crash struck between the two renames."""
    for name in ("checkpoint", "checkpoint.old"):
        place = folder / name
        if (place / "loop.json").is_file():
            early = ["early"] if (place / "early.safetensors").is_file() else []
            parts = {f: read_tensors(place / f"{f}.safetensors") for f in (*FILES, *early)}
            return Checkpoint(**parts, loop=json.loads((place / "loop.json").read_text()))
    raise UserError(f"{folder} holds no checkpoint; train it first, without --resume")


def exists(folder: Path) -> bool:
    """Whether `load` would find something."""
    return any((folder / n / "loop.json").is_file() for n in ("checkpoint", "checkpoint.old"))


def read_tensors(path: Path) -> Tensors:
    """The tensors of one safetensors file, on the CPU."""
    try:
        return load_file(path)
    except Exception as error:
        raise UserError(f"{path} cannot be read ({error}); delete it and train again") from error


def write_text(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(text)
    _fsync(fresh)
    fresh.replace(path)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
