"""The data doctor: look for everything that is wrong with a data set, instead of stopping at the first fault.

error    training or evaluation would fail or be wrong
warning  it works, but is seldom meant so
note     good to know
"""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effdet.data.checks import (
    FILE_CHECKS,
    SPLIT_CHECKS,
    AnchorOverlap,
    check_leakage,
    check_network_input,
    check_same_classes,
)
from effdet.data.raw import ERROR, NOTE, WARNING, Finding, ImageFile, RawSplit, Row, key_of, positive, read_raw
from effdet.images.reading import ImageError, read_image
from effdet.progress import Report, report_nothing

_EXIF_ORIENTATION = 0x0112
_THREADS = 4  # decoding runs outside of the interpreter lock


@dataclass
class Inspection:
    """The result: what each split holds, and what is to be said about it."""

    splits: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.level == ERROR for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        findings = [{**vars(finding), "examples": list(finding.examples)} for finding in self.findings]
        return {"splits": self.splits, "findings": findings, "errors": self.has_errors}


def inspect(
    files: dict[str, tuple[Path, Path]],
    *,
    open_images: bool = True,
    image_size: tuple[int, int] | None = None,
    anchor_overlap: AnchorOverlap | None = None,
    report: Report = report_nothing,
) -> Inspection:
    """Run every check on the splits of a data set.

    Args:
        files: Annotation file and image folder of each split, by its name.
        open_images: Decode every image; else only look whether it exists.
        image_size: Network input (height, width) for the checks that depend on it.
        anchor_overlap: Gives the IoU of boxes in the network input with their best anchors; needs ``image_size``.
        report: Called often while images are opened.
    """
    result = Inspection()
    splits: list[RawSplit] = []
    opened: dict[str, list[ImageFile]] = {}
    for name, (file, folder) in files.items():
        split, faults = read_raw(name, file, folder)
        result.findings += faults
        if split is None:
            continue
        splits.append(split)
        opened[name] = _open_all(split, open_images, report)
        for check in SPLIT_CHECKS:
            result.findings += check(split)
        for file_check in FILE_CHECKS:
            result.findings += file_check(split, opened[name])
        if image_size is not None:
            result.findings += check_network_input(split, image_size, anchor_overlap)
        result.splits.append(_summary(split))
    if len(splits) == 2:
        result.findings += check_same_classes(*splits)
        result.findings += check_leakage(*(opened[split.name] for split in splits))
    order = (ERROR, WARNING, NOTE)
    result.findings.sort(key=lambda finding: order.index(finding.level))
    return result


def _open_all(split: RawSplit, open_images: bool, report: Report) -> list[ImageFile]:
    """Return what each listed image file holds, in the file's order, each file once."""
    rows = list({row["file_name"]: row for row in split.images if isinstance(row.get("file_name"), str)}.values())
    opened = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for result in pool.map(lambda row: _open(split.folder, row, open_images), rows):
            opened.append(result)
            report(f"opening the images of {split.name}", len(opened), len(rows))
    return opened


def _open(folder: Path, row: Row, open_images: bool) -> ImageFile:
    name, path = row["file_name"], folder / row["file_name"]
    if not path.is_file():
        return ImageFile(name, fault="missing")
    if not open_images:
        return ImageFile(name)
    digest = hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()
    height, width = positive(row.get("height")), positive(row.get("width"))
    expected = (int(height), int(width)) if height > 0 < width else None
    try:
        found = read_image(path, size=expected).shape[:2]
        with Image.open(path) as opened:
            orientation = int(opened.getexif().get(_EXIF_ORIENTATION, 1))
    except (ImageError, OSError) as error:
        return ImageFile(name, digest, fault=f"unreadable: {str(error).removeprefix(f'{path}: ')}")
    if expected and found != expected:
        fault = f"size: file {found[1]}×{found[0]}, annotations {expected[1]}×{expected[0]}"
        return ImageFile(name, digest, fault, orientation)
    return ImageFile(name, digest, orientation=orientation)


def _summary(split: RawSplit) -> dict[str, Any]:
    with_boxes = {key_of(row.get("image_id")) for row in split.boxed}
    sides = np.sqrt(np.clip(split.boxes[:, 2], 0, None) * np.clip(split.boxes[:, 3], 0, None))
    return {
        "split": split.name,
        "file": str(split.file),
        "images": len(split.images),
        "images_without_boxes": sum(key_of(row.get("id")) not in with_boxes for row in split.images),
        "boxes": len(split.boxed),
        "crowd_boxes": sum(bool(row.get("iscrowd")) for row in split.boxed),
        "box_side_percentiles": np.percentile(sides, [5, 50, 95]).round(1).tolist() if len(sides) else [],
        "boxes_of_class": split.class_counts(),
    }
