"""Divide a data set into train, val and test: seeded, without leaks, with every class in each part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import read_source
from effdet.data.formats.finding import find_data
from effdet.data.formats.interface import Part, Split
from effdet.data.formats.split_file import SPLIT_FILE, write_split_file
from effdet.data.near_duplicates import Likeness, group_images
from effdet.images.remote_files import is_address
from effdet.progress import Report, report_nothing

_METHOD = (
    "images that look the same stay in one part; then the images with the rarest class first, each into the part that "
    "lacks most of that class"
)


@dataclass(frozen=True)
class Division:
    """A data set and the part of each of its images."""

    file: Path  # splits.json
    dataset: Dataset
    part_of: NDArray[np.str_]  # (I,) "train", "val" or "test"
    num_groups: int  # of two or more images that look the same
    num_grouped: int  # images in them

    def rows(self) -> list[dict[str, Any]]:
        """Return for each part its number of images, and of boxes by class."""
        labels_of = self.part_of[self.dataset.image_of_box]
        counts = {
            part: np.bincount(self.dataset.labels[labels_of == part], minlength=self.dataset.num_classes)
            for part in np.unique(self.part_of).tolist()
        }
        return [
            {
                "part": part,
                "images": int((self.part_of == part).sum()),
                "boxes": dict(zip(self.dataset.class_names, counts[part].tolist(), strict=True)),
            }
            for part in ("train", "val", "test")
            if part in counts
        ]


def split_data(
    root: str | Path,
    *,
    val: float,
    test: float = 0.0,
    seed: int = 0,
    likeness: Likeness = "similar",
    report: Report = report_nothing,
) -> Division:
    """Divide a data set, and write which image belongs to which part to ``splits.json`` beside its annotations.

    The annotations stay as they are; every command reads ``splits.json`` from then on. Where the data set has a part
    train and no val, val is taken out of train, and a part test stays as it is.

    Args:
        root: Folder of the data set, or its annotation file.
        val: Part of the images to validate on, above 0 and below 1.
        test: Part of the images to test on; 0: none.
        seed: Another seed gives another division; the same seed the same one.
        likeness: Which images must stay together: "similar" or "exact", as for ``group_images``.
        report: Called after each image.

    Raises:
        DataError: If the data set has a val part already, has errors, or has too few images.
        ValueError: If the parts are not above 0 and together below 1.
        ImportError: If imagehash is needed and missing.
        OSError: If the file cannot be written.
    """
    if not (0 < val < 1 and 0 <= test < 1 and val + test < 1):
        raise ValueError(f"val must be above 0, and val + test below 1, got {val:g} and {test:g}; such as 0.2 and 0.1")
    if is_address(root):
        raise DataError(f"{root}: only a data set in a folder can be divided; divide it before it is uploaded")
    root = Path(root).expanduser()
    found = find_data(root)
    part: Part = "all" if "all" in found.parts else "train"
    if "val" in found.parts or (test and "test" in found.parts):
        there = " and ".join(found.parts)
        raise DataError(
            f"{root} is divided already: it has {there}; remove {SPLIT_FILE}, or the files of a part, first"
        )
    source = found.source("train") if part == "train" else found.parts["all"]
    dataset = read_source(source).require_usable()
    groups = group_images(dataset, likeness, report)
    wanted: dict[Split, float] = {"train": 1 - val - test, "val": val, **({"test": test} if test else {})}
    part_of = divide(dataset, groups, wanted, seed)
    missing = [name for name in wanted if not (part_of == name).any()]
    if missing:
        raise DataError(
            f"{root} must have enough images that do not look the same for {', '.join(wanted)}, but its "
            f"{len(dataset):,} images are {len(np.unique(groups)):,} groups, and none is left for {missing[0]}"
        )
    file = (root if root.is_dir() else root.parent) / SPLIT_FILE
    names = np.array(dataset.names.tolist(), dtype=object)
    content = {
        "data": _relative(source.annotations if not root.is_dir() else root, file.parent),
        "part": part,
        "seed": seed,
        "parts": wanted,
        "likeness": likeness,
        "method": _METHOD,
        "images": {name: names[part_of == name].tolist() for name in wanted},
    }
    write_split_file(file, content)
    sizes = np.bincount(groups)
    return Division(file, dataset, part_of, int((sizes > 1).sum()), int(sizes[sizes > 1].sum()))


def _relative(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix()


def divide(dataset: Dataset, groups: NDArray[np.int64], wanted: Mapping[Split, float], seed: int) -> NDArray[np.str_]:
    """Return (I,) the part of each image.

    Groups go one by one, those with the rarest class first. The first group of a class goes to train, the others to the
    part that lacks most images of the class, or of the parts that lack within one image the same, to the one that is
    emptiest for its size. Images without boxes count as a class of their own.

    Args:
        dataset: The images.
        groups: (I,) number of the group of each image, from 0; a group stays together.
        wanted: How large each part shall be, train first; they sum to 1.
        seed: For the order of groups that are alike in all this.
    """
    num_groups = int(groups.max()) + 1
    has = np.zeros((num_groups, dataset.num_classes + 2), dtype=np.int64)  # images with each class, without any, all
    pairs = np.unique(np.stack([dataset.image_of_box, dataset.labels]), axis=1)
    np.add.at(has, (groups[pairs[0]], pairs[1]), 1)
    empty = np.flatnonzero(np.diff(dataset.offsets) == 0)
    np.add.at(has, (groups[empty], np.full(len(empty), dataset.num_classes)), 1)
    has[:, -1] = np.bincount(groups, minlength=num_groups)

    totals = has.sum(axis=0)
    rarest = np.where(has[:, :-1] > 0, totals[:-1], np.iinfo(np.int64).max).argmin(axis=1)
    shuffled = np.random.default_rng(seed).permutation(num_groups)
    order = shuffled[np.lexsort((-has[shuffled, -1], rarest[shuffled], totals[rarest[shuffled]]))]
    lacking = np.outer(list(wanted.values()), totals).astype(np.float64)  # (parts, classes + 2)
    parts = np.zeros(num_groups, dtype=np.int64)
    learned: set[int] = set()  # classes that train has
    shares = np.array(list(wanted.values()))
    for group in order.tolist():
        of_class, of_all = lacking[:, rarest[group]], lacking[:, -1] / shares
        parts[group] = (
            np.where(of_class > of_class.max() - 1, of_all, -np.inf).argmax() if rarest[group] in learned else 0
        )
        if parts[group] == 0:
            learned.update(np.flatnonzero(has[group, :-1]).tolist())
        lacking[parts[group]] -= has[group]
    return np.array(list(wanted))[parts][groups]
