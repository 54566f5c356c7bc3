"""Call a function for each of many files: in threads where it waits for them."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_THREADS = 8
_FIRST, _BLOCK = 8, 256  # items: of the first block, and of those that follow
_LONG = 100e-6  # seconds that a call takes which waits for a disk, or decodes an image


def call_for_each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    """Return the results for all items, in order; from the first slow block of calls on, threads share the rest.

    Threads help where a call leaves the interpreter's lock for long. The header of a file that is in memory is read in
    20 µs, and eight threads that fight for the lock need twice as long for it as one.

    Args:
        function: May be called from several threads at once.
        items: What it is called with.
    """
    results: list[Result] = []
    starts = [0, *range(_FIRST, len(items), _BLOCK), len(items)]
    for start, end in itertools.pairwise(starts):
        began = time.perf_counter()
        results += map(function, items[start:end])
        if time.perf_counter() - began > _LONG * (end - start):
            return results + _in_threads(function, items[end:])
    return results


def _in_threads(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    length = max(1, min(_BLOCK, -(-len(items) // _THREADS)))  # a task for each of a million would take gigabytes
    blocks = [items[start : start + length] for start in range(0, len(items), length)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return [result for part in pool.map(lambda block: [*map(function, block)], blocks) for result in part]
