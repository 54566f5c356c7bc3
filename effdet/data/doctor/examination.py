"""Run every check of the doctor on the splits of a data set."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.doctor.annotation_checks import (
    AnchorOverlap,
    check_annotations,
    check_network_input,
    check_same_classes,
    class_counts,
)
from effdet.data.doctor.image_files import ImageFile, check_files, check_leakage, check_unlisted, open_images
from effdet.data.findings import DataError, Finding, Severity
from effdet.data.formats import Source, read_source
from effdet.progress import Report, report_nothing

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")


@dataclass
class Examination:
    """What each split holds, and what is to be said about it, errors first."""

    splits: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    @property
    def has_errors(self) -> bool:
        """Whether any finding is an error."""
        return any(finding.severity == "error" for finding in self.findings)

    def add(self, split: str, findings: Iterable[Finding]) -> None:
        """Add findings about a split, "" for those about several."""
        self.findings += [replace(finding, split=split) for finding in findings]
        self.findings.sort(key=lambda finding: _ORDER.index(finding.severity))

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        findings = [{**vars(finding), "examples": list(finding.examples)} for finding in self.findings]
        return {"splits": self.splits, "findings": findings, "errors": self.has_errors}


def examine(
    sources: Mapping[str, Source],
    *,
    decode_images: bool = True,
    image_size: tuple[int, int] | None = None,
    anchor_overlap: AnchorOverlap | None = None,
    report: Report = report_nothing,
) -> Examination:
    """Run every check on the splits of a data set.

    Args:
        sources: Where each split is, by its name; "train" is compared with the others.
        decode_images: Decode every image; else only look whether it exists.
        image_size: Network input (height, width) for the checks that depend on it.
        anchor_overlap: Gives the IoU of boxes in the network input with their best anchors; needs ``image_size``.
        report: Called often while images are opened.
    """
    result = Examination()
    splits: dict[str, tuple[Dataset, list[ImageFile]]] = {}
    for split, source in sources.items():
        try:
            dataset = read_source(source)
        except DataError as error:
            result.add(split, [Finding("error", str(error))])
            continue
        opened = open_images(dataset, split, report, decode=decode_images)
        splits[split] = dataset, opened
        result.add(split, dataset.findings)
        result.add(split, check_annotations(dataset))
        result.add(split, check_files(dataset, opened))
        if image_size is not None:
            result.add(split, check_network_input(dataset, image_size, anchor_overlap))
        result.splits.append(_summary(split, dataset))
    _compare(splits, result)
    return result


def _compare(splits: Mapping[str, tuple[Dataset, list[ImageFile]]], result: Examination) -> None:
    every_file = [file for _, files in splits.values() for file in files]
    for split, (dataset, _) in splits.items():
        result.add(split, check_unlisted(dataset, every_file))
    if "train" not in splits:
        return
    train, train_files = splits["train"]
    for split, (other, files) in splits.items():
        if split != "train":
            result.add("", check_same_classes(train, other, split))
            result.add("", check_leakage(train_files, files, split))


def _summary(split: str, dataset: Dataset) -> dict[str, Any]:
    sides = np.sqrt(np.clip(dataset.boxes_xywh[:, 2:], 0, None).prod(axis=1))
    return {
        "split": split,
        "file": str(dataset.annotation_file),
        "images": len(dataset),
        "images_without_boxes": int((np.diff(dataset.offsets) == 0).sum()),
        "boxes": len(dataset.boxes_xywh),
        "crowd_boxes": int(dataset.is_crowd.sum()),
        "box_side_percentiles": np.percentile(sides, [5, 50, 95]).round(1).tolist() if len(sides) else [],
        "boxes_of_class": class_counts(dataset),
    }
