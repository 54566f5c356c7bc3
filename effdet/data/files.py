"""Names in annotation files, and the files that they mean."""

from __future__ import annotations

import itertools
import os
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from effdet.data.dependencies import note

_NUM_LOOKED_AT = 20  # names that tell in which folder the images are


def resolve_name(folder: Path, name: str) -> Path:
    """Return the file in ``folder`` that an annotation file calls ``name``.

    Backslashes, which labelling tools on Windows write, separate folders where there is no file of just that name.
    Letters with accents may be written in one or two characters (Unicode's normal forms NFC and NFD); a file whose name
    differs only in this is found. Where there is no such file, the name is taken as it is.
    """
    path = folder / name
    if (name.isascii() and "\\" not in name) or path.exists():
        return path
    slashed = name.replace("\\", "/")
    if (folder / slashed).exists():
        return folder / slashed
    return _find_normalised(folder, slashed) or folder / slashed


def _find_normalised(folder: Path, name: str) -> Path | None:
    """Return the file whose folders and name are ``name``'s in any normal form; None if there is none."""
    spellings = [
        dict.fromkeys((part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part)))
        for part in Path(name).parts
    ]
    candidates = (folder.joinpath(*parts) for parts in itertools.product(*spellings))
    return next((path for path in itertools.islice(candidates, 1000) if path.exists()), None)


def foreign_folder(names: Sequence[str], folders: Sequence[Path]) -> str:
    """Return the folder of another machine, or the address, that all names begin with, and that must be left out.

    Labelling tools write ``C:/cells/day1/a.jpg``, with slashes or backslashes, or ``/data/cells/day1/a.jpg``,
    or an address. What is left is as long as possible: ``day1/a.jpg`` where one of the folders has that file.

    Args:
        names: Of the image files.
        folders: Where they may be.

    Returns:
        The beginning of all names; empty if they are relative, exist as they are, or no folder has the first one.
    """
    first = names[0] if len(names) else ""
    if not re.match(r"[/\\]|[A-Za-z][A-Za-z0-9+.-]*:", first) or _is_in(folders, first):
        return ""
    ends = (separator.end() for separator in re.finditer(r"[/\\]+", first))
    found = next((first[:end] for end in ends if _is_in(folders, first[end:])), "")
    return found if all(name.startswith(found) for name in names) else ""


def _is_in(folders: Sequence[Path], name: str) -> bool:
    return any(_is_file(folder, name) for folder in folders)


def _is_file(folder: Path, name: str) -> bool:
    archive, slash, _ = name.partition(".tar/")  # an image in an archive
    path = resolve_name(folder, archive + ".tar" if slash else name)
    note(folder, path.parent)
    return os.path.isfile(path)  # also false for a name that no file can have, where ``Path.is_file`` raises


def choose_folder(names: Sequence[str], folders: Sequence[Path]) -> Path:
    """Return the folder that holds most of the images, judged by a few names spread over the set; the first of equals.

    Args:
        names: Of the image files, relative to the folder.
        folders: At least one.
    """
    places = {place * len(names) // _NUM_LOOKED_AT for place in range(_NUM_LOOKED_AT)} if len(names) else set()
    looked_at = [names[place] for place in sorted(places)]
    return max(folders, key=lambda folder: sum(_is_file(folder, name) for name in looked_at))
