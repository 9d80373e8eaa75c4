"""Memory that one step frees stays with the process for the next.

glibc hands large blocks back to the kernel, which then clears each page anew when it is asked for
again: a third of the time of an importance-weighted bound, a tenth of a U-Net's step.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # mallopt(3)
LARGEST, LARGEST_ONCE = 2**30, 2**25  # bytes; the limit that mallopt(3) names is the second
UNUSED = 2**31 - 1


def keep_freed_memory(largest: int = LARGEST, unused: int = UNUSED) -> bool:
    """Keep blocks of up to `largest` bytes, and up to `unused` bytes that nothing is in, for the
    rest of this process. Returns whether the C library can: glibc can.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows, which has no None
        return False
    kept = mallopt(M_MMAP_THRESHOLD, largest) or mallopt(M_MMAP_THRESHOLD, LARGEST_ONCE)
    return bool(kept and mallopt(M_TRIM_THRESHOLD, unused))
