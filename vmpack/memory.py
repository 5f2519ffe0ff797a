"""Tells the C library's allocator to keep what is freed, for programs that move much data.

By default glibc gives each freed buffer of a megabyte back to the kernel, which zeroes it again on
the next allocation: unpacking 650 MiB cost 390,000 page faults and 1.4 s of kernel time, and costs
3,000 faults and 0.2 s with this (measured, specs/decisions/0003-allocator.md). It changes the whole
process, so only the command line does it, not the library.
"""

from __future__ import annotations

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8


def keep_freed_memory() -> None:
    """Set glibc's thresholds and use one arena; without effect on other C libraries."""
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(_M_TRIM_THRESHOLD, 64 << 20)
    mallopt(_M_MMAP_THRESHOLD, 32 << 20)
    mallopt(_M_ARENA_MAX, 1)
