"""OpenImages: a CSV table of boxes in parts of the image's width and height, and a table of class names.

``IsGroupOf`` boxes become crowds. An image that only the table of images names is a background image.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.coco_layouts import SPLIT_NAMES, likely_image_folders, split_in_name
from effdet.data.formats.columns import Columns, to_dataset
from effdet.data.formats.csv_files import first_row, plain_pieces, read_chunks, to_columns, to_numbers
from effdet.data.formats.folders import existing_folders, files_in
from effdet.data.formats.interface import Format, Found, Part, Source
from effdet.data.formats.labels import Codes, order_classes
from effdet.data.formats.values import is_encodable, short
from effdet.data.image_copies import ImageCopies, write_text_file
from effdet.data.image_lists import ImageIndex, list_images
from effdet.data.text_column import TextColumn

Array = NDArray[Any]

_COLUMNS = ("ImageID", "LabelName", "XMin", "XMax", "YMin", "YMax")
_HEADER = ("ImageID", "Source", "LabelName", "Confidence", *_COLUMNS[2:], "IsOccluded", "IsTruncated", "IsGroupOf")
_GROUP = "IsGroupOf"
_NUM_LOOKED_AT = 20  # images that tell in which folder the others are


def find_openimages(root: Path) -> Found:
    """Return the tables of boxes in a folder, by the names of their columns."""
    if not root.is_dir():
        return {"all": Source(root, format="openimages")} if _is_box_table(root) else {}
    folders = existing_folders(root, [".", "annotations", "labels", "csv"])
    files = [path for folder in folders for path in files_in(folder, ".csv")]
    words = [word for names in SPLIT_NAMES.values() for word in names]
    files += [
        file
        for folder in existing_folders(root, [f"{word}/labels" for word in words])
        for file in files_in(folder, ".csv")
    ]
    tables = [file for file in files if _is_box_table(file)]
    found: Found = {}
    for file in tables:
        part = split_in_name(file.relative_to(root).as_posix())
        if part is not None:
            found.setdefault(part, Source(file, format="openimages", part=part))
    return found or ({"all": Source(tables[0], format="openimages")} if len(tables) == 1 else {})


def _is_box_table(file: Path) -> bool:
    return file.suffix.lower() == ".csv" and set(_COLUMNS) <= set(first_row(file))


def read_openimages(source: Source) -> Dataset:
    """Read one table of boxes.

    Raises:
        DataError: If a table cannot be read, or none of its images is there.
    """
    findings = FindingList()
    table = _BoxTable(source.annotations, findings)
    others = _listed_images(source, findings)
    ids = list(dict.fromkeys([*others, *table.images.texts])) if others else table.images.texts
    folders = source.folders or likely_image_folders(source)
    folder, index = _choose(folders, ids)
    names = [index.find(image_id.strip()) for image_id in ids]
    number_of = {
        image_id: number for number, image_id in enumerate(i for i, name in zip(ids, names, strict=True) if name)
    }
    if not number_of:
        raise DataError(
            f"{source.annotations}: none of its {len(ids):,} images, such as {short(ids[0] if ids else '')}, is in "
            f"{', '.join(map(str, folders))}; download them, or name their folder"
        )
    absent = [image_id for image_id in ids if image_id not in number_of]
    findings.add_all("warning", f"images are not in {folder}", absent, advice="they are left out, with their boxes")
    known = [name for name in names if name]
    unlisted = sorted(index.names - set(known))
    findings.add_all("note", "images are not in the table", unlisted, advice="they are left out")
    code_to_image = np.array([number_of.get(image_id, -1) for image_id in table.images.texts], dtype=np.int64)
    images = code_to_image[table.image_codes] if len(table.image_codes) else table.image_codes
    kept = images >= 0
    class_names, label_of_code = _classes(source, table.labels.texts, findings)
    return to_dataset(
        Columns(
            file=source.annotations,
            folders=[folder],
            names=TextColumn.from_texts(known),
            images=images[kept],
            boxes=table.boxes[kept],
            labels=label_of_code[table.label_codes][kept],
            class_names=class_names,
            is_crowd=table.is_group[kept],
            are_relative=True,
            findings=findings,
        )
    )


class _BoxTable:
    """The rows of a table of boxes, as columns; rows that cannot be read are left out and become findings."""

    def __init__(self, file: Path, findings: FindingList) -> None:
        self._begin()
        if not self._read_plain(file):
            self._begin()
            self._read_any(file, findings)
        none = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros((0, 4)), np.zeros(0, bool))
        columns = [np.concatenate(part) for part in zip(none, *self._parts, strict=True)]
        self._parts.clear()
        self.image_codes, self.label_codes, self.boxes, self.is_group = columns

    def _begin(self) -> None:
        self.images, self.labels = Codes(_id), Codes(_id)
        self._parts: list[tuple[Array, ...]] = []

    def _read_plain(self, file: Path) -> bool:
        """Read a table without a fault fast; return False where this cannot be done."""
        header = first_row(file)
        flags = [_GROUP] if _GROUP in header else []
        pieces = plain_pieces(file, texts=("ImageID", "LabelName"), numbers=[*_COLUMNS[2:], *flags])
        try:
            for texts, numbers in pieces or ():
                codes = [
                    codes(texts[name].values)[texts[name].places]
                    for name, codes in (("ImageID", self.images), ("LabelName", self.labels))
                ]
                if any((column < 0).any() for column in codes):
                    return False
                boxes = _boxes(*(numbers[name] for name in ("XMin", "YMin", "XMax", "YMax")))
                is_group = numbers[_GROUP] == 1 if flags else np.zeros(len(boxes), bool)
                self._parts.append((*codes, boxes, is_group))
        except ValueError:
            return False
        return pieces is not None

    def _read_any(self, file: Path, findings: FindingList) -> None:
        header: list[str] = []
        line = 1
        for chunk in read_chunks(file, findings):
            if not header:
                header = [name.strip() for name in chunk.pop(0)]
                if not set(_COLUMNS) <= set(header):
                    raise DataError(
                        f"{file}: must have the columns {', '.join(_COLUMNS)}, got {short(','.join(header))}"
                    )
            self._add(header, chunk, file, line, findings)
            line += len(chunk)

    def _add(self, header: list[str], rows: list[list[str]], file: Path, line: int, findings: FindingList) -> None:
        def name(row: int) -> str:
            return f"row {line + row + 1} of {file.name} has {short(','.join(rows[row]))}"

        columns = dict(zip(header, to_columns(rows, len(header)), strict=True))
        parsed = [to_numbers(columns[key]) for key in ("XMin", "YMin", "XMax", "YMax")]
        images, labels = self.images(columns["ImageID"]), self.labels(columns["LabelName"])
        good = np.logical_and.reduce([images >= 0, labels >= 0, *(known for _, known in parsed)])
        advice = f"{', '.join(_COLUMNS)} must be there"
        findings.add_all("error", "rows have no box", np.flatnonzero(~good).tolist(), name, advice)
        left, top, right, bottom = (values[good] for values, _ in parsed)
        is_group = to_numbers(columns[_GROUP])[0] == 1 if _GROUP in columns else np.zeros(len(rows), bool)
        self._parts.append((images[good], labels[good], _boxes(left, top, right, bottom), is_group[good]))


def _boxes(left: Array, top: Array, right: Array, bottom: Array) -> Array:
    return np.stack([left, top, right - left, bottom - top], axis=1)


def _id(text: str) -> str | None:
    text = text.strip()
    return text if text and is_encodable(text) else None


def _listed_images(source: Source, findings: FindingList) -> list[str]:
    """Return the ids in the table of all images of a part, if there is one."""
    for file in files_in(source.annotations.parent, ".csv"):
        row = first_row(file)
        is_of_part = split_in_name(file.stem) == (None if source.part == "all" else source.part)
        if "ImageID" in row and "LabelName" not in row and is_of_part:
            place = row.index("ImageID")
            rows = [row for chunk in read_chunks(file, findings) for row in chunk][1:]
            return [row[place] for row in rows if len(row) > place and row[place] and is_encodable(row[place])]
    return []


def _classes(source: Source, used: Sequence[str], findings: FindingList) -> tuple[list[str], Array]:
    """Return the class names, and the label of each LabelName in ``used``."""
    folders = [path for home in source.folders_upwards() for path in existing_folders(home, [".", "metadata"])]
    files = [
        path
        for folder in folders
        for pattern in ("*class-descriptions*.csv", "classes.csv")
        for path in sorted(folder.glob(pattern))
    ]
    if not files:
        return order_classes(used, (), findings)
    rows = [row for chunk in read_chunks(files[0], findings) for row in chunk]
    names = {row[0].strip(): " ".join(row[1].split()) for row in rows if len(row) > 1 and row[0].strip() != "LabelName"}
    ids, labels = order_classes(used, list(names), findings)
    return [names.get(label_name, label_name) for label_name in ids], labels


def _choose(folders: Sequence[Path], ids: Sequence[str]) -> tuple[Path, ImageIndex]:
    """Return the folder with the images, and its files."""
    sample = (
        [ids[place] for place in np.unique(np.linspace(0, len(ids) - 1, _NUM_LOOKED_AT).astype(int))] if ids else []
    )
    best, most = (folders[0], ImageIndex(())), 0
    for folder in folders:
        index = ImageIndex(list_images(folder))
        found = sum(index.find(image_id) is not None for image_id in sample)
        if found > most:
            best, most = (folder, index), found
        if most == len(sample):
            break
    return best


# --- writing -------------------------------------------------------------------------------------------------------


def write_openimages(parts: Mapping[Part, Dataset], copies: ImageCopies) -> None:
    """Write ``train-annotations-bbox.csv``, ``train-images.csv``, ``train/`` and so on, and the table of classes."""
    for part, dataset in parts.items():
        below = {"val": "validation", "all": "images"}.get(part, part)
        names = [os.path.splitext(name.removeprefix(f"{below}/"))[0] for name in copies.place(dataset, below)]
        prefix = "" if part == "all" else f"{below}-"
        write_text_file(copies.folder / f"{prefix}annotations-bbox.csv", _to_csv(_HEADER, _rows(dataset, names)))
        write_text_file(copies.folder / f"{prefix}images.csv", _to_csv(("ImageID",), [[name] for name in names]))
    classes = next(iter(parts.values())).class_names
    write_text_file(copies.folder / "class-descriptions-boxable.csv", _to_csv((), [[name, name] for name in classes]))


def _rows(dataset: Dataset, names: Sequence[str]) -> list[list[Any]]:
    sizes = np.maximum(dataset.sizes[dataset.image_of_box][:, [1, 0]], 1)
    left_top, right_bottom = dataset.boxes_xywh[:, :2] / sizes, dataset.boxes_xywh.reshape(-1, 2, 2).sum(axis=1) / sizes
    columns = zip(
        dataset.image_of_box.tolist(),
        dataset.labels.tolist(),
        left_top.tolist(),
        right_bottom.tolist(),
        dataset.is_crowd.tolist(),
        strict=True,
    )
    return [
        [names[image], "xclick", dataset.class_names[label], 1, x1, x2, y1, y2, 0, 0, int(is_crowd)]
        for image, label, (x1, y1), (x2, y2), is_crowd in columns
    ]


def _to_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([header, *rows] if header else rows)
    return out.getvalue()


OPENIMAGES = Format(
    name="openimages",
    title="OpenImages CSV",
    find=find_openimages,
    read=read_openimages,
    write=write_openimages,
    cannot_hold="areas, ids of images, boxes and categories; a crowd is written as IsGroupOf",
)
