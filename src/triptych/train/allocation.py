"""What a process has of its machine: memory that one step frees stays with it for the next, and
threads are no more than cores.

glibc hands large blocks back to the kernel, which then clears each page anew when it is asked for
again: a third of the time of an importance-weighted bound, a tenth of a U-Net's step. torch takes a
thread for each core that it sees, of which a container may grant a few: threads then wait for
others that are not running.
"""

import ctypes

import torch
from joblib import cpu_count

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST, LARGEST_DOCUMENTED = 2**30, 2**25  # bytes; a glibc may refuse more than mallopt(3) allows
ALL = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed blocks of up to `LARGEST` bytes, where the C library allows as many, for the rest
    of this process. Returns whether it can: glibc can."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows, which has no None
        return False
    kept = mallopt(M_MMAP_THRESHOLD, LARGEST) or mallopt(M_MMAP_THRESHOLD, LARGEST_DOCUMENTED)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, ALL))


def keep_to_granted_cores() -> None:
    """Compute with no more threads than the cores that affinity and a container's quota grant."""
    if (granted := cpu_count()) < torch.get_num_threads():
        torch.set_num_threads(granted)
