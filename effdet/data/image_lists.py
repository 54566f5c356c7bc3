"""Which image files there are below a folder."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from effdet.data.dependencies import note
from effdet.data.files import choose_folder, foreign_folder, resolve_name
from effdet.images.file_types import IMAGE_SUFFIXES


def list_images(folder: Path) -> list[str]:
    """Return the names of all image files below a folder, relative to it with slashes, sorted.

    Hidden files and folders are left out. Links to folders are not followed, so that a loop cannot trap the walk.
    """
    found: list[str] = []
    for where, folders, files in os.walk(folder):
        note(where)
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = os.path.relpath(where, folder)
        prefix = "" if below == "." else below.replace(os.sep, "/") + "/"
        found += [prefix + name for name in files if is_image_name(name)]
    return sorted(name for name in found if name.isprintable() or _is_text(name))


def is_image_name(name: str) -> bool:
    """Return whether a file name ends as that of an image, and is not hidden."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_SUFFIXES


def _is_text(name: str) -> bool:
    """Return whether a file name has a UTF-8 form."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _stem(name: str) -> str:
    """Return a name with slashes without its suffix."""
    dot = name.rfind(".")
    return name[:dot] if dot > name.rfind("/") + 1 else name


class ImageIndex:
    """Finds image files by what annotations call them: with or without folders, and with or without a suffix.

    Args:
        names: Of the image files, as ``list_images`` gives them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = frozenset(names)
        ordered = sorted(self.names, reverse=True)  # the first of several wins
        by_stem = {_stem(name): name for name in ordered}
        has_folders = any("/" in name for name in ordered)
        by_base = {_stem(name).rpartition("/")[2]: name for name in ordered} if has_folders else {}
        self._by_stem = by_base | by_stem

    def find(self, name: str) -> str | None:
        """Return the image file that annotations call ``name``; None if there is none."""
        return name if name in self.names else self._by_stem.get(name)


def resolve_names(names: Sequence[str], folders: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the folder that the image files lie in, and their names in it.

    Args:
        names: What annotations call the images; a suffix or a folder may be missing, or too much.
        folders: Candidates, at least one.
    """
    folder = choose_folder(names, folders)
    sample = [names[place] for place in sorted({place * len(names) // 20 for place in range(20)})] if names else []
    if any(os.path.isfile(resolve_name(folder, name)) for name in sample) or foreign_folder(names, folders):
        return folder, list(names)
    for candidate in folders:
        index = ImageIndex(list_images(candidate))
        if any(index.find(name) or index.find(_base(name)) for name in sample):
            return candidate, [index.find(name) or index.find(_base(name)) or name for name in names]
    return folder, list(names)


def _base(name: str) -> str:
    return name.replace("\\", "/").rpartition("/")[2]
