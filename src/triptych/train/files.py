"""Files that are written whole or not at all, and JSON that carries its own checksum."""

import errno
import hashlib
import json
import os
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from triptych.errors import UserError

LARGEST_JSON = 2**26
FOLDERS = {"config.json": "a run, STUDY/MODEL/seed-0", "study.json": "a study"}


def write_bytes(path: Path, raw: bytes) -> None:
    """Write a file beside its place, flush it to the disk and rename it into place.

    Raises:
        OSError: with the name of the file; what was there before is still there.
    """
    fresh = path.with_name(path.name + ".new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_flushed(fresh, raw)
        fresh.replace(path)
        flush(path.parent)
    except OSError as error:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise of_place(error, path) from error


def check_place(path: Path) -> None:
    """See, before any work, that a file can be written there.

    Raises:
        OSError: with the name of the file.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise of_place(error, path) from error


def of_place(error: OSError, path: Path) -> OSError:
    """The same error, with the name that the user knows in place of a temporary one."""
    return OSError(error.errno, error.strerror or str(error), str(path))


def write_text(path: Path, text: str) -> None:
    """Like `write_bytes`, in UTF-8."""
    write_bytes(path, text.encode())


def write_flushed(path: Path, raw: bytes) -> None:
    """Write a file in its place and wait until the disk has it."""
    with path.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def flush(path: Path) -> None:
    """Wait until the disk has a file, or a folder's list of names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sealed(plain: dict[str, Any]) -> dict[str, Any]:
    """The same with `sha256`, a checksum of all its values."""
    bare = {key: value for key, value in plain.items() if key != "sha256"}
    text = json.dumps(bare, sort_keys=True)
    return bare | {"sha256": hashlib.sha256(text.encode()).hexdigest()}


def seal_holds(plain: Any) -> bool:
    """Whether what was read is what was sealed. What an earlier version wrote has no seal."""
    if not isinstance(plain, dict) or "sha256" not in plain:
        return True
    return plain["sha256"] == sealed(plain)["sha256"]


def read_json(path: Path) -> Any:
    """A JSON file, or one sentence why not."""
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f"more than {LARGEST_JSON:,} bytes")
        plain = json.loads(path.read_text())
        if not seal_holds(plain):
            raise ValueError("its sha256 is not that of its content")
        return plain
    except FileNotFoundError:
        folder = FOLDERS.get(path.name, "a run or study")
        raise UserError(f"{path} does not exist; name the folder of {folder}") from None
    except (ValueError, OSError, RecursionError) as error:
        # Were it gone by itself, the weights beside it would be refused: nothing says what of.
        what = "its folder" if path.name == "config.json" else "it"
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or delete {what} and run its command "
            f"again"
        ) from None
