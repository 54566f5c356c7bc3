"""Write a data set in another format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import read_parts
from effdet.data.formats.columns import NOTHING_TO_LEARN
from effdet.data.formats.interface import Part
from effdet.data.formats.table import FORMATS
from effdet.data.image_copies import How, ImageCopies

WRITABLE: tuple[str, ...] = tuple(name for name, format in FORMATS.items() if format.write is not None)


@dataclass(frozen=True)
class Conversion:
    """What was written."""

    parts: Mapping[Part, Dataset]  # as they were read
    images: Mapping[str, int]  # how many were "linked", "copied", "missing", "renamed"
    lost: tuple[str, ...]  # what the format could not hold, of that which the data set had


def convert(
    source: str | Path | Mapping[Part, Dataset], folder: str | Path, *, to: str, images: How = "link"
) -> Conversion:
    """Write a data set to a new folder in another format.

    Every box is written, also one that training would leave out. Numbers are written with all their digits.

    Args:
        source: A data set in any known format: folder, file, or its parts.
        folder: New, or empty.
        to: "coco", "yolo", "voc", "csv", "openimages" or "shards" (tar archives with an index).
        images: "link": image files are hard links to the originals, or copies where that is not possible; "copy".

    Raises:
        DataError: If the source has errors or no images, or the folder holds something.
        ValueError: If there is no such format to write, or a class name cannot be written in it.
        OSError: If a file cannot be written.
    """
    write = FORMATS[to].write if to in FORMATS else None
    if write is None:
        raise ValueError(f"the format must be one of {', '.join(WRITABLE)}, got {to!r}")
    folder = Path(folder).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} must be a new or an empty folder; choose another place, or remove it")
    parts = source if isinstance(source, Mapping) else read_parts(source)
    for dataset in parts.values():
        replace(dataset, findings=tuple(f for f in dataset.findings if f.advice != NOTHING_TO_LEARN)).require_usable()
    parts = with_same_classes(parts)
    _check_class_names(next(iter(parts.values())), to)
    folder.mkdir(parents=True, exist_ok=True)
    copies = ImageCopies(folder, images)
    write(parts, copies)
    return Conversion(parts, dict(copies.counts), _what_is_lost(parts, to))


def with_same_classes(parts: Mapping[Part, Dataset]) -> dict[Part, Dataset]:
    """Return the parts with one list of classes, as most formats have one for all: that of train, then what others add.

    A class keeps its category id where no other class has it.
    """
    ids: dict[str, int] = {}
    for part in sorted(parts, key=("train", "all", "val", "test").index):
        for name, category_id in zip(parts[part].class_names, parts[part].category_ids, strict=True):
            if name not in ids:
                ids[name] = category_id if category_id not in ids.values() else max(ids.values()) + 1
    if any(len(set(dataset.class_names)) < dataset.num_classes for dataset in parts.values()):
        return dict(parts)
    names = tuple(sorted(ids, key=ids.__getitem__))
    return {part: _relabelled(dataset, names, tuple(ids[name] for name in names)) for part, dataset in parts.items()}


def _relabelled(dataset: Dataset, names: tuple[str, ...], ids: tuple[int, ...]) -> Dataset:
    label_of = np.array([names.index(name) for name in dataset.class_names], dtype=np.int64)
    return replace(dataset, class_names=names, category_ids=ids, labels=label_of[dataset.labels])


def _check_class_names(dataset: Dataset, to: str) -> None:
    if to in ("coco", "shards"):
        return
    names = [" ".join(name.split()) for name in dataset.class_names]
    if len(set(names)) < len(names) or "" in names:
        twice = next((name for name in names if names.count(name) > 1), "")
        raise ValueError(f"class names must differ to be written as {FORMATS[to].title}, but {twice!r} is there twice")


def _what_is_lost(parts: Mapping[Part, Dataset], to: str) -> tuple[str, ...]:
    """Return what the format does not hold of that which the data set has, with counts."""
    lost = []
    crowds = sum(int(dataset.is_crowd.sum()) for dataset in parts.values())
    if to == "yolo" and crowds:
        lost.append(f"{crowds:,} crowd boxes are written as ordinary boxes")
    if to == "voc" and crowds:
        lost.append(f"{crowds:,} crowd boxes are written as difficult")
    if to not in ("coco", "csv", "shards"):
        areas = sum(int((_areas_differ(dataset)).sum()) for dataset in parts.values())
        lost += [f"{areas:,} areas of masks become width × height"] if areas else []
    unknown = sum(int((dataset.sizes == 0).any(axis=1).sum()) for dataset in parts.values())
    if to in ("yolo", "openimages") and unknown:
        lost.append(f"the boxes of {unknown:,} images whose size is not known are in pixels")
    return tuple(lost)


def _areas_differ(dataset: Dataset) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    products = dataset.boxes_xywh[:, 2] * dataset.boxes_xywh[:, 3]
    return ~np.isclose(dataset.areas, products, rtol=1e-9, atol=0)
