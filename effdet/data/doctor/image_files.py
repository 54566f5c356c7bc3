"""Open the image files of a split, and say what is wrong with them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.findings import Finding, found
from effdet.data.image_lists import is_image_name
from effdet.images.reading import ImageError
from effdet.progress import Report

_EXIF_ORIENTATION = 0x0112
_ONE_COLOUR = 3  # of 255, by which the pixels of a blank image may differ
_THREADS = 4  # decoding runs outside of the interpreter lock

_FAULTS = {
    "missing": "image files are missing",
    "unreadable": "image files cannot be decoded",
    "size": "image files do not have the size that the annotations were made for",
}
_ADVICE = {
    "missing": "copy them to {folder}, or remove them from the annotations",
    "unreadable": "get them again, or remove them",
    "size": "if they were resized after labelling, scale their boxes; --fix does where the shape is the same",
}
_TINY = 32  # pixels; a side of an image that is smaller shows hardly anything
_LONG = 10  # longer side / shorter side of an image that a letterbox makes very small
_FORMAT_OF = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "bmp": "BMP", "webp": "WEBP", "tif": "TIFF", "tiff": "TIFF"}


@dataclass(frozen=True)
class ImageFile:
    """What opening an image file told."""

    name: str
    path: Path
    digest: str = ""  # of its bytes
    fault: str = ""  # "missing", "unreadable" or "size"; "" for a good file
    detail: str = ""  # of the fault
    orientation: int = 1  # EXIF; 1 is upright
    format: str = ""  # of the file's content, as Pillow calls it
    size: tuple[int, int] = (0, 0)  # height, width, upright; of a damaged file what its header says
    is_blank: bool = False  # all pixels have nearly the same colour


def open_images(
    dataset: Dataset, split: str, report: Report, *, decode: bool, known: Mapping[str, ImageFile] | None = None
) -> list[ImageFile]:
    """Return what the files of a split hold, in its order, each file once.

    Args:
        dataset: The split.
        split: Its name, for ``report``.
        report: Called after each file.
        decode: Decode every image; else only look whether it exists.
        known: Files, by name, that need not be opened.
    """
    known = known or {}
    first_of = {name: index for index, name in reversed(list(enumerate(dataset.names)))}
    indices = sorted(first_of.values())
    opened: list[ImageFile] = []

    def look(index: int) -> ImageFile:
        return known.get(dataset.names[index]) or _open(dataset, index, decode)

    with ThreadPoolExecutor(_THREADS) as pool:
        for file in pool.map(look, indices):
            opened.append(file)
            report(f"opening the images of {split}", len(opened), len(indices))
    return opened


def _open(dataset: Dataset, index: int, decode: bool) -> ImageFile:
    name, path, image = dataset.names[index], dataset.path(index), dataset.stored(index)
    if not image.exists():
        return ImageFile(name, path, fault="missing")
    if not decode:
        return ImageFile(name, path)
    file = ImageFile(name, path)
    try:
        data = image.read()
        file = replace(file, digest=hashlib.blake2b(data.data, digest_size=16).hexdigest(), **_header(data))
        pixels = dataset.read(index)
    except (ImageError, OSError) as error:
        detail = str(error).removeprefix(f"{image.name}: ")
        is_size = detail.startswith("is ") and " was made for " in detail
        return replace(file, fault="size" if is_size else "unreadable", detail=detail)
    few = pixels[:: max(1, len(pixels) // 64), :: max(1, pixels.shape[1] // 64)].reshape(-1, pixels.shape[2])
    return replace(file, size=pixels.shape[:2], is_blank=bool((np.ptp(few, axis=0) <= _ONE_COLOUR).all()))


def _header(data: NDArray[np.uint8]) -> dict[str, Any]:
    try:
        with Image.open(io.BytesIO(data.data)) as opened:
            orientation = int(opened.getexif().get(_EXIF_ORIENTATION, 1))
            size = opened.size if orientation >= 5 else opened.size[::-1]
            return {"orientation": orientation, "format": opened.format or "", "size": size}
    except Exception:  # a damaged file is reported by what decodes it
        return {}


def check_files(dataset: Dataset, opened: Sequence[ImageFile]) -> Iterator[Finding]:
    """Yield what is wrong with the files of a split."""
    for fault, text in _FAULTS.items():
        bad = [f"{file.name}: {file.detail}" if file.detail else file.name for file in opened if file.fault == fault]
        yield from found("error", text, bad, _ADVICE[fault].format(folder=dataset.folder))
    yield from _check_other_names(dataset, opened)
    good = [file for file in opened if not file.fault]
    turned = [f"{file.name} ({file.orientation})" for file in good if file.orientation > 1]
    advice = "check that the boxes were drawn on what a viewer shows"
    yield from found("warning", "images are turned by their EXIF orientation", turned, advice)
    advice = "keep one of each; --fix does"
    yield from found("warning", "image files are copies of another one", _copies(opened), advice)
    yield from _check_pixels(good)


def _check_pixels(good: Sequence[ImageFile]) -> Iterator[Finding]:
    """Yield what is odd about images that can be decoded."""
    advice = "look whether they were written correctly"
    yield from found("warning", "images have one colour only", [file.name for file in good if file.is_blank], advice)
    small = [f"{file.name} ({file.size[1]}×{file.size[0]})" for file in good if 0 < min(file.size) < _TINY]
    yield from found("warning", f"images have a side below {_TINY} pixels", small, "look whether they are thumbnails")
    long = [f"{file.name} ({file.size[1]}×{file.size[0]})" for file in good if max(file.size) > _LONG * min(file.size)]
    advice = "little is left of them in the network input; cut them into parts"
    yield from found("warning", f"images are more than {_LONG} times as long as wide", long, advice)
    other = [
        f"{file.name} is {file.format}"
        for file in good
        if file.format in _FORMAT_OF.values()
        and _FORMAT_OF.get(file.path.suffix.lower()[1:], file.format) != file.format
    ]
    advice = "they are read; other programs may refuse them, so give them the suffix of what they are"
    yield from found("note", "images have the suffix of another file type", other, advice)


def _check_other_names(dataset: Dataset, opened: Sequence[ImageFile]) -> Iterator[Finding]:
    """Yield the missing files for which there is one whose name differs in capitals or in the suffix."""
    missing = {file.name for file in opened if file.fault == "missing"}
    found_names = similar_names(dataset, missing)
    pairs = [f"{dataset.names[index]}: there is {name}" for index, name in found_names.items()]
    advice = "write the names in the annotations as the files are called; --fix does"
    yield from found("warning", "missing files are there under a similar name", pairs, advice)


def similar_names(dataset: Dataset, missing: Container[str] | None = None) -> dict[int, str]:
    """Return for images without a file the name of one that differs only in capitals or in the suffix.

    Args:
        dataset: The images.
        missing: Names of those without a file; None: looked for.
    """
    there: dict[Path, dict[str, str]] = {}
    result: dict[int, str] = {}
    for index, name in enumerate(dataset.names):
        if dataset.stored(index).exists() if missing is None else name not in missing:
            continue
        path = dataset.path(index)
        if path.parent not in there:
            names = sorted(os.listdir(path.parent)) if path.parent.is_dir() else []
            there[path.parent] = {key: other for other in names if is_image_name(other) for key in _spellings(other)}
        similar = next((there[path.parent][key] for key in _spellings(path.name) if key in there[path.parent]), None)
        if similar is not None:
            result[index] = name[: len(name) - len(path.name)] + similar
    return result


def check_other_splits(datasets: Mapping[str, Dataset], files: Mapping[str, Sequence[ImageFile]]) -> Iterator[Finding]:
    """Yield which missing files of a split are in the image folder of another one; the findings name the split."""
    for split, opened in files.items():
        missing = [file for file in opened if file.fault == "missing"]
        for other in datasets if missing else ():
            folder = datasets[other].folder
            if other == split or not folder.is_dir():
                continue
            there = set(os.listdir(folder)) - {file.path.name for file in opened if file.path.parent == folder}
            pairs = [f"{file.name}: {folder / file.path.name}" for file in missing if file.path.name in there]
            advice = "perhaps the folders were exchanged; move them, or name the folders in the config"
            for finding in found("warning", f"missing files are in the folder of {other}", pairs, advice):
                yield replace(finding, split=split)


def _spellings(name: str) -> tuple[str, str]:
    return name.casefold(), os.path.splitext(name)[0].casefold()


def _copies(opened: Sequence[ImageFile]) -> list[str]:
    first: dict[str, str] = {}
    return [
        f"{file.name} = {first[file.digest]}"
        for file in opened
        if file.digest and first.setdefault(file.digest, file.name) != file.name
    ]


def copies_in(opened: Sequence[ImageFile], train: Sequence[ImageFile]) -> set[str]:
    """Return the names of files with the bytes of an earlier one, or of one of train."""
    digests = set() if opened is train else {file.digest for file in train if file.digest}
    first: dict[str, str] = {}
    return {
        file.name
        for file in opened
        if file.digest and (file.digest in digests or first.setdefault(file.digest, file.name) != file.name)
    }


def check_unlisted(datasets: Sequence[Dataset], opened: Iterable[ImageFile]) -> Iterator[Finding]:
    """Yield which image files no split lists, in the folders that hold images of a split.

    Args:
        datasets: All splits.
        opened: The files of all splits.
    """
    listed: dict[Path, set[str]] = {}
    for file in opened:
        listed.setdefault(file.path.parent, set()).add(file.path.name)
    orphans = [
        folder / name
        for folder, names in sorted(listed.items())
        if folder.is_dir()
        for name in sorted(os.listdir(folder))
        if is_image_name(name) and name not in names and (folder / name).is_file()
    ]
    homes = [dataset.folder for dataset in datasets]
    text, advice = "image files are not in the annotations", "label them, or take them away; training leaves them out"
    yield from found("note", text, [_relative(path, homes) for path in orphans], advice)


def _relative(path: Path, folders: Sequence[Path]) -> str:
    home = next((folder for folder in folders if path.is_relative_to(folder)), None)
    return str(path) if home is None else path.relative_to(home).as_posix()


def check_leakage(train: Sequence[ImageFile], other: Sequence[ImageFile], split: str) -> Iterator[Finding]:
    """Look for files of a split that are also in train: with the same bytes, or the same file where none was opened."""
    names: dict[object, str] = {key: file.name for file in train for key in (file.path, file.digest) if key}
    shared = [
        f"{file.name} = {names[file.digest or file.path]}" for file in other if (file.digest or file.path) in names
    ]
    advice = f"remove them from one of both: {split} must show what a model does on new images; --fix does"
    yield from found("error", f"images of {split} are also in train", shared, advice)
