"""Which files and folders the reader of a data set looked at, and whether they have changed since."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.data.text_column import TextColumn

NO_FILE = (-1, -1, -1)
_FRESH = 2_000_000_000  # ns: a file that is younger could be changed again without a new time

Stamp: TypeAlias = tuple[int, int, int]


@dataclass
class Noted:
    """What a reader looked at."""

    stamps: dict[str, Stamp] = field(default_factory=dict)  # of files and folders, by path
    images: bool = False  # it also opened images of the data set


_noted: ContextVar[Noted | None] = ContextVar("_noted", default=None)


def stamp(path: str | Path) -> Stamp:
    """Return (bytes, time of change in ns, number of the file) as far as they tell a file from its next version.

    Of a folder only the time counts. Where there is nothing all are -1.
    """
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return NO_FILE
    is_folder = (found.st_mode & 0o170000) == 0o040000
    return (0, found.st_mtime_ns, 0) if is_folder else (found.st_size, found.st_mtime_ns, found.st_ino)


def note(*paths: str | Path) -> None:
    """Remember what a file or folder looks like now, before it is read; without effect outside of ``recording``."""
    noted = _noted.get()
    if noted is not None:
        for path in paths:
            noted.stamps.setdefault(os.path.abspath(path), stamp(path))


def note_images() -> None:
    """Remember that images of the data set are opened; without effect outside of ``recording``."""
    noted = _noted.get()
    if noted is not None:
        noted.images = True


@contextmanager
def recording() -> Iterator[Noted]:
    """Collect what is noted inside of this block."""
    noted = Noted()
    token = _noted.set(noted)
    try:
        yield noted
    finally:
        _noted.reset(token)


def to_arrays(stamps: dict[str, Stamp]) -> tuple[TextColumn, NDArray[np.int64]]:
    """Return paths, and (P, 3) their stamps."""
    return TextColumn.from_texts(stamps), np.array(list(stamps.values()), dtype=np.int64).reshape(-1, 3)


def are_unchanged(paths: Iterable[str], stamps: NDArray[np.int64]) -> bool:
    """Return whether files and folders look as they did."""
    return all(stamp(path) == tuple(known) for path, known in zip(paths, stamps.tolist(), strict=True))


def are_settled(stamps: dict[str, Stamp]) -> bool:
    """Return whether no file was changed so lately that a further change might leave its time as it is."""
    latest = time.time_ns() - _FRESH
    return all(changed < latest for _, changed, _ in stamps.values())
