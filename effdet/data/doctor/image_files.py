"""Open the image files of a split, and say what is wrong with them."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.findings import Finding, found
from effdet.images.file_types import IMAGE_SUFFIXES
from effdet.images.reading import ImageError
from effdet.progress import Report

_EXIF_ORIENTATION = 0x0112
_THREADS = 4  # decoding runs outside of the interpreter lock

_FAULTS = {
    "missing": "image files are missing",
    "unreadable": "image files cannot be decoded",
    "size": "image files do not have the size that the annotations were made for",
}


@dataclass(frozen=True)
class ImageFile:
    """What opening an image file told."""

    name: str
    path: Path
    digest: str = ""  # of its bytes
    fault: str = ""  # "missing", "unreadable" or "size"; "" for a good file
    detail: str = ""  # of the fault
    orientation: int = 1  # EXIF; 1 is upright


def open_images(dataset: Dataset, split: str, report: Report, *, decode: bool) -> list[ImageFile]:
    """Return what the files of a split hold, in its order, each file once.

    Args:
        dataset: The split.
        split: Its name, for ``report``.
        report: Called after each file.
        decode: Decode every image; else only look whether it exists.
    """
    first_of = {name: index for index, name in reversed(list(enumerate(dataset.names)))}
    indices = sorted(first_of.values())
    opened: list[ImageFile] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for file in pool.map(lambda index: _open(dataset, index, decode), indices):
            opened.append(file)
            report(f"opening the images of {split}", len(opened), len(indices))
    return opened


def _open(dataset: Dataset, index: int, decode: bool) -> ImageFile:
    name, path, image = dataset.names[index], dataset.path(index), dataset.stored(index)
    if not image.exists():
        return ImageFile(name, path, fault="missing")
    if not decode:
        return ImageFile(name, path)
    digest, orientation, fault, detail = "", 1, "", ""
    try:
        data = image.read()
        digest = hashlib.blake2b(data, digest_size=16).hexdigest()
        orientation = _orientation(data)
        dataset.read(index)
    except (ImageError, OSError) as error:
        detail = str(error).removeprefix(f"{image.name}: ")
        fault = "size" if detail.startswith("is ") and " was made for " in detail else "unreadable"
    return ImageFile(name, path, digest, fault, detail, orientation)


def _orientation(data: NDArray[np.uint8]) -> int:
    try:
        with Image.open(io.BytesIO(data)) as opened:
            return int(opened.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # a damaged file is reported by what decodes it
        return 1


def check_files(dataset: Dataset, opened: Sequence[ImageFile]) -> Iterator[Finding]:
    """Yield what is wrong with the files of a split."""
    for fault, text in _FAULTS.items():
        bad = [f"{file.name}: {file.detail}" if file.detail else file.name for file in opened if file.fault == fault]
        yield from found("error", text, bad, f"look in {dataset.folder}")
    turned = [f"{file.name} ({file.orientation})" for file in opened if file.orientation > 1 and not file.fault]
    advice = "check that the boxes were drawn on what a viewer shows"
    yield from found("warning", "images are turned by their EXIF orientation", turned, advice)
    yield from found("warning", "image files are copies of another one", _copies(opened))


def _copies(opened: Sequence[ImageFile]) -> list[str]:
    first: dict[str, str] = {}
    return [
        f"{file.name} = {first[file.digest]}"
        for file in opened
        if file.digest and first.setdefault(file.digest, file.name) != file.name
    ]


def check_unlisted(dataset: Dataset, opened: Iterable[ImageFile]) -> Iterator[Finding]:
    """Yield which image files in the folder of a split no split lists; ``opened`` are the files of all splits."""
    text = f"image files in {dataset.folder} are not in the annotations"
    yield from found("note", text, _unlisted(dataset, opened))


def _unlisted(dataset: Dataset, opened: Iterable[ImageFile]) -> list[str]:
    if dataset.folder.name.lower() == "images" or not dataset.folder.is_dir():  # "images" is shared by the splits
        return []
    listed = {file.path.name for file in opened if file.path.parent == dataset.folder}
    files = (path for path in dataset.folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    return sorted(path.name for path in files if path.name not in listed)


def check_leakage(train: Sequence[ImageFile], other: Sequence[ImageFile], split: str) -> Iterator[Finding]:
    """Look for files of a split whose bytes are also in train."""
    names = {file.digest: file.name for file in train if file.digest}
    shared = [f"{file.name} = {names[file.digest]}" for file in other if file.digest in names]
    advice = f"remove them from one of both: {split} must show what a model does on new images"
    yield from found("error", f"images of {split} are also in train", shared, advice)
