"""Keep memory that is freed, so that each picture need not ask the system for all its pages anew."""

from __future__ import annotations

import functools

import numpy as np

BLOCK = 30 * 2**20  # bytes; glibc takes its limits from blocks of up to 32 MiB


@functools.cache
def keep_freed_memory() -> None:
    """Let the C library of Linux (glibc) keep up to 60 MiB that this process has freed, instead of giving it back.

    glibc gives freed memory back to the system at once where it is more than 128 KiB. The next picture then takes each
    page anew, which costs as much time as decoding it. glibc raises this limit itself, to twice the size of the largest
    block that it has mapped and freed, if that had at most 32 MiB. So this function takes a block and frees it without
    touching it. Other C libraries notice nothing, nor does glibc where the environment sets its limits
    (``MALLOC_TRIM_THRESHOLD_``, ``MALLOC_MMAP_THRESHOLD_``).
    """
    np.empty(BLOCK, np.uint8)
