"""One process at a time in a folder: a lock that names its owner and cannot outlive it.

It is flock(2) on FOLDER/lock, which the kernel frees when its owner ends, in whatever way: a dead
owner's lock is simply taken. Between machines it holds where the file system carries it from one to
the other: NFS with its lock service, CephFS, GPFS, Lustre mounted with `flock`. Where each machine
keeps its own (NFS with `local_lock`, Lustre with `localflock`) it holds on each machine alone. A
file system without locks is refused.
"""

import fcntl
import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from triptych.errors import UserError


class HeldError(UserError):
    """Another process is at work in the folder; the message names it."""


@contextmanager
def locked(folder: Path, wait: bool = False) -> Iterator[None]:
    """Keep others out of a folder, which is made if it is not there.

    Raises:
        HeldError: another process has the lock, and `wait` is not asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+") as file:
        _take(file, folder, wait)
        owner = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "since": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        _write(file, json.dumps(owner) + "\n")
        try:
            yield
        finally:
            _write(file, "")


def _take(file: IO[str], folder: Path, wait: bool) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise HeldError(
            f"{folder} is in use by {_owner(file)}; wait until that ends, or stop it"
        ) from None
    except OSError as error:
        raise UserError(
            f"{folder} cannot be locked ({error.strerror}); it must be on a file system that has "
            f"locks"
        ) from None


def _write(file: IO[str], text: str) -> None:
    file.truncate(0)
    file.write(text)
    file.flush()


def _owner(file: IO[str]) -> str:
    file.seek(0)
    try:
        owner = json.loads(file.read(1000))
        return f"process {owner['pid']} on {owner['host']} since {owner['since']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
