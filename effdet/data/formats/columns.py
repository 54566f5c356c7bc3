"""Make a ``Dataset`` out of what a reader has read: order the boxes by image, find the image files, check the boxes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.archives import find_spans, stored_image
from effdet.data.dataset import Dataset, clip_boxes
from effdet.data.dependencies import note_images
from effdet.data.files import choose_folder, foreign_folder
from effdet.data.findings import FindingList
from effdet.data.formats.image_names import check_inside, shorten_names
from effdet.data.formats.values import short
from effdet.data.many_calls import call_for_each
from effdet.data.text_column import TextColumn
from effdet.images.header import upright_size

Array = NDArray[Any]

NOTHING_TO_LEARN = "there is nothing to learn or to measure"  # advice of errors about a set that is right but for this

_ROWS = 1_000_000  # boxes that are looked at together


@dataclass(kw_only=True)
class Columns:
    """What a reader has read, images and boxes each in the order of the files. Missing columns are made up."""

    file: Path  # what messages call the set
    folders: Sequence[Path]  # candidates for the image folder; none: the images cannot be read
    names: TextColumn  # I
    images: Array  # (M,) number of the image that each box belongs to
    boxes: Array  # (M, 4) x, y, width, height
    labels: Array  # (M,) in [0, K)
    class_names: Sequence[str]  # K
    category_ids: Sequence[int] | None = None  # K, ascending; None: from 1
    image_ids: Array | TextColumn | None = None  # I; None: from 1
    sizes: Array | None = None  # (I, 2) height, width; 0 or None where only the image file tells
    spans: Array | None = None  # (I, 2) start and length of images in their archives, as far as an index tells them
    archive_sizes: Mapping[str, int] = field(default_factory=dict)  # bytes of the archives that the index is for
    is_crowd: Array | None = None  # (M,); None: none is
    areas: Array | None = None  # (M,); NaN or None: width × height
    annotation_ids: Array | None = None  # (M,) each once; None: from 1
    are_relative: bool = False  # the boxes are parts of the image's width and height
    findings: FindingList = field(default_factory=FindingList)


def to_dataset(columns: Columns) -> Dataset:
    """Return the data set, with findings about what training and evaluation cannot use."""
    findings = columns.findings
    if not len(columns.names):
        findings.add("error", "there are no images", advice="list the images")
    if not len(columns.class_names):
        findings.add("error", "there are no categories", advice="list the classes")
    columns.names = shorten_names(columns.names, findings)
    folder, names = _find_images(columns)
    if columns.folders:
        check_inside(names, folder, _roots(columns), findings)
    sizes = np.zeros((len(names), 2), np.int64) if columns.sizes is None else columns.sizes.astype(np.int64)
    spans = find_spans(folder, names, columns.spans, columns.archive_sizes) if columns.folders else None
    if columns.folders:
        complete_sizes(sizes, folder, names, spans)

    order = _order(columns.images)
    images, labels = (
        columns.images[order].astype(np.int64, copy=False),
        columns.labels[order].astype(np.int64, copy=False),
    )
    boxes = columns.boxes[order].astype(np.float64, copy=False).reshape(-1, 4)
    if columns.are_relative:
        boxes = boxes * sizes[images][:, [1, 0, 1, 0]]
    kept = _are_finite(boxes)
    if columns.are_relative:
        kept &= (sizes[images] > 0).all(axis=1)
    if not kept.all():
        _name_left_out(boxes, images, kept, names, findings)
        order = np.arange(len(columns.images))[order][kept]
        images, labels, boxes = images[kept], labels[kept], boxes[kept]

    ids = _chosen(columns.annotation_ids, order)
    dataset = Dataset(
        class_names=tuple(columns.class_names),
        category_ids=tuple(
            range(1, len(columns.class_names) + 1) if columns.category_ids is None else columns.category_ids
        ),
        image_ids=np.arange(1, len(names) + 1) if columns.image_ids is None else columns.image_ids,
        names=names,
        folder=folder,
        sizes=sizes,
        spans=spans,
        boxes_xywh=boxes,
        labels=labels,
        is_crowd=np.zeros(len(boxes), bool) if columns.is_crowd is None else columns.is_crowd[order].astype(bool),
        areas=_areas(_chosen(columns.areas, order), boxes),
        annotation_ids=np.arange(1, len(boxes) + 1) if ids is None else ids.astype(np.int64),
        offsets=np.concatenate([[0], np.cumsum(np.bincount(images, minlength=len(names)))]).astype(np.int64),
        annotation_file=columns.file,
    )
    name = _names_of_boxes(dataset, has_ids=columns.annotation_ids is not None)
    _check_crowds(dataset, name, findings)
    _check_boxes(dataset, name, findings)
    return replace(dataset, findings=findings.as_tuple())


def _order(images: Array) -> Array | slice:
    """Return which place each box gets: those of an image stand together, in the order of the file."""
    is_in_order = (images[1:] >= images[:-1]).all()  # then nothing needs to be copied
    return slice(None) if is_in_order else np.argsort(images, kind="stable")


def _chosen(column: Array | None, order: Array | slice) -> Array | None:
    return None if column is None else column[order]


def _areas(given: Array | None, boxes: Array) -> Array:
    products = boxes[:, 2] * boxes[:, 3]
    return products if given is None else np.where(np.isnan(given), products, given)


def _are_finite(boxes: Array) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        ends, products = boxes[:, :2] + boxes[:, 2:], boxes[:, 2] * boxes[:, 3]
        finite: Array = np.isfinite(boxes).all(axis=1) & np.isfinite(ends).all(axis=1) & np.isfinite(products)
        return finite


def _name_left_out(boxes: Array, images: Array, kept: Array, names: TextColumn, findings: FindingList) -> None:
    finite = _are_finite(boxes)
    rows = np.flatnonzero(~finite)
    findings.add_all(
        "warning", "boxes are not finite", rows, lambda row: f"in {names[int(images[row])]}", "they do not count"
    )
    unplaced = np.unique(images[finite & ~kept]).tolist()
    advice = "boxes that are parts of an image need its size; they do not count"
    findings.add_all("warning", "images are missing or cannot be read", unplaced, lambda i: names[i], advice)


def _roots(columns: Columns) -> list[Path]:
    """Return the folders that belong to a data set: those that its images may be in, and that of its annotations."""
    home = columns.file if columns.file.is_dir() else columns.file.parent
    return [*columns.folders, home.parent if home.name.lower() == "annotations" else home]


# --- image files ---------------------------------------------------------------------------------------------------


def _find_images(columns: Columns) -> tuple[Path, TextColumn]:
    """Return the image folder, and the names relative to it."""
    names, folders = columns.names, columns.folders
    if not folders:
        return Path(), names
    if foreign := foreign_folder(names, folders):
        text = f"names of images begin with a folder that is not here, {short(foreign)}"
        columns.findings.add("note", text, advice="it is left out")
        names = TextColumn.from_texts(name.removeprefix(foreign) for name in names)
    return choose_folder(names, folders), names


def complete_sizes(sizes: Array, folder: Path, names: TextColumn, spans: Array | None = None) -> None:
    """Fill in the sizes, (I, 2) height and width, that are 0, from the headers of the image files."""
    unknown = np.flatnonzero((sizes == 0).any(axis=1))

    def read(index: int) -> tuple[int, int]:
        return upright_size(stored_image(folder, names[index], spans, index)) or (0, 0)

    if len(unknown):
        note_images()
        sizes[unknown] = call_for_each(read, unknown.tolist())


# --- boxes ---------------------------------------------------------------------------------------------------------


def _names_of_boxes(dataset: Dataset, *, has_ids: bool) -> Callable[[int], str]:
    """Return a function that names the box of a row in messages."""

    def name(row: int) -> str:
        if has_ids:
            return f"annotation {dataset.annotation_ids[row]}"
        image = int(np.searchsorted(dataset.offsets, row, side="right")) - 1
        return f"box {row - int(dataset.offsets[image]) + 1} of {dataset.names[image]}"

    return name


def _check_crowds(dataset: Dataset, name: Callable[[int], str], findings: FindingList) -> None:
    crowds = np.flatnonzero(dataset.is_crowd).tolist()
    if 2 * len(crowds) <= len(dataset.is_crowd):
        return
    advice = "training neither learns them nor counts them as background"
    findings.add_all(
        "note", "more than half of the boxes are of groups (iscrowd, IsGroupOf or difficult)", crowds, name, advice
    )


def _check_boxes(dataset: Dataset, name: Callable[[int], str], findings: FindingList) -> None:
    """Say which boxes training cannot use, and whether it can use any."""
    looks = _look_at_boxes(dataset)
    has_area, is_inside = looks.has_area, looks.is_inside
    for which, text in ((~has_area, "boxes have no area"), (has_area & ~is_inside, "boxes lie outside of their image")):
        findings.add_all("warning", text, np.flatnonzero(which).tolist(), name, "training leaves them out")
    if "error" in findings:
        return
    if not (is_inside & ~dataset.is_crowd).any():
        findings.add("error", _why_none_counts(dataset), advice=NOTHING_TO_LEARN)
    elif np.abs(dataset.boxes_xywh).max() <= 1:
        findings.add("error", "all boxes lie in [0, 1]", advice="bbox must be in pixels, not relative to the image")
    elif looks.would_be_corners and looks.num_reaching_out > 0.2 * len(has_area):
        findings.add("error", "bbox holds two corners", advice="bbox must be x, y, width, height")


def _why_none_counts(dataset: Dataset) -> str:
    if not len(dataset.boxes_xywh):
        return "no image has a box"
    return "every box is a crowd (iscrowd is 1)" if dataset.is_crowd.all() else "no box has an area inside its image"


class _Looks(NamedTuple):
    """What a look at all boxes tells."""

    has_area: Array  # (M,) bool
    is_inside: Array  # (M,) bool, an area of it
    num_reaching_out: int  # how many boxes reach out of their image by more than a pixel
    would_be_corners: bool  # each box could be x1, y1, x2, y2


def _look_at_boxes(dataset: Dataset) -> _Looks:
    """Look at a million boxes at a time, as ten million would take gigabytes."""
    blocks = [_look_at_some(dataset, rows) for rows in _slices(len(dataset.labels), _ROWS)]
    has_area, is_inside, num_reaching_out, would_be = zip(*blocks, strict=True)
    return _Looks(np.concatenate(has_area), np.concatenate(is_inside), sum(num_reaching_out), all(would_be))


def _slices(count: int, length: int) -> list[slice]:
    return [slice(first, first + length) for first in range(0, max(count, 1), length)]


def _look_at_some(dataset: Dataset, rows: slice) -> _Looks:
    boxes = dataset.boxes_xywh[rows]
    places = np.arange(rows.start, rows.start + len(boxes))
    sizes = dataset.sizes[np.searchsorted(dataset.offsets, places, side="right") - 1]
    clipped, is_inside = clip_boxes(boxes, sizes)
    right_and_bottom = boxes[:, :2] + boxes[:, 2:]
    return _Looks(
        np.asarray((boxes[:, 2:] > 0).all(axis=1)),
        is_inside,
        int((np.abs(clipped[:, 2:] - right_and_bottom) > 1).any(axis=1).sum()),
        bool((boxes[:, 2:] > boxes[:, :2]).all() and (boxes[:, 2:] <= sizes[:, ::-1] + 1).all()),
    )
