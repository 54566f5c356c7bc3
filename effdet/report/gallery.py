"""The pictures of a report: the worst images with their boxes, and crops of single mistakes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.evaluation.analysis import Analysis
from effdet.evaluation.error_kinds import NAMES, ErrorKind
from effdet.evaluation.worst_images import hardest_false_positives, hardest_misses
from effdet.report.thumbnails import crop, encode_all, shrink

MAX_IMAGES = 200
MAX_CROPS = 18  # of each kind
MAX_BYTES = 3_600_000  # of the pictures of the gallery
_SHOWN_SCORE = 0.05  # detections below it are not drawn
_SHOWN_DETECTIONS = 60  # of an image

ReadImage = Callable[[int], "NDArray[np.uint8] | None"]
"""Gives image number ``index`` of the data set as RGB, or None where it cannot be read."""

_CROPS = {
    "false_positives": ("Hardest false positives", "Wrong detections with the highest scores."),
    "misses": ("Largest missed objects", "Boxes that no detection of the recommended threshold found."),
    "unlabelled": ("No label here?", "Confident detections where nothing is labelled. Perhaps a label is missing."),
    "misnamed": ("Another name?", "Confident detections on a box that is labelled as something else."),
    "unseen": ("An object here?", "Labels that no detection of any class comes near. Perhaps nothing is there."),
}


@dataclass
class _Crop:
    kind: str
    index: int  # of the image in the data set
    box: tuple[float, float, float, float]
    text: str
    source: str = ""


@dataclass
class _Shown:
    """An image of the gallery."""

    rank: int  # of the image in the analysis
    picture: Image.Image | None = None
    size: tuple[int, int] | None = None  # height, width
    crops: list[_Crop] = field(default_factory=list)


def make_gallery(
    analysis: Analysis, names: Callable[[int], str], read: ReadImage, *, max_images: int = MAX_IMAGES
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the images of the gallery, the worst first, and the groups of crops; plain values for JSON.

    Args:
        analysis: Of the detections.
        names: Gives the name of the file of image number ``index``.
        read: Gives its pixels.
        max_images: That are shown.
    """
    crops = _choose_crops(analysis)
    images = [_Shown(rank) for rank in analysis.image_scores.worst_first()[:max_images].tolist()]
    shown = {int(analysis.indices[image.rank]): image for image in images}
    for index in dict.fromkeys([*shown, *(item.index for item in crops)]):
        pixels = read(index)
        if pixels is None:
            continue
        for item in crops:
            if item.index == index:
                item.source = crop(pixels, item.box)
        if index in shown:
            shown[index].size = pixels.shape[:2]
            shown[index].picture = shrink(pixels)
    sources = encode_all([image.picture for image in images], MAX_BYTES)
    boxes = _rows_by_image(analysis.matches.true_images, analysis.matches.num_images)
    found = _rows_by_image(analysis.matches.images, analysis.matches.num_images)
    scores = analysis.matches.found_scores
    entries = [
        _entry(analysis, image, source, names, boxes(image.rank), found(image.rank), scores)
        for image, source in zip(images, sources, strict=True)
    ]
    return entries, _crop_groups(crops, names)


def _rows_by_image(images: NDArray[np.int64], count: int) -> Callable[[int], NDArray[np.int64]]:
    """Return what gives the rows of an image; the rows are ordered by image."""
    ends = np.searchsorted(images, np.arange(count + 1))
    return lambda rank: np.arange(ends[rank], ends[rank + 1])


