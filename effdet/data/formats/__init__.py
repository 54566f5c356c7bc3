"""Data sets on disk: find one by its layout and read it into columns. The only format so far is COCO's."""

from __future__ import annotations

import logging
from pathlib import Path

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats.coco import read_coco
from effdet.data.formats.layouts import Split, find_files

log = logging.getLogger(__name__)

__all__ = ["Split", "find_dataset", "find_files", "find_train_and_val"]


def find_dataset(
    root: str | Path, split: Split, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> Dataset:
    """Find and read one split of a data set. Warnings about it are logged.

    Known layouts below ``root``, in the order in which they are tried; S is the name of the split in any case: train,
    val, valid, validation, test:

        annotations/instances_S2017.json + S2017/          COCO 2017
        annotations/instances_S.json + S/ or images/S/     other years, CVAT
        S.json + images/, S/, images/S/ or the images beside it
        S/_annotations.coco.json + the images beside it, or in S/images/     Roboflow
        root is itself a .json file, which then serves for any split; images as in the third layout

    Names of images may also be relative to the annotation file.

    Args:
        root: Folder of the data set, or an annotation file. ``~`` is the home folder.
        split: "train", "val" or "test".
        annotations: Annotation file, relative to ``root``; None: found by the layout.
        images: Image folder, relative to ``root``; None: found by the layout.

    Raises:
        DataError: If the files are not there (the message says what is missing and how to get it), are not COCO, or
            have errors.
    """
    files = find_files(root, split, annotations=annotations, images=images)
    dataset = read_coco(files.annotations, files.folders).require_usable()
    for finding in dataset.findings:
        if finding.severity == "warning":
            log.warning("%s: %s", files.annotations, finding)
    return dataset


def find_train_and_val(
    root: str | Path,
    *,
    train_annotations: str | Path | None = None,
    train_images: str | Path | None = None,
    val_annotations: str | Path | None = None,
    val_images: str | Path | None = None,
) -> tuple[Dataset, Dataset]:
    """Find and read the parts of a data set that a training needs; arguments as for ``find_dataset``.

    Raises:
        DataError: As ``find_dataset``; or if both parts are the same file without being named so.
    """
    train = find_files(root, "train", annotations=train_annotations, images=train_images)
    val = find_files(root, "val", annotations=val_annotations, images=val_images)
    if train.annotations.resolve() == val.annotations.resolve():
        if train_annotations is None or val_annotations is None:
            raise DataError(
                f"{train.annotations} has no parts for training and validation; divide it into train.json and "
                "val.json, or name another file by data.val_annotations"
            )
        log.warning("%s is used to train and to validate: the AP says nothing about new images", val.annotations)
    return (
        find_dataset(root, "train", annotations=train_annotations, images=train_images),
        find_dataset(root, "val", annotations=val_annotations, images=val_images),
    )
