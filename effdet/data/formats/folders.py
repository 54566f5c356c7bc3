"""What a folder holds, listed once while a data set is looked for, as a folder may hold a million images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path

from effdet.data.dependencies import note
from effdet.data.findings import DataError


@dataclass(frozen=True)
class Entries:
    """Names in a folder, sorted; those that begin with a dot are left out."""

    folders: tuple[str, ...]
    files: dict[str, list[str]]  # by suffix, in lower case with its dot


_remembered: ContextVar[dict[Path, Entries] | None] = ContextVar("_remembered", default=None)


@contextmanager
def remember_folders() -> Iterator[None]:
    """List each folder only once inside of this block, which must be short, as changes are not seen."""
    if _remembered.get() is not None:
        yield
        return
    token = _remembered.set({})
    try:
        yield
    finally:
        _remembered.reset(token)


def list_folder(folder: Path) -> Entries:
    """Return what a folder holds.

    Raises:
        DataError: If it cannot be listed.
    """
    known = _remembered.get()
    if known is not None and folder in known:
        note(folder)
        return known[folder]
    note(folder)
    folders: list[str] = []
    files: dict[str, list[str]] = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir():
                    folders.append(entry.name)
                else:
                    name = entry.name
                    suffix = name[name.rfind(".") :].lower() if "." in name else ""
                    files.setdefault(suffix, []).append(name)
    except OSError as error:
        raise DataError(f"folder {folder} cannot be listed: {error.strerror}") from error
    listed = Entries(tuple(sorted(folders)), {suffix: sorted(names) for suffix, names in files.items()})
    if known is not None:
        known[folder] = listed
    return listed


def files_in(folder: Path, *suffixes: str) -> list[Path]:
    """Return the files of a folder that end with one of these suffixes (lower case, with a dot), sorted."""
    files = list_folder(folder).files
    return [folder / name for name in sorted(name for suffix in suffixes for name in files.get(suffix, ()))]


def existing_folders(root: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Return the folders below ``root`` with these names, in any case."""
    found = (_enter(root, name.split("/")) for name in names)
    return tuple(dict.fromkeys(folder for folder in found if folder is not None))


def _enter(folder: Path, parts: Sequence[str]) -> Path | None:
    for part in parts:
        if part == ".":
            continue
        names = list_folder(folder).folders
        matches = [part] if part in names else [name for name in names if name.lower() == part.lower()]
        if not matches:
            return None
        folder = folder / matches[0]
    return folder
