"""Run every check of the doctor on the splits of a data set, or for a training those that need no image."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.doctor.alike_images import AlikeImages
from effdet.data.doctor.anchor_fit import AnchorFit, Network, check_anchors, check_network_input
from effdet.data.doctor.box_checks import check_boxes, check_number_of_boxes, namer
from effdet.data.doctor.box_frames import check_box_frames
from effdet.data.doctor.class_checks import check_classes, check_same_classes, class_counts
from effdet.data.doctor.examined_files import ExaminedFiles
from effdet.data.doctor.image_files import (
    ImageFile,
    check_files,
    check_leakage,
    check_other_splits,
    check_unlisted,
    copies_in,
    open_images,
)
from effdet.data.doctor.image_sizes import fit_sizes
from effdet.data.findings import DataError, Finding, Severity
from effdet.data.formats import Source, read_source
from effdet.images.pixel_format import PixelFormat
from effdet.progress import Report, report_nothing

_ORDER: tuple[Severity, ...] = ("error", "warning", "note")
LEARNED = ("train", "data")  # the split that a model learns; "data" is a set that is not divided


@dataclass
class Examination:
    """What each split holds, and what is to be said about it, errors first."""

    splits: list[dict[str, Any]] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    network: Network | None = None  # what the boxes were compared with
    anchors: AnchorFit | None = None  # how its anchors fit the boxes of train
    estimate: dict[str, Any] | None = None  # of the memory and time of a training on this machine

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
        network = None
        if self.network is not None:
            network = {"name": self.network.name, "image_size": list(self.network.image_size)}
            network |= {} if self.anchors is None else self.anchors.to_dict()
        return {
            "splits": self.splits,
            "findings": findings,
            "errors": self.has_errors,
            "network": network,
            "estimate": self.estimate,
        }


def examine(
    sources: Mapping[str, Source],
    *,
    decode_images: bool = True,
    network_for: Callable[[Dataset], Network | None] | None = None,
    pixels_for: Callable[[Dataset], PixelFormat] | None = None,
    report: Report = report_nothing,
) -> Examination:
    """Run every check on the splits of a data set.

    Args:
        sources: Where each split is, by its name; "train" is compared with the others.
        decode_images: Decode every image and compare how they look; else only see whether it exists.
        network_for: Gives the network that will learn the images of train; None: nothing that depends on it is checked.
        pixels_for: Gives the format in which images are decoded, by those of train; None: 8-bit RGB.
        report: Called often while images are opened.
    """
    result = Examination()
    datasets = _read(sources, result)
    if pixels_for is not None and decode_images:
        _set_pixels(datasets, pixels_for, result)
    examined = {split: ExaminedFiles(dataset, split) for split, dataset in datasets.items()} if decode_images else {}
    files = {
        split: open_images(
            dataset, split, report, decode=decode_images, known=examined[split].files if decode_images else None
        )
        for split, dataset in datasets.items()
    }
    _fit_sizes(datasets, files, result)
    learned = next((datasets[split] for split in LEARNED if split in datasets), None)
    if network_for is not None and learned is not None and len(learned):
        result.network = network_for(learned)
    for split, dataset in datasets.items():
        result.add(split, dataset.findings)
        result.splits.append(_summary(split, dataset))
    formats = {split: sources[split].format for split in datasets}
    findings, result.anchors = check_columns(datasets, formats, result.network)
    for finding in findings:
        result.add(finding.split, [finding])
    _check_images(datasets, files, examined, result, report)
    return result


def _read(sources: Mapping[str, Source], result: Examination) -> dict[str, Dataset]:
    """Return the splits that can be read."""
    datasets: dict[str, Dataset] = {}
    for split, source in sources.items():
        try:
            datasets[split] = read_source(source)
        except DataError as error:
            result.add(split, [Finding("error", str(error), "correct or remove the file")])
    return datasets


def _fit_sizes(datasets: dict[str, Dataset], files: Mapping[str, list[ImageFile]], result: Examination) -> None:
    """Let all splits have sizes of images that suit the boxes, and say where the annotated ones do not."""
    for split, dataset in datasets.items():
        fitted = fit_sizes(dataset, {file.name: file for file in files[split]})
        datasets[split] = replace(dataset, sizes=fitted.sizes)
        result.add(split, fitted.findings(dataset))


def _set_pixels(
    datasets: dict[str, Dataset], pixels_for: Callable[[Dataset], PixelFormat], result: Examination
) -> None:
    """Let all splits be read in the format that the images of train, or else of the first split, have."""
    if not datasets:
        return
    try:
        datasets.update(read_alike(datasets, pixels_for))
    except DataError as error:
        result.add(_first_to_learn(datasets), [Finding("error", str(error))])


def read_alike(datasets: Mapping[str, Dataset], pixels_for: Callable[[Dataset], PixelFormat]) -> dict[str, Dataset]:
    """Return the splits, at least one, in the format that the images of train, or else of the first split, have.

    Raises:
        DataError: From ``pixels_for``, if these images have none.
    """
    pixels = pixels_for(datasets[_first_to_learn(datasets)])
    return {split: replace(dataset, pixels=pixels) for split, dataset in datasets.items()}


def _first_to_learn(datasets: Mapping[str, Dataset]) -> str:
    return next(split for split in (*LEARNED, *datasets) if split in datasets)


def check_columns(
    datasets: Mapping[str, Dataset],
    formats: Mapping[str, str],
    network: Network | None,
    *,
    most_boxes: int | None = None,
) -> tuple[list[Finding], AnchorFit | None]:
    """Run all checks that need no image file, and return what is to be said beyond ``Dataset.findings``.

    Args:
        datasets: The splits by name.
        formats: Name of the format that each was read in.
        network: What will learn train and be measured on the others; None: not known.
        most_boxes: Of a split with more boxes than this, the boxes of so many images as hold this number are looked at,
            evenly spread, and all classes; None: all boxes.

    Returns:
        The findings, and how the anchors fit the boxes of train.
    """
    findings: list[Finding] = []
    anchors = None
    for split, dataset in datasets.items():
        looked_at = sample_of(dataset, most_boxes)
        own = [*check_classes(dataset, split), *check_annotations(looked_at, formats[split], network)]
        if network is not None and split in LEARNED:
            missed, anchors = check_anchors(looked_at, network)
            own += missed
        findings += [replace(finding, split=split) for finding in own]
    for split, other in datasets.items():
        if "train" in datasets and split != "train":
            findings += check_same_classes(datasets["train"], other, split)
    return findings, anchors


def sample_of(dataset: Dataset, most_boxes: int | None) -> Dataset:
    """Return images evenly spread over a data set that hold about ``most_boxes`` boxes; all if it has no more."""
    if most_boxes is None or len(dataset.labels) <= most_boxes:
        return dataset
    count = max(1, len(dataset) * most_boxes // len(dataset.labels))
    kept = np.linspace(0, len(dataset) - 1, count).astype(np.int64)
    return dataset.without(np.setdiff1d(np.arange(len(dataset)), kept))


def check_annotations(dataset: Dataset, format: str, network: Network | None) -> Iterator[Finding]:
    """Run the checks of the boxes of one split that need no image file.

    Args:
        dataset: The split.
        format: Name of the format that it was read in.
        network: What will learn it, or measured on it; None: not known.
    """
    yield from check_boxes(dataset)
    yield from check_box_frames(dataset, format, namer(dataset))
    if network is not None:
        yield from check_network_input(dataset, network)
        yield from check_number_of_boxes(dataset, network.max_detections)


def _check_images(
    datasets: Mapping[str, Dataset],
    files: Mapping[str, list[ImageFile]],
    examined: Mapping[str, ExaminedFiles],
    result: Examination,
    report: Report,
) -> None:
    """Check the files; ``examined`` holds what is remembered of each split, nothing if images are not decoded."""
    for split, dataset in datasets.items():
        result.add(split, check_files(dataset, files[split]))
    for finding in check_other_splits(datasets, files):
        result.add(finding.split, [finding])
    every_file = [file for opened in files.values() for file in opened]
    result.add("", check_unlisted(list(datasets.values()), every_file))
    for split, opened in files.items():
        if "train" in files and split != "train":
            result.add("", check_leakage(files["train"], opened, split))
    if examined:
        hashes = _check_alike(datasets, files, examined, result, report)
        for split, remembered in examined.items():
            remembered.remember(files[split], hashes.get(split, {}))


def _check_alike(
    datasets: Mapping[str, Dataset],
    files: Mapping[str, list[ImageFile]],
    examined: Mapping[str, ExaminedFiles],
    result: Examination,
    report: Report,
) -> Mapping[str, Mapping[str, bytes]]:
    """Look for images that look the same; return the hashes of each split by name."""
    try:
        alike = AlikeImages(datasets, report, {split: remembered.hashes for split, remembered in examined.items()})
    except ImportError as error:
        text = str(error).partition(";")[0]
        result.add("", [Finding("note", "images that look the same were not looked for", text)])
        return {}
    train = files.get("train", [])
    for split, finding in alike.check({split: copies_in(opened, train) for split, opened in files.items()}):
        result.add(split, [finding])
    return alike.hashes


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
