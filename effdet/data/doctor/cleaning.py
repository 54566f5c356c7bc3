"""Write a cleaned copy of a data set: what the doctor finds and a program can put right, is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.data.conversion import WRITABLE, convert, with_same_classes
from effdet.data.dataset import Dataset
from effdet.data.doctor.examination import LEARNED, read_alike
from effdet.data.doctor.image_files import ImageFile, open_images
from effdet.data.doctor.repairs import (
    correct_sizes,
    join_entries,
    leave_out_boxes,
    leave_out_images,
    leave_out_shared,
    reframe_boxes,
    rename_images,
    resize_annotations,
    tidy_classes,
)
from effdet.data.findings import DataError, Finding, FindingList
from effdet.data.formats import Source, read_source
from effdet.data.formats.interface import Part
from effdet.data.formats.labels import SHIFTED
from effdet.progress import Report, report_nothing

if TYPE_CHECKING:
    from effdet.images.pixel_format import PixelFormat

_PART_OF: dict[str, Part] = {"data": "all", "train": "train", "val": "val", "test": "test"}


@dataclass(frozen=True)
class Cleaning:
    """What a cleaned copy has, and what is different in it."""

    folder: Path
    format: str
    changes: tuple[Finding, ...]  # notes that say what was done, each with the split
    images: Mapping[str, int]  # of each split
    boxes: Mapping[str, int]  # of each split

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        changes = [
            {"split": change.split, "text": change.text, "count": change.count, "examples": list(change.examples)}
            for change in self.changes
        ]
        return {
            "folder": str(self.folder),
            "format": self.format,
            "changes": changes,
            "images": dict(self.images),
            "boxes": dict(self.boxes),
        }


def clean(
    sources: Mapping[str, Source],
    folder: str | Path,
    report: Report = report_nothing,
    *,
    pixels_for: Callable[[Dataset], PixelFormat] | None = None,
) -> Cleaning:
    """Write a cleaned copy of a data set. The source stays as it is; image files are copied, not linked.

    Rows that cannot be read, images that cannot be used, repeated images and boxes, and boxes without an area are left
    out; boxes in another unit or order, of resized images, and beyond their image are put right; classes of nearly the
    same name are joined. What only a person can decide stays.

    Args:
        sources: Where each split is, by its name; "data" is a set that is not divided.
        folder: New, or empty.
        report: Called often while images are opened.
        pixels_for: Gives the format in which images are decoded, by those of train; None: 8-bit RGB.

    Returns:
        What was done. The format is that of the source, or COCO where it cannot be written.

    Raises:
        DataError: If the folder holds something, nothing of a split can be read, no box is left to learn, or the
            numbers of all classes seem to be shifted by one.
        OSError: If a file cannot be written.
    """
    changes: list[Finding] = []
    parts: dict[str, Dataset] = {}
    files: dict[str, dict[str, ImageFile]] = {}
    datasets = {split: read_source(source) for split, source in sources.items()}
    if pixels_for is not None:
        datasets = read_alike(datasets, pixels_for)
    for split, dataset in datasets.items():
        parts[split], files[split], done = _clean_split(dataset, split, sources[split].format, report)
        changes += [replace(change, split=split) for change in done.as_tuple()]
    together = FindingList()
    parts = leave_out_shared(parts, files, together)
    parts = _tidy_classes(parts, together)
    first = next(iter(sources.values()))
    to = first.format if first.format in WRITABLE else "coco"
    for split in [split for split, dataset in parts.items() if not dataset.has_usable_box()]:
        if split in LEARNED or len(parts) == 1:
            raise DataError(f"{sources[split].annotations}: a cleaned copy must have a box, but none is left")
        advice = "divide train with effdet data split" if split == "val" else ""
        together.extend([Finding("note", f"the copy has no part {split}, as no box of it is left", advice)])
        del parts[split]
    convert({_PART_OF[split]: dataset for split, dataset in parts.items()}, folder, to=to, images="copy")
    return Cleaning(
        folder=Path(folder).expanduser(),
        format=to,
        changes=(*changes, *together.as_tuple()),
        images={split: len(dataset) for split, dataset in parts.items()},
        boxes={split: len(dataset.labels) for split, dataset in parts.items()},
    )


def _clean_split(
    dataset: Dataset, split: str, format: str, report: Report
) -> tuple[Dataset, dict[str, ImageFile], FindingList]:
    done = FindingList()
    for finding in dataset.findings:
        if finding.text.startswith(SHIFTED):
            raise DataError(f"{dataset.annotation_file}: {finding}; a cleaned copy would have wrong classes")
        if finding.severity == "error" and finding.examples:  # of a row or file that reading left out
            done.extend(
                [
                    replace(
                        finding,
                        severity="note",
                        text=f"the copy does not have what reading could not use: {finding.text}",
                        advice="",
                    )
                ]
            )
    dataset = replace(dataset, findings=())
    dataset = rename_images(dataset, done)
    files = {file.name: file for file in open_images(dataset, split, report, decode=True)}
    dataset = correct_sizes(dataset, files, done)
    dataset = reframe_boxes(dataset, format, done)
    dataset = resize_annotations(dataset, files, done)
    dataset = join_entries(dataset, done)
    dataset = leave_out_images(dataset, files, done)
    return leave_out_boxes(dataset, done), files, done


def _tidy_classes(parts: Mapping[str, Dataset], done: FindingList) -> dict[str, Dataset]:
    named = {_PART_OF[split]: dataset for split, dataset in parts.items()}
    tidied = tidy_classes({str(part): dataset for part, dataset in with_same_classes(named).items()}, done)
    return {split: tidied[_PART_OF[split]] for split in parts}
