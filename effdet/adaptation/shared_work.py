"""Several processes share work through a folder, on one machine or through a shared file system."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from effdet.runs.lock import RunInUseError, lock_run

PAUSE = 0.5  # seconds between two looks at what other processes do


def do_once(folder: Path, result: str, work: Callable[[], None]) -> None:
    """Do a piece of work, or wait until another process has done it.

    Args:
        folder: Of the piece of work; it is made.
        result: Name of the file in it that ``work`` writes at its end, whole or not at all.
        work: Called by one process at a time. If that process is killed, another one takes over.
    """
    do_all({folder: work}, result)


def do_all(works: Mapping[Path, Callable[[], None]], result: str) -> None:
    """Do pieces of work that other processes do not do at the moment, until all are done.

    Args:
        works: The work of each folder; see ``do_once``.
        result: Name of the file that each writes in its folder.
    """
    missing = dict(works)
    while missing:
        done = [folder for folder in missing if _try(folder, result, missing[folder])]
        for folder in done:
            del missing[folder]
        if missing:
            time.sleep(PAUSE)


def _try(folder: Path, result: str, work: Callable[[], None]) -> bool:
    """Return whether a piece of work is done, by this process or by another one."""
    if (folder / result).exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with lock_run(folder):
            if not (folder / result).exists():
                work()
            return True
    except RunInUseError:
        return False
