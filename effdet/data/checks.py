"""The checks of the data doctor: small functions that yield findings. The tuples at the end name them all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from effdet.data.raw import (
    ERROR,
    NOTE,
    WARNING,
    Finding,
    ImageFile,
    RawSplit,
    box_words,
    found,
    image_words,
    is_bbox,
    is_id,
    key_of,
    positive,
    repeated,
)

# (M, 4) float32 xyxy boxes in pixels of the network input -> (M,) IoU with the best anchor
AnchorOverlap = Callable[[NDArray[np.float32]], NDArray[np.float32]]

_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff"}
_TINY = 4.0  # pixels, shorter side
_HUGE = 0.95  # of the image's area
_REACHED = 0.5  # IoU from which an anchor counts as a match
_MAX_ANCHOR_BOXES = 5000  # boxes compared with the anchors, spread over the set


# --- the annotation file -------------------------------------------------------------------------------------------


def _check_images(split: RawSplit) -> Iterator[Finding]:
    if not split.images:
        yield Finding(ERROR, split.name, "has no images")
    bad = [f"images[{place}]" for place, row in enumerate(split.images) if not is_id(row.get("id"))]
    yield from found(ERROR, split.name, "images have no integer id", bad)
    nameless = [image_words(row) for row in split.images if not isinstance(row.get("file_name"), str)]
    yield from found(ERROR, split.name, "images have no file_name", nameless)
    yield from found(ERROR, split.name, "image ids are given twice", repeated(row.get("id") for row in split.images))
    names = (row.get("file_name") for row in split.images)
    yield from found(WARNING, split.name, "files are listed twice", repeated(names))
    unsized = [
        image_words(row) for row in split.images if not positive(row.get("width")) > 0 < positive(row.get("height"))
    ]
    yield from found(WARNING, split.name, "images have no width and height", unsized)
    with_boxes = {key_of(row.get("image_id")) for row in split.boxed}
    empty = [image_words(row) for row in split.images if key_of(row.get("id")) not in with_boxes]
    if split.images and len(empty) > 0.5 * len(split.images):
        yield from found(WARNING, split.name, "images, more than half, have no boxes", empty)


def _check_categories(split: RawSplit) -> Iterator[Finding]:
    if not split.categories:
        yield Finding(ERROR, split.name, "has no categories")
    bad = [f"categories[{place}]" for place, row in enumerate(split.categories) if not is_id(row.get("id"))]
    yield from found(ERROR, split.name, "categories have no integer id", bad)
    twice = repeated(row.get("id") for row in split.categories)
    yield from found(ERROR, split.name, "category ids are given twice", twice)
    nameless = [f"category {row.get('id')}" for row in split.categories if not row.get("name")]
    yield from found(WARNING, split.name, "categories have no name", nameless)
    twice = repeated(row.get("name") for row in split.categories)
    yield from found(WARNING, split.name, "class names are given twice", twice)
    unused = [name for name, count in split.class_counts().items() if count == 0]
    yield from found(WARNING, split.name, "classes have no boxes", unused)


def _check_references(split: RawSplit) -> Iterator[Finding]:
    strays = [box_words(row) for row in split.annotations if key_of(row.get("image_id")) not in split.image_of]
    yield from found(ERROR, split.name, "annotations are of images that are not listed", strays)
    unknown = Counter(
        repr(row.get("category_id")) for row in split.annotations if key_of(row.get("category_id")) not in split.names
    )
    examples = [f"category_id {category_id} ({count} times)" for category_id, count in unknown.items()]
    yield from found(ERROR, split.name, "category ids of annotations are not listed", examples)
    twice = repeated(row["id"] for row in split.annotations if "id" in row)
    yield from found(WARNING, split.name, "annotation ids are given twice; pycocotools keeps the last one", twice)
    if any(row.get("id") == 0 for row in split.annotations):
        yield Finding(
            WARNING, split.name, "an annotation has id 0, which pycocotools counts as never found; begin at 1"
        )


def _check_boxes(split: RawSplit) -> Iterator[Finding]:
    bad = [box_words(row) for row in split.annotations if not is_bbox(row.get("bbox"))]
    yield from found(ERROR, split.name, "annotations have no bbox of four numbers", bad)
    x, y, width, height = split.boxes.T
    image_height, image_width = split.sizes.T
    has_area = (width > 0) & (height > 0)
    outside = (x >= image_width) | (y >= image_height) | (x + width <= 0) | (y + height <= 0)
    reach_out = (x < -1) | (y < -1) | (x + width > image_width + 1) | (y + height > image_height + 1)
    kinds = {
        "boxes have no area; they are left out": ~has_area,
        "boxes lie outside of their image; they are left out": has_area & outside,
        "boxes reach out of their image; they are clipped": has_area & reach_out & ~outside,
        f"boxes are narrower than {_TINY:g} pixels": has_area & (np.minimum(width, height) < _TINY),
        f"boxes cover more than {_HUGE:.0%} of their image": has_area
        & (width * height > _HUGE * image_width * image_height),
    }
    for text, which in kinds.items():
        yield from found(WARNING, split.name, text, [box_words(split.boxed[place]) for place in np.flatnonzero(which)])
    yield from _check_box_format(split, float(np.mean(reach_out)) if len(reach_out) else 0.0)


def _check_repeated_boxes(split: RawSplit) -> Iterator[Finding]:
    keys = [(key_of(row.get("image_id")), key_of(row.get("category_id")), *row["bbox"]) for row in split.boxed]
    seen = Counter(keys)
    twice = [box_words(row) for row, key in zip(split.boxed, keys, strict=True) if seen[key] > 1]
    yield from found(WARNING, split.name, "boxes are there more than once, with the same class", twice)


def _check_box_format(split: RawSplit, share_reaching_out: float) -> Iterator[Finding]:
    """Recognise boxes that are not x, y, width, height in pixels."""
    if len(split.boxes) and np.abs(split.boxes).max() <= 1.0:
        yield Finding(ERROR, split.name, "all boxes lie in [0, 1]: bbox must be in pixels, not relative to the image")
    elif share_reaching_out > 0.2:
        text = f"{share_reaching_out:.0%} of the boxes reach out of their image: is bbox x, y, width, height?"
        yield Finding(ERROR, split.name, text)


# --- the image files -----------------------------------------------------------------------------------------------


def _check_files(split: RawSplit, opened: Sequence[ImageFile]) -> Iterator[Finding]:
    kinds = {"missing": "image files are missing", "unreadable": "image files cannot be decoded"}
    kinds["size"] = "image files do not have the size that the annotations were made for"
    for kind, text in kinds.items():
        bad = [(file.name, file.fault.partition(": ")[2]) for file in opened if file.fault.startswith(kind)]
        examples = [f"{name} ({detail})" if detail else name for name, detail in bad]
        yield from found(ERROR, split.name, f"{text} in {split.folder}", examples)


def _check_orientation(split: RawSplit, opened: Sequence[ImageFile]) -> Iterator[Finding]:
    turned = [f"{file.name} ({file.orientation})" for file in opened if file.orientation > 1 and not file.fault]
    text = "images are turned by their EXIF orientation; check that the boxes were drawn on what a viewer shows"
    yield from found(WARNING, split.name, text, turned)


def _check_copies(split: RawSplit, opened: Sequence[ImageFile]) -> Iterator[Finding]:
    first: dict[str, str] = {}
    copies = [
        f"{file.name} = {first[file.digest]}"
        for file in opened
        if file.digest and first.setdefault(file.digest, file.name) != file.name
    ]
    yield from found(WARNING, split.name, "image files are copies of another one", copies)


def _check_unlisted(split: RawSplit, opened: Sequence[ImageFile]) -> Iterator[Finding]:
    if split.folder.name == "images":  # shared by the splits
        return
    listed = {file.name for file in opened}
    files = (path for path in split.folder.glob("*") if path.suffix.lower() in _IMAGE_SUFFIXES)
    strays = sorted(path.name for path in files if path.name not in listed)
    yield from found(NOTE, split.name, f"image files in {split.folder} are not in the annotations", strays)


# --- the network input, and both splits together -------------------------------------------------------------------


def check_network_input(
    split: RawSplit, image_size: tuple[int, int], anchor_overlap: AnchorOverlap | None
) -> Iterator[Finding]:
    """Compare the boxes, letterboxed into the network input, with its pixels and its anchors."""
    usable = np.isfinite(split.sizes).all(axis=1) & (split.boxes[:, 2:] > 0).all(axis=1)
    places = np.flatnonzero(usable)
    scale = np.minimum(image_size[0] / split.sizes[places, 0], image_size[1] / split.sizes[places, 1])
    boxes = split.boxes[places] * scale[:, None]
    size = f"{image_size[0]}×{image_size[1]}"
    tiny = places[boxes[:, 2:].min(axis=1, initial=np.inf) < _TINY]
    text = f"boxes are narrower than {_TINY:g} pixels once the image is resized to {size}"
    yield from found(WARNING, split.name, text, [box_words(split.boxed[place]) for place in tiny])
    if anchor_overlap is None or len(boxes) == 0:
        return
    sample = np.unique(np.linspace(0, len(boxes) - 1, _MAX_ANCHOR_BOXES).astype(int))
    corners = np.concatenate([boxes[sample, :2], boxes[sample, :2] + boxes[sample, 2:]], axis=1)
    overlap = anchor_overlap(corners.astype(np.float32))
    missed = [
        f"{box_words(split.boxed[places[i]])} (best IoU {v:.2f})"
        for i, v in zip(sample, overlap, strict=True)
        if v < _REACHED
    ]
    of = f" of {len(sample):,} looked at"
    text = f"boxes{of} are reached by no anchor with IoU {_REACHED} at {size}; each still gets its best anchor"
    yield from found(WARNING if len(missed) > 0.05 * len(sample) else NOTE, split.name, text, missed)


def check_same_classes(train: RawSplit, val: RawSplit) -> Iterator[Finding]:
    """Compare the categories of both splits, and which of them have boxes."""
    if train.names != val.names:
        ids = sorted({*train.names, *val.names}, key=str)
        differing = [
            f"id {key}: {train.names.get(key, 'none')} / {val.names.get(key, 'none')}"
            for key in ids
            if train.names.get(key) != val.names.get(key)
        ]
        yield from found(ERROR, "", "categories differ between train and val", differing)
    learned = train.class_counts()
    unlearned = [
        f"{name} ({count} boxes)" for name, count in val.class_counts().items() if count and not learned.get(name)
    ]
    yield from found(WARNING, "", "classes have boxes in val but none in train", unlearned)


def check_leakage(train: Sequence[ImageFile], val: Sequence[ImageFile]) -> Iterator[Finding]:
    """Look for files of val whose bytes are also in train."""
    names = {file.digest: file.name for file in train if file.digest}
    shared = [f"{file.name} = {names[file.digest]}" for file in val if file.digest in names]
    yield from found(ERROR, "", "images of val are also in train, so val measures memory", shared)


SPLIT_CHECKS = (_check_images, _check_categories, _check_references, _check_boxes, _check_repeated_boxes)
FILE_CHECKS = (_check_files, _check_orientation, _check_copies, _check_unlisted)
