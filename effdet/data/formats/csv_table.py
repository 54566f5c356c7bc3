"""A CSV table, one row a box: two corners in pixels, the image and the class.

With a header the columns may stand in any order and have any of the usual names; without one a row is
``image,xmin,ymin,xmax,ymax,label`` (RetinaNet's form). A row with an image and nothing else is a background image.
``classes.csv`` (``label,number``) or ``classes.txt`` gives the order of the classes.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.coco_layouts import SPLIT_NAMES, likely_image_folders, split_in_name
from effdet.data.formats.columns import Columns, to_dataset
from effdet.data.formats.csv_files import first_row, read_chunks, to_columns, to_numbers, to_sides
from effdet.data.formats.folders import existing_folders, files_in
from effdet.data.formats.interface import Format, Found, Part, Source
from effdet.data.formats.labels import Codes, class_name, order_classes
from effdet.data.formats.text_files import read_class_list
from effdet.data.formats.values import flag, is_encodable, number, short, whole_number
from effdet.data.image_copies import ImageCopies, write_text_file
from effdet.data.image_lists import resolve_names
from effdet.data.text_column import TextColumn

Array = NDArray[Any]

_NAMES = {  # of columns: lower case, without spaces, dots and underscores
    "image": ("image", "filename", "file", "path", "imagepath", "imgpath", "imagename", "imagefile", "imageid", "img"),
    "label": ("label", "class", "classname", "category", "labelname", "name", "categoryname"),
    "xmin": ("xmin", "x1", "left", "bboxx1"),
    "ymin": ("ymin", "y1", "top", "bboxy1"),
    "xmax": ("xmax", "x2", "right", "bboxx2"),
    "ymax": ("ymax", "y2", "bottom", "bboxy2"),
    "x": ("bboxx", "x", "bboxleft", "boxx"),
    "y": ("bboxy", "y", "bboxtop", "boxy"),
    "w": ("bboxwidth", "bboxw", "w", "boxwidth"),
    "h": ("bboxheight", "bboxh", "h", "boxheight"),
    "width": ("width", "imagewidth", "imgwidth"),
    "height": ("height", "imageheight", "imgheight"),
    "crowd": ("crowd", "iscrowd", "isgroupof", "difficult"),
    "area": ("area",),
}
_CORNERS, _SIDES = ("xmin", "ymin", "xmax", "ymax"), ("x", "y", "w", "h")
_HEADER = ("image", *_CORNERS, "label", "width", "height", "crowd", "area")
_CLASS_FILES = ("classes.csv", "class_mapping.csv", "labels.csv", "class.csv")


def find_csv(root: Path) -> Found:
    """Return the tables of boxes in a folder, or a file itself."""
    if not root.is_dir():
        return {"all": Source(root, format="csv")} if _is_box_table(root) else {}
    files = [
        path
        for folder in existing_folders(root, [".", "annotations", "labels"])
        for path in files_in(folder, ".csv", ".tsv")
    ]
    words = [word for names in SPLIT_NAMES.values() for word in names]
    files += [file for folder in existing_folders(root, words) for file in files_in(folder, ".csv", ".tsv")]
    tables = [file for file in files if file.name.lower() not in _CLASS_FILES and _is_box_table(file)]
    found: Found = {}
    for file in tables:
        part = split_in_name(file.relative_to(root).as_posix())
        if part is not None:
            found.setdefault(part, Source(file, format="csv", part=part))
    rest = [file for file in tables if split_in_name(file.relative_to(root).as_posix()) is None]
    if "train" not in found and found and len(rest) == 1:  # RetinaNet: annotations.csv and val_annotations.csv
        found["train"] = Source(rest[0], format="csv", part="train")
    return found or ({"all": Source(rest[0], format="csv")} if len(rest) == 1 else {})


def _is_box_table(file: Path) -> bool:
    return file.suffix.lower() in (".csv", ".tsv") and bool(_columns_of(first_row(file)))


def _columns_of(row: Sequence[str]) -> dict[str, int]:
    """Return the place of each column by a first row; empty if it is no table of boxes in pixels."""
    keys = [value.lower().translate({ord(letter): None for letter in " ._-"}) for value in row]
    if "imageid" in keys and "labelname" in keys:  # OpenImages
        return {}
    places = {
        name: min(keys.index(key) for key in known if key in keys)
        for name, known in _NAMES.items()
        if set(known) & set(keys)
    }
    if {"x", "y", "width", "height"} <= places.keys() and not {"w", "h", *_CORNERS} & places.keys():
        places["w"], places["h"] = places.pop("width"), places.pop("height")  # of the box: it has no other sides
    if {"image", "label"} <= places.keys() and any(set(corners) <= places.keys() for corners in (_CORNERS, _SIDES)):
        return places
    return dict(zip(_HEADER[:6], range(6), strict=True)) if not _is_header(row) else {}


def _is_header(row: Sequence[str]) -> bool:
    """Return whether a first row cannot be a box: image, four numbers and a label, or an image and nothing."""
    values = [number(value.strip()) for value in row[1:5]]
    is_box = len(row) == 6 and None not in values
    is_background = len(row) == 6 and bool(row[0].strip()) and not any(value.strip() for value in row[1:])
    return not (is_box or is_background)


def read_csv(source: Source) -> Dataset:
    """Read one table.

    Raises:
        DataError: If it cannot be read, or is no table of boxes.
    """
    findings = FindingList()
    table = _Table(source.annotations, findings)
    folders = source.folders or likely_image_folders(source)
    names = table.images.texts
    folder, resolved = resolve_names(names, folders)
    class_names, label_of_code = _classes(source, table.labels.texts, findings)
    columns = table.columns()
    has_box = columns["label"] >= 0
    return to_dataset(
        Columns(
            file=source.annotations,
            folders=[folder],
            names=TextColumn.from_texts(resolved),
            images=columns["image"][has_box],
            boxes=columns["boxes"][has_box],
            labels=label_of_code[columns["label"][has_box]] if has_box.any() else columns["label"][has_box],
            class_names=class_names,
            category_ids=_category_ids(source, class_names),
            sizes=_sizes(columns, resolved, findings),
            is_crowd=columns["crowd"][has_box],
            areas=columns["area"][has_box],
            findings=findings,
        )
    )


class _Table:
    """The rows of a table as columns; rows that cannot be read are left out and become findings."""

    def __init__(self, file: Path, findings: FindingList) -> None:
        self.images, self.labels = Codes(_file_name), Codes(class_name)
        self._parts: list[dict[str, Array]] = []
        self._file, self._findings = file, findings
        places: dict[str, int] = {}
        line = 1
        for chunk in read_chunks(file, findings):
            if not places:
                places = _columns_of(chunk[0])
                if not places:
                    raise DataError(
                        f"{file}: must have the columns image, xmin, ymin, xmax, ymax and label, "
                        f"got {short(','.join(chunk[0]))}"
                    )
                if _is_header(chunk[0]):
                    chunk.pop(0)
                    line += 1
            self._add(places, chunk, line)
            line += len(chunk)

    def columns(self) -> dict[str, Array]:
        """Return all rows: image, label (-1: no box), boxes, size, crowd and area."""
        empty = {
            "image": np.zeros(0, np.int64),
            "label": np.zeros(0, np.int64),
            "boxes": np.zeros((0, 4)),
            "size": np.zeros((0, 2), np.int64),
        }
        empty |= {"crowd": np.zeros(0, bool), "area": np.zeros(0)}
        return {key: np.concatenate([empty[key], *(part[key] for part in self._parts)]) for key in empty}

    def _add(self, places: dict[str, int], rows: list[list[str]], line: int) -> None:
        def name(row: int) -> str:
            return f"row {line + row} of {self._file.name} has {short(','.join(rows[row]))}"

        columns = to_columns(rows, max(places.values()) + 1)
        texts = {key: columns[place] for key, place in places.items()}
        keys = _CORNERS if set(_CORNERS) <= places.keys() else _SIDES
        parsed = [to_numbers(texts[key]) for key in keys]
        images, labels = self.images(texts["image"]), self.labels(texts["label"])
        has_box = np.logical_and.reduce([images >= 0, labels >= 0, *(known for _, known in parsed)])
        is_background = np.zeros(len(rows), dtype=bool)
        for row in np.flatnonzero((images >= 0) & ~has_box).tolist():
            is_background[row] = not any(texts[key][row].strip() for key in (*keys, "label"))
        kept = has_box | is_background
        advice = "a row must have an image, four numbers and a label, or an image alone"
        self._findings.add_all("error", "rows have no box", np.flatnonzero(~kept).tolist(), name, advice)
        boxes = np.stack([values for values, _ in parsed], axis=1)
        if keys is _CORNERS:
            boxes[:, 2:] -= boxes[:, :2]
        nothing = [""] * len(rows)
        area, _ = to_numbers(texts.get("area", nothing))
        part = {
            "image": images,
            "label": np.where(has_box, labels, -1),
            "boxes": boxes,
            "size": np.stack([to_sides(texts.get(key, nothing)) for key in ("height", "width")], axis=1),
            "crowd": _to_flags(texts["crowd"]) if "crowd" in texts else np.zeros(len(rows), dtype=bool),
            "area": np.where(np.isfinite(area) & (area >= 0), area, np.nan),
        }
        self._parts.append({key: column[kept] for key, column in part.items()})


def _to_flags(texts: Sequence[str]) -> NDArray[np.bool_]:
    """Return which texts mean yes, as 1, 1.0 and "true" do."""
    values, is_number = to_numbers(texts)
    flags: NDArray[np.bool_] = values == 1
    for row in np.flatnonzero(~is_number).tolist():
        flags[row] = flag(texts[row]) is True
    return flags


def _file_name(text: str) -> str | None:
    name = text.strip().removeprefix("./")
    return name if name and is_encodable(name) else None


def _sizes(columns: dict[str, Array], names: Sequence[str], findings: FindingList) -> Array:
    """Return (I, 2) height and width: of each image what its last row says."""
    sizes = np.zeros((len(names), 2), dtype=np.int64)
    known = (columns["size"] > 0).all(axis=1)
    images, given = columns["image"][known], columns["size"][known]
    sizes[images] = given
    unequal = np.unique(images[(given != sizes[images]).any(axis=1)])
    text, advice = "rows of one image have different width and height", "the last row counts"
    findings.add_all("warning", text, unequal.tolist(), lambda index: names[index], advice)
    return sizes


def _class_rows(source: Source) -> dict[str, int | None]:
    """Return names and numbers in classes.csv, in its order; a first row without a number is a header."""
    for folder in source.folders_upwards():
        for name in _CLASS_FILES:
            if (folder / name).is_file() and folder / name != source.annotations:
                rows = [row for chunk in read_chunks(folder / name, FindingList()) for row in chunk]
                numbered = {" ".join(row[0].split()): whole_number(row[1].strip()) for row in rows if len(row) == 2}
                return {key: value for key, value in numbered.items() if value is not None}
    return {}


def _classes(source: Source, used: Sequence[str], findings: FindingList) -> tuple[list[str], Array]:
    numbered = _class_rows(source)
    if numbered:
        listed = tuple(sorted(numbered, key=lambda name: numbered[name] or 0))
    else:
        listed = read_class_list(source.folders_upwards(), findings)
    return order_classes(used, listed, findings)


def _category_ids(source: Source, class_names: Sequence[str]) -> list[int] | None:
    """Return the numbers of the classes in classes.csv, where each has one of its own."""
    numbered = _class_rows(source)
    ids = [numbered[name] for name in class_names if numbered.get(name) is not None]
    known = [value for value in ids if value is not None and -(2**63) <= value < 2**63]
    return known if len(set(known)) == len(class_names) and known == sorted(known) else None


# --- writing -------------------------------------------------------------------------------------------------------


def write_csv(parts: Mapping[Part, Dataset], copies: ImageCopies) -> None:
    """Write ``train.csv`` and so on, or ``boxes.csv`` for all, ``classes.csv`` and ``images/``."""
    for part, dataset in parts.items():
        names = [name.removeprefix("images/") for name in copies.place(dataset, "images")]
        file = copies.folder / f"{'boxes' if part == 'all' else part}.csv"
        write_text_file(file, _to_csv([_HEADER, *_rows(dataset, names)]))
    dataset = next(iter(parts.values()))
    rows = [list(pair) for pair in zip(dataset.class_names, dataset.category_ids, strict=True)]
    write_text_file(copies.folder / "classes.csv", _to_csv(rows))


def _rows(dataset: Dataset, names: Sequence[str]) -> list[list[Any]]:
    """Return the rows of all images in their order; one without a box has a row with nothing but its size."""
    right_bottom = dataset.boxes_xywh.reshape(-1, 2, 2).sum(axis=1)
    corners = np.concatenate([dataset.boxes_xywh[:, :2], right_bottom], axis=1).tolist()
    labels, crowds, areas = dataset.labels.tolist(), dataset.is_crowd.astype(int).tolist(), dataset.areas.tolist()
    rows: list[list[Any]] = []
    for index, (name, (height, width)) in enumerate(zip(names, dataset.sizes.tolist(), strict=True)):
        own = range(int(dataset.offsets[index]), int(dataset.offsets[index + 1]))
        if not own:
            rows.append([name, "", "", "", "", "", width, height, "", ""])
        rows += [
            [name, *corners[row], dataset.class_names[labels[row]], width, height, crowds[row], areas[row]]
            for row in own
        ]
    return rows


def _to_csv(rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue()


CSV = Format(
    name="csv",
    title="CSV",
    find=find_csv,
    read=read_csv,
    write=write_csv,
    cannot_hold="ids of images and boxes",
)
