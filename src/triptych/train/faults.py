"""What an exception from outside the mathematics means to the user, in one sentence."""

import errno

import torch

from triptych.errors import FAILED, WRONG, RunFailed, UserError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# The request names a place that cannot be used as it asks; other errors are the machine's.
WRONG_PLACE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EEXIST,
    errno.ENAMETOOLONG,
    errno.ELOOP,
)


def explain(error: BaseException) -> tuple[int, str] | None:
    """Exit code and sentence; None for what no user can fix: a defect of this program."""
    if isinstance(error, UserError):
        return WRONG, str(error)
    if isinstance(error, RunFailed):
        return FAILED, str(error)
    if is_out_of_memory(error):
        return FAILED, (
            "memory ran out; take a smaller model or --batch-size, fewer --workers, or go on from "
            "the last checkpoint where there is more memory"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return _of_system(error)
    if isinstance(error, RuntimeError) and "deterministic implementation" in str(error):
        operation = str(error).split(" does not have", 1)[0]
        return FAILED, f"{operation} cannot be repeated to the bit; leave out --deterministic"
    return None


def _of_system(error: OSError) -> tuple[int, str]:
    place, why = error.filename or "a file", error.strerror
    if error.errno in FULL:
        return FAILED, (
            f"{place} could not be written ({why}); make room, and give the same command again: "
            f"what was written before is whole (train goes on from a checkpoint with --resume)"
        )
    if error.errno in WRONG_PLACE:
        return WRONG, f"{place} cannot be used ({why}); fix that, or name another place"
    return FAILED, f"{place} could not be read or written ({why}); fix that, and try again"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, numpy, or torch on any device could not have the memory it asked for."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = str(error)
    return isinstance(error, RuntimeError) and (
        "can't allocate memory" in told or "not enough memory" in told or "out of memory" in told
    )
