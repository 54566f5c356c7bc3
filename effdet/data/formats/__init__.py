"""Data sets on disk: find one by looking at its folder, whatever its format, and read it into columns."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from effdet.data.column_cache import read_cached
from effdet.data.dataset import Dataset
from effdet.data.dependencies import note
from effdet.data.findings import DataError
from effdet.data.formats.finding import FoundData, find_data, find_named_file, split_command
from effdet.data.formats.folders import remember_folders
from effdet.data.formats.interface import Part, Source, Split
from effdet.data.formats.split_file import select_part
from effdet.data.formats.table import FORMATS
from effdet.data.remote import to_local

log = logging.getLogger(__name__)

__all__ = ["Part", "Source", "Split", "find_dataset", "find_source", "find_train_and_val", "read_parts", "read_source"]


def find_dataset(
    root: str | Path, split: Split, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> Dataset:
    """Find and read one split of a data set. Warnings about it are logged.

    The formats and what each is recognised by are in ``docs/how-to/your_data.md``. COCO's layouts below ``root``, in
    the order in which they are tried; S is the name of the split in any case: train, val, valid, validation, test:

        annotations/instances_S2017.json + S2017/          COCO 2017
        annotations/instances_S.json + S/ or images/S/     other years, CVAT
        S.json + images/, S/, images/S/, data/ or the images beside it
        S/_annotations.coco.json + the images beside it, or in S/images/     Roboflow
        S/labels.json + S/data/                            FiftyOne
        root is itself a .json file, which then serves for any split; images as in the third layout

    Names of images may also be relative to the annotation file. Where ``effdet data split`` has written splits.json,
    that file says which images belong to the split.

    Args:
        root: Folder of the data set, or an annotation file. ``~`` is the home folder.
        split: "train", "val" or "test".
        annotations: Annotation file, relative to ``root``; None: found by the layout.
        images: Image folder, relative to ``root``; None: found by the layout.

    Raises:
        DataError: If the files are not there (the message says what is missing and how to get it), are in no known
            format, or have errors.
    """
    with remember_folders():
        return _read_usable(*find_source(root, split, annotations=annotations, images=images))


def _read_usable(source: Source, found: FoundData | None) -> Dataset:
    """Return a part of a data set that has no errors; warnings about it are logged."""
    dataset = read_source(source)
    if found is not None:
        dataset = _with_findings(dataset, found)
    dataset.require_usable()
    for finding in dataset.findings:
        if finding.severity == "warning":
            log.warning("%s: %s", source.annotations, finding)
    return dataset


def read_source(source: Source) -> Dataset:
    """Read one part of a data set. What is wrong with it becomes its findings.

    Raises:
        DataError: If nothing of it can be read.
    """
    return read_cached(source, lambda: _read(source))


def _read(source: Source) -> Dataset:
    note(*source.folders_upwards())
    with remember_folders():
        dataset = FORMATS[source.format].read(source)
    return dataset if source.names_file is None else select_part(dataset, source.names_file, source.part)


def read_parts(root: str | Path) -> dict[Part, Dataset]:
    """Read all parts of a data set that has any: train, val and test, or "all" where it is not divided.

    Raises:
        DataError: If it is not there or cannot be read. Errors inside of it stay findings.
    """
    found = find_data(root)
    if not found.parts:
        found.source("train")  # says what is missing
    return {part: _with_findings(read_source(source), found) for part, source in found.parts.items()}


def _with_findings(dataset: Dataset, found: FoundData) -> Dataset:
    return replace(dataset, findings=(*found.findings, *dataset.findings))


def find_source(
    root: str | Path, split: Split, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Source, FoundData | None]:
    """Return where a split is, and how it was found; arguments as for ``find_dataset``.

    Raises:
        DataError: If it is not there.
    """
    root = to_local(root)
    base = root if root.is_dir() else root.parent
    if annotations is None:
        found = find_data(root)
        source = found.source(split)
    else:
        found, source = None, find_named_file(base / to_local(annotations), split)
        source = replace(source, root=base if source.annotations.is_relative_to(base) else source.root)
    if images is not None:
        folder = base / to_local(images)
        if not folder.is_dir():
            raise DataError(f"image folder {folder} for the annotations in {source.annotations} does not exist")
        source = replace(source, folders=(folder, folder.parent))
    return source, found


def find_train_and_val(
    root: str | Path,
    *,
    train_annotations: str | Path | None = None,
    train_images: str | Path | None = None,
    val_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
    keep_parent: bool = False,
) -> tuple[Dataset, Dataset]:
    """Find and read the parts of a data set that a training needs; arguments as for ``find_dataset``, ``read_coco``.

    Raises:
        DataError: As ``find_dataset``; or if both parts are the same file without being named so.
    """
    with remember_folders():
        train, found = find_source(root, "train", annotations=train_annotations, images=train_images)
        val, _ = find_source(root, "val", annotations=val_annotations, images=val_images)
    train, val = (replace(source, keep_parent=keep_parent) for source in (train, val))
    if _are_same(train, val):
        if train_annotations is None or val_annotations is None:
            raise DataError(
                f"{train.annotations} has no parts for training and validation; divide it with: "
                f"{split_command(Path(root))}, or name another file by data.val_annotations"
            )
        log.warning("%s is used to train and to validate: the AP says nothing about new images", val.annotations)
    return _read_usable(train, found), _read_usable(val, None)


def _are_same(train: Source, val: Source) -> bool:
    def images(source: Source) -> tuple[object, ...]:
        names = (source.names_file, source.part) if source.names_file else None
        return source.annotations.resolve(), names, source.details

    return images(train) == images(val)
