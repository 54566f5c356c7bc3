"""Names of images that no file can have, or that lead out of the data set."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from effdet.data.findings import FindingList
from effdet.data.formats.values import short
from effdet.data.text_column import TextColumn

_MAX_PART, _MAX_NAME = 255, 3000  # bytes of a name, and of a name with its folders, on Linux, macOS and Windows
_UPWARDS = np.frombuffer(b"..", np.uint8)


def shorten_names(names: TextColumn, findings: FindingList) -> TextColumn:
    """Return the names, those cut off that are longer than any file's may be; they become an error."""
    longest = int(np.diff(names.offsets).max(initial=0))
    if longest <= _MAX_PART:
        return names
    texts = names.tolist()
    too_long = [index for index, text in enumerate(texts) if is_too_long(text)]
    for index in too_long:
        findings.add("error", "names of images are longer than a file's can be", short(texts[index]), "correct them")
        texts[index] = f"{texts[index][:40]}…"
    return TextColumn.from_texts(texts) if too_long else names


def is_too_long(text: str) -> bool:
    """Return whether no file can have this name."""
    name = text.encode(errors="replace")
    return len(name) > _MAX_NAME or max(map(len, name.replace(b"\\", b"/").split(b"/"))) > _MAX_PART


def check_inside(names: TextColumn, folder: Path, roots: Sequence[Path], findings: FindingList) -> None:
    """Say which names lead out of the data set, by ``..`` or from the root of the disk.

    Links are followed wherever they lead: large sets are often made of them.

    Args:
        names: Of the image files.
        folder: That they are relative to.
        roots: Folders that belong to the data set.
        findings: Takes an error.
    """
    if not _may_leave(names):
        return
    inside = tuple(os.path.abspath(root) for root in roots)
    for name in names:
        place = name.replace("\\", "/")
        if not (place.startswith("/") or ".." in place or place[1:2] == ":"):
            continue
        path = os.path.abspath(folder / place)
        if not any(path == root or path.startswith(root.rstrip(os.sep) + os.sep) for root in inside):
            advice = "move the images into it, or name their folder by data.train_images and data.val_images"
            findings.add("error", "names of images lead out of the data set", short(name), advice)


def _may_leave(names: TextColumn) -> bool:
    """Return whether any name has two dots in a row, or begins as a whole path does."""
    blob = names.blob
    if len(blob) < 2:
        return False
    starts = names.offsets[:-1][np.diff(names.offsets) > 0]
    firsts, seconds = blob[starts], blob[np.minimum(starts + 1, len(blob) - 1)]
    if np.isin(firsts, (ord("/"), ord("\\"))).any() or (seconds == ord(":")).any():
        return True
    return bool(((blob[:-1] == _UPWARDS[0]) & (blob[1:] == _UPWARDS[1])).any())