def _entry(
    analysis: Analysis,
    image: _Shown,
    source: str,
    names: Callable[[int], str],
    boxes: NDArray[np.int64],
    found: NDArray[np.int64],
    found_scores: NDArray[np.float64],
) -> dict[str, Any]:
    matches, scores = analysis.matches, analysis.image_scores
    found = found[matches.scores[found] >= _SHOWN_SCORE][:_SHOWN_DETECTIONS]
    corners = np.concatenate([matches.true_boxes[boxes], matches.boxes[found]])
    height, width = image.size or _size_around(corners)
    return {
        "file": names(int(analysis.indices[image.rank])),
        "width": width,
        "height": height,
        "source": source,
        "f1": float(scores.f1[image.rank]),
        "boxes": [_true_box(analysis, found_scores, row) for row in boxes.tolist()],
        "found": [_found_box(analysis, row) for row in found.tolist()],
    }


def _true_box(analysis: Analysis, found_scores: NDArray[np.float64], row: int) -> list[Any]:
    """Return x, y, width, height, label, score of the detection that found it (0: none; -1: it is a crowd)."""
    matches = analysis.matches
    score = -1.0 if matches.is_crowd[row] else round(float(found_scores[row]), 4)
    return [*_short(matches.true_boxes[row]), int(matches.true_labels[row]), score]


def _found_box(analysis: Analysis, row: int) -> list[Any]:
    """Return x, y, width, height, label, score, kind of error: "" where it is true, "crowd" where it is ignored."""
    matches = analysis.matches
    kind = NAMES.get(ErrorKind(int(analysis.error_of.kinds[row])), "")
    kind = "crowd" if matches.is_ignored[row] else kind
    return [*_short(matches.boxes[row]), int(matches.labels[row]), round(float(matches.scores[row]), 4), kind]


def _short(box: NDArray[np.float64]) -> list[float]:
    return [round(float(value), 1) for value in box]


def _size_around(boxes: NDArray[np.float64]) -> tuple[int, int]:
    """Return the height and width of an image that nobody knows: so large that all boxes are in it."""
    if not len(boxes):
        return 100, 100
    width, height = (boxes[:, :2] + boxes[:, 2:]).max(axis=0)
    return max(1, int(height) + 1), max(1, int(width) + 1)


def _choose_crops(analysis: Analysis) -> list[_Crop]:
    matches, threshold = analysis.matches, analysis.image_scores.threshold
    suspects = analysis.suspects

    def detections(kind: str, rows: NDArray[np.int64]) -> Iterable[_Crop]:
        for row in rows[:MAX_CROPS].tolist():
            error = NAMES.get(ErrorKind(int(analysis.error_of.kinds[row])), "")
            text = f"{analysis.class_names[matches.labels[row]]} {matches.scores[row]:.2f}"
            near = int(analysis.error_of.near_box[row])
            labelled = f", labelled {analysis.class_names[matches.true_labels[near]]}" if kind == "misnamed" else ""
            explained = f" ({error})" if kind == "false_positives" else ""
            index = int(analysis.indices[matches.images[row]])
            yield _Crop(kind, index, _box(matches.boxes[row]), text + labelled + explained)

    def boxes(kind: str, rows: NDArray[np.int64]) -> Iterable[_Crop]:
        for row in rows[:MAX_CROPS].tolist():
            index = int(analysis.indices[matches.true_images[row]])
            yield _Crop(kind, index, _box(matches.true_boxes[row]), analysis.class_names[matches.true_labels[row]])

    return [
        *detections("false_positives", hardest_false_positives(matches)),
        *boxes("misses", hardest_misses(matches, threshold)),
        *detections("unlabelled", suspects.unlabelled),
        *detections("misnamed", suspects.misnamed),
        *boxes("unseen", suspects.unseen),
    ]


def _box(box: NDArray[np.float64]) -> tuple[float, float, float, float]:
    x, y, width, height = (float(value) for value in box)
    return x, y, width, height


def _crop_groups(crops: list[_Crop], names: Callable[[int], str]) -> list[dict[str, Any]]:
    return [
        {
            "kind": kind,
            "title": title,
            "about": about,
            "crops": [
                {"file": names(item.index), "text": item.text, "source": item.source}
                for item in crops
                if item.kind == kind
            ],
        }
        for kind, (title, about) in _CROPS.items()
    ]
