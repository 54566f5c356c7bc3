"""What can be put right in a split without a person: each function takes a data set and returns a better one.

What a function changes is added to a list of findings, as a note that says what was done, with names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset, clip_boxes
from effdet.data.doctor.box_checks import namer, nearly_same
from effdet.data.doctor.box_frames import find_misread
from effdet.data.doctor.class_checks import class_counts, written_alike
from effdet.data.doctor.image_files import ImageFile, similar_names
from effdet.data.doctor.image_sizes import fit_sizes
from effdet.data.findings import FindingList
from effdet.data.text_column import TextColumn

Array = NDArray[Any]

_SAME_SHAPE = 0.02  # relative difference of two ratios of sides, so that one image is the other one resized
_MOST_OF_TRAIN = 0.5  # of its images, that may be left out as another split has them
_SMALLEST = 1.0  # pixels; a thinner box shows nothing


def rename_images(dataset: Dataset, done: FindingList) -> Dataset:
    """Take the files that are there under a similar name for those that are missing."""
    found = similar_names(dataset)
    if not found:
        return dataset
    names = dataset.names.tolist()
    for index, name in found.items():
        done.add("note", "names of images are written as their files are called", f"{names[index]}: {name}")
        names[index] = name
    return replace(dataset, names=TextColumn.from_texts(names))


def reframe_boxes(dataset: Dataset, format: str, done: FindingList) -> Dataset:
    """Convert boxes that hold another unit or order than the format has."""
    boxes = dataset.boxes_xywh.copy()
    areas = dataset.areas.copy()
    for misread in find_misread(dataset, format):
        boxes[misread.rows] = misread.boxes
        areas[misread.rows] = misread.boxes[:, 2:].prod(axis=1)
        text = f"boxes are converted from {misread.meant}"
        done.add_all("note", text, misread.rows, namer(dataset))
    return replace(dataset, boxes_xywh=boxes, areas=areas)


def correct_sizes(dataset: Dataset, files: Mapping[str, ImageFile], done: FindingList) -> Dataset:
    """Take the sizes of the image files where the boxes suit these, and not the annotated ones."""
    fitted = fit_sizes(dataset, files)
    for text, images in fitted.changed.items():
        done.add_all("note", f"width and height are corrected: {text}", images, dataset.names.__getitem__)
    return replace(dataset, sizes=fitted.sizes)


def resize_annotations(dataset: Dataset, files: Mapping[str, ImageFile], done: FindingList) -> Dataset:
    """Scale the boxes of images that have another size than annotated, and the same shape."""
    sizes, boxes, areas = dataset.sizes.copy(), dataset.boxes_xywh.copy(), dataset.areas.copy()
    for index, name in enumerate(dataset.names):
        file = files[name]
        if file.fault != "size" or 0 in file.size or tuple(sizes[index].tolist()) == file.size:
            continue
        rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
        factors = np.array(file.size) / sizes[index]  # along y and x
        if abs(factors[0] / factors[1] - 1) >= _SAME_SHAPE:
            continue
        boxes[rows] *= factors[[1, 0, 1, 0]]
        areas[rows] *= factors.prod()
        sizes[index] = file.size
        text = "boxes are scaled with their image, which has another size than annotated"
        done.add("note", text, f"{name} is {file.size[1]}×{file.size[0]}")
    return replace(dataset, sizes=sizes, boxes_xywh=boxes, areas=areas)


def join_entries(dataset: Dataset, done: FindingList) -> Dataset:
    """Give the boxes of all entries of one file to its first entry, and leave out the others."""
    first: dict[str, int] = {}
    entry_of = np.array([first.setdefault(name, index) for index, name in enumerate(dataset.names)], dtype=np.int64)
    others = np.flatnonzero(entry_of != np.arange(len(dataset)))
    if not len(others):
        return dataset
    done.add_all("note", "entries of the same file are joined", others, lambda index: dataset.names[index])
    joined = _with_boxes(dataset, np.arange(len(dataset.labels)), entry_of[dataset.image_of_box])
    return joined.without(others.tolist())


def leave_out_images(dataset: Dataset, files: Mapping[str, ImageFile], done: FindingList) -> Dataset:
    """Leave out images that cannot be used: missing, unreadable, of another size, of one colour; and copies."""
    why = {"missing": "files are missing", "unreadable": "files cannot be decoded", "size": "files have another size"}
    most = _copy_with_most_boxes(dataset, files)
    left_out = []
    for index, name in enumerate(dataset.names):
        file = files[name]
        is_size = file.fault == "size" and tuple(dataset.sizes[index].tolist()) == file.size  # was put right
        reason = "" if is_size else why.get(file.fault, "")
        reason = reason or ("pixels have one colour" if file.is_blank else "")
        reason = reason or ("bytes are those of another one" if most.get(file.digest, index) != index else "")
        if reason:
            left_out.append(index)
            done.add("note", f"images are left out, as their {reason}", name)
    return dataset.without(left_out)


def _copy_with_most_boxes(dataset: Dataset, files: Mapping[str, ImageFile]) -> dict[str, int]:
    """Return of the images with the same bytes the one with most boxes, the first of equals, by their digest."""
    counts, best = np.diff(dataset.offsets), dict[str, int]()
    for index, name in enumerate(dataset.names):
        digest = files[name].digest
        if digest and (digest not in best or counts[index] > counts[best[digest]]):
            best[digest] = index
    return best


def leave_out_boxes(dataset: Dataset, done: FindingList) -> Dataset:
    """Clip boxes to their image; leave out those without an area in it, and repeated ones."""
    sizes = dataset.sizes[dataset.image_of_box]
    clipped, is_inside = clip_boxes(dataset.boxes_xywh, sizes)
    boxes = np.concatenate([clipped[:, :2], clipped[:, 2:] - clipped[:, :2]], axis=1)
    changed = is_inside & (np.abs(boxes - dataset.boxes_xywh) > 1e-6).any(axis=1)
    is_thin = is_inside & (boxes[:, 2:].min(axis=1, initial=np.inf) < _SMALLEST)
    one, other = nearly_same(replace(dataset, boxes_xywh=boxes))
    is_again = np.zeros(len(boxes), bool)
    is_again[other[dataset.labels[one] == dataset.labels[other]]] = True
    kinds = (
        ("boxes are left out, as they have no area inside their image", ~is_inside),
        ("boxes are left out, as they are thinner than a pixel", is_thin),
        ("boxes are left out, as they are nearly the same as an earlier one", is_again & is_inside & ~is_thin),
        ("boxes are clipped to their image", changed & ~is_thin & ~is_again),
    )
    for text, which in kinds:
        done.add_all("note", text, np.flatnonzero(which), namer(dataset))
    areas = _areas(dataset, boxes, changed)
    kept = np.flatnonzero(is_inside & ~is_thin & ~is_again)
    return _with_boxes(replace(dataset, boxes_xywh=boxes, areas=areas), kept, dataset.image_of_box[kept])


def _areas(dataset: Dataset, boxes: Array, changed: Array) -> Array:
    """Return the areas, width × height where they are none of an object inside its box."""
    products = boxes[:, 2] * boxes[:, 3]
    is_wrong = changed | (dataset.areas <= 0) | (dataset.areas > products * 1.01 + 1)
    return np.where(is_wrong, products, dataset.areas)


def _with_boxes(dataset: Dataset, rows: Array, images: Array) -> Dataset:
    """Return the data set with some of its boxes, (n,) rows, each in the image that ``images`` says."""
    order = np.argsort(images, kind="stable")
    rows = rows[order]
    counts = np.bincount(images, minlength=len(dataset))
    return replace(
        dataset,
        boxes_xywh=dataset.boxes_xywh[rows],
        labels=dataset.labels[rows],
        is_crowd=dataset.is_crowd[rows],
        areas=dataset.areas[rows],
        annotation_ids=dataset.annotation_ids[rows],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


# --- classes, of all splits together ---------------------------------------------------------------------------------


def tidy_classes(parts: Mapping[str, Dataset], done: FindingList) -> dict[str, Dataset]:
    """Join classes whose names differ only in capitals, spaces or signs, and leave out those without a box.

    Args:
        parts: The splits, with the same classes in the same order.
        done: Takes what was changed.
    """
    ids: dict[str, int] = {}
    for dataset in parts.values():
        ids = {**dict(zip(dataset.class_names, dataset.category_ids, strict=True)), **ids}
    names = list(ids)
    counts: Counter[str] = Counter()
    for dataset in parts.values():
        counts.update(class_counts(dataset))
    kept_name = written_alike(names, counts)
    has_boxes = {kept_name[name] for name in names if counts[name]}
    kept = [name for name in names if name in has_boxes]
    for name in names:
        if kept_name[name] != name:
            done.add("note", "classes are joined with one of nearly the same name", f"{name} → {kept_name[name]}")
        elif name not in has_boxes:
            done.add("note", "classes are left out, as they have no boxes", name)
    category_ids = [ids[name] for name in kept]
    if category_ids != sorted(set(category_ids)):
        category_ids = list(range(1, len(kept) + 1))
    result = {}
    for part, dataset in parts.items():
        label_of = np.array(
            [kept.index(kept_name[name]) if kept_name[name] in kept else -1 for name in dataset.class_names]
        )
        labels = label_of[dataset.labels].astype(np.int64)
        result[part] = replace(dataset, class_names=tuple(kept), category_ids=tuple(category_ids), labels=labels)
    return result


def leave_out_shared(
    parts: Mapping[str, Dataset], files: Mapping[str, Mapping[str, ImageFile]], done: FindingList
) -> dict[str, Dataset]:
    """Leave images of train out that another split has too, byte for byte; of test, what val has.

    Where that would be more than half of train, they are left out of the other split instead.
    """
    result = dict(parts)
    seen: dict[str, str] = {}
    order = [part for part in ("val", "test", "train") if part in parts]
    if "train" in parts and _share_elsewhere(parts, files) > _MOST_OF_TRAIN:
        order.insert(0, order.pop())
    for part in order:
        dataset = parts[part]
        digests = [files[part][name].digest for name in dataset.names]
        shared = {index: seen[digest] for index, digest in enumerate(digests) if digest in seen}
        for index, name in shared.items():
            text = f"images of {part} are left out, as another part has them too"
            done.add("note", text, f"{dataset.names[index]} = {name}")
        result[part] = dataset.without(shared)
        seen |= {digest: dataset.names[index] for index, digest in enumerate(digests) if digest}
    return result


def _share_elsewhere(parts: Mapping[str, Dataset], files: Mapping[str, Mapping[str, ImageFile]]) -> float:
    """Return which part of the images of train other splits have too."""
    digests = {part: [files[part][name].digest for name in dataset.names] for part, dataset in parts.items()}
    elsewhere = {digest for part, values in digests.items() if part != "train" for digest in values if digest}
    return sum(digest in elsewhere for digest in digests["train"]) / max(1, len(digests["train"]))
