"""Read COCO's annotations, one row a box, into columns."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.findings import FindingList
from effdet.data.formats.labels import check_class_numbers
from effdet.data.formats.masks import enclosing_box
from effdet.data.formats.plain_boxes import Numbering, PlainBoxes, plain_boxes
from effdet.data.formats.values import flag, four_numbers, look_up, number, short, whole_number

Row = dict[str, Any]
Box = tuple[float, float, float, float]


class BoxColumns(NamedTuple):
    """Boxes in the order of the file."""

    images: NDArray[np.int64]  # (ΣM,) number of the image
    labels: NDArray[np.int64]  # (ΣM,)
    boxes: NDArray[np.float64]  # (ΣM, 4) x, y, width, height; finite
    is_crowd: NDArray[np.bool_]  # (ΣM,)
    areas: NDArray[np.float64]  # (ΣM,) NaN where width × height stands for it
    ids: NDArray[np.int64]  # (ΣM,) each once


def read_boxes(
    pieces: Iterable[PlainBoxes | list[Row]],
    image_of: Mapping[int | str, int],
    label_of: Mapping[int, int],
    findings: FindingList,
) -> BoxColumns:
    """Return the boxes that can be read; the others become findings.

    Args:
        pieces: COCO's annotations, in the order of the file.
        image_of: Number of each image by its id.
        label_of: Label of each class by its category id.
        findings: Takes what is wrong.
    """
    images, labels = Numbering(image_of), Numbering(label_of)
    read: list[BoxColumns] = []
    ids: list[NDArray[np.int64] | list[Any]] = []
    unlisted: set[int] = set()
    first_place = 0
    for piece in pieces:
        plain = plain_boxes(piece) if isinstance(piece, list) else piece
        columns = None if plain is None else _plain_columns(plain, images, labels)
        if plain is not None and columns is not None:
            ids.append(plain.ids)
        else:
            rows = piece if isinstance(piece, list) else piece.to_rows()
            columns, ids_of_rows = _read_rows(rows, first_place, image_of, label_of, unlisted, findings)
            ids.append(ids_of_rows)
        first_place += len(piece) if isinstance(piece, list) else len(piece.ids)
        read.append(columns)
    joined = BoxColumns(*(np.concatenate(parts) for parts in zip(_NO_BOXES, *read, strict=True)))
    used = np.unique(joined.labels).tolist() if unlisted else []
    check_class_numbers(unlisted, [number for number, label in label_of.items() if label in used], label_of, findings)
    return joined._replace(ids=_annotation_ids(ids, findings))


_NOTHING = np.zeros(0, dtype=np.int64)
_NO_BOXES = BoxColumns(_NOTHING, _NOTHING, np.zeros((0, 4)), np.zeros(0, dtype=bool), np.zeros(0), _NOTHING)


def _plain_columns(plain: PlainBoxes, images: Numbering, labels: Numbering) -> BoxColumns | None:
    """Return the columns of annotations; None if an image or a class is not listed. The ids are left to the caller."""
    numbers, classes = images.look_up(plain.image_ids), labels.look_up(plain.category_ids)
    if numbers is None or classes is None:
        return None
    return BoxColumns(numbers, classes, plain.boxes, plain.is_crowd.astype(bool), plain.areas, _NOTHING)


def _read_rows(
    annotations: list[Row],
    first_place: int,
    image_of: Mapping[int | str, int],
    label_of: Mapping[int, int],
    unlisted: set[int],
    findings: FindingList,
) -> tuple[BoxColumns, list[Any]]:
    """Return the boxes of COCO's rows that can be read, and their ids as they are given.

    ``unlisted`` takes the category ids that are not listed; the others are as for ``read_boxes``.
    """
    rows: list[tuple[int, int]] = []  # image, label
    boxes: list[Box] = []
    crowds: list[bool] = []
    areas: list[float] = []
    ids: list[Any] = []
    for place, row in enumerate(annotations, first_place):
        box = _box(row, place, findings)
        if box is None:
            continue
        image, label = _references(row, place, image_of, label_of, findings)
        if label is None and (category_id := whole_number(row.get("category_id"))) is not None:
            unlisted.add(category_id)
        if image is None or label is None:
            continue
        rows.append((image, label))
        boxes.append(box)
        crowds.append(_is_crowd(row, place, findings))
        areas.append(_area(row, place, findings))
        ids.append(row.get("id"))

    images, labels = np.array(rows, dtype=np.int64).reshape(-1, 2).T
    columns = BoxColumns(
        images,
        labels,
        np.array(boxes, dtype=np.float64).reshape(-1, 4),
        np.array(crowds, dtype=bool),
        np.array(areas, dtype=np.float64),
        _NOTHING,
    )
    return columns, ids


def _name(row: Row, place: int) -> str:
    return f"annotation {short(row['id'])}" if "id" in row else f"annotations[{place}]"


def _box(row: Row, place: int, findings: FindingList) -> Box | None:
    given = row.get("bbox")
    box = four_numbers(given)
    if box is None and (given is None or given == []):
        box = enclosing_box(row.get("segmentation"))
    if box is None and given == []:
        findings.add("note", "annotations have an empty bbox", _name(row, place), "they do not count")
    elif box is None:
        example = f"{_name(row, place)} has {short(given)}"
        advice = "bbox must be four numbers x, y, width, height, or segmentation a mask"
        findings.add("error", "annotations have no box", example, advice)
    elif not all(map(math.isfinite, (*box, box[0] + box[2], box[1] + box[3], box[2] * box[3]))):
        findings.add("warning", "boxes are not finite", f"{_name(row, place)} has {short(given)}", "they do not count")
        return None
    return box


def _references(
    row: Row, place: int, image_of: Mapping[int | str, int], label_of: Mapping[int, int], findings: FindingList
) -> tuple[int | None, int | None]:
    """Return number of the image and label of a box; None for what is not listed."""
    image = look_up(row.get("image_id"), image_of)
    label = look_up(row.get("category_id"), label_of)
    for found, what, kind in ((image, "image", "images"), (label, "category", "categories")):
        if found is None:
            example = f"{_name(row, place)} has {what}_id {short(row.get(f'{what}_id'))}"
            advice = f"list the {kind}, or remove the annotations"
            findings.add("error", f"annotations belong to {kind} that are not listed", example, advice)
    return image, label


def _is_crowd(row: Row, place: int, findings: FindingList) -> bool:
    crowd = flag(row.get("iscrowd"))
    if crowd is None:
        example = f"{_name(row, place)} has {short(row['iscrowd'])}"
        findings.add("error", "values of iscrowd are neither 0 nor 1", example, "write 0 or 1")
    return bool(crowd)


def _area(row: Row, place: int, findings: FindingList) -> float:
    """Return the area in pixels², NaN where width × height stands for it."""
    given = row.get("area")
    if given is None or given == "":
        return math.nan
    area = number(given)
    if area is not None and 0 <= area < math.inf:
        return area
    example = f"{_name(row, place)} has {short(given)}"
    findings.add("warning", "areas are no numbers of 0 or more", example, "width × height is used")
    return math.nan


def _annotation_ids(pieces: list[NDArray[np.int64] | list[Any]], findings: FindingList) -> NDArray[np.int64]:
    """Return the file's own ids, or numbers from 1 where these are missing or not unique.

    The file's own matter: pycocotools never counts an annotation with id 0 as found, and its numbers are the reference.
    """
    arrays = [piece for piece in pieces if isinstance(piece, np.ndarray)]
    if len(arrays) == len(pieces) and _are_usable(joined := np.concatenate([_NOTHING, *arrays])):
        return joined
    ids = [whole_number(value) for piece in pieces for value in (piece if isinstance(piece, list) else piece.tolist())]
    usable = [value for value in ids if value is not None and 0 <= value < 2**63]
    if len(usable) == len(ids) == len(set(usable)):
        if 0 in usable:
            advice = "pycocotools never counts it as found; let ids start at 1"
            findings.add("warning", "an annotation has id 0", advice=advice)
        return np.array(usable, dtype=np.int64)
    if len(usable) == len(ids):
        return _with_own_ids(usable, findings)
    if len(set(usable)) < len(usable):
        for value, count in Counter(usable).items():
            if count > 1:
                findings.add(
                    "warning", "annotation ids are given twice", str(value), "the annotations are numbered anew"
                )
    else:
        text = "annotations have no id that is a whole number"
        findings.add("note", text, advice="the annotations are numbered anew")
    return np.arange(1, len(ids) + 1, dtype=np.int64)


def _are_usable(ids: NDArray[np.int64]) -> bool:
    """Return whether ids are above 0, each once."""
    if not len(ids) or ids.min() <= 0:
        return False
    ascending = ids if (np.diff(ids) > 0).all() else np.sort(ids)
    return bool((np.diff(ascending) > 0).all())


def _with_own_ids(ids: list[int], findings: FindingList) -> NDArray[np.int64]:
    """Return the ids, but a new one for each that came before, so that messages name the others as the file does."""
    seen: set[int] = set()
    new = itertools.count(1)
    result = []
    known = set(ids)
    for value in ids:
        if value in seen:
            findings.add("warning", "annotation ids are given twice", str(value), "the later annotations get new ids")
            value = next(number for number in new if number not in known)
        seen.add(value)
        result.append(value)
    return np.array(result, dtype=np.int64)
