"""YOLO: one text file for each image, one line for each object, in parts of the image's width and height.

A line is ``class cx cy w h``, or ``class x1 y1 x2 y2 x3 y3 …``, a polygon, whose enclosing box counts. An image without
a text file, or with an empty one, is a background image.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from numpy.typing import NDArray

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.columns import Columns, to_dataset
from effdet.data.formats.interface import Format, Part, Source
from effdet.data.formats.labels import check_class_numbers
from effdet.data.formats.text_files import decode, read_bytes, read_numbered_classes
from effdet.data.formats.values import are_percent, number, short
from effdet.data.formats.yolo_layouts import find_yolo, image_paths, label_files, read_data_yaml
from effdet.data.image_copies import ImageCopies, write_text_file
from effdet.data.text_column import TextColumn
from effdet.images.faults import printable

Array = NDArray[Any]

_CHUNK = 100_000  # lines that are held as texts at a time


def read_yolo(source: Source) -> Dataset:
    """Read one part of a YOLO data set.

    Raises:
        DataError: If data.yaml or a list of images cannot be read, or there are no images.
    """
    findings = FindingList()
    paths = image_paths(source, findings)
    if not paths:
        raise DataError(f"{source.annotations}: no image files in {', '.join(map(str, source.folders)) or 'its lists'}")
    paths, folder = _with_common_folder(paths)
    names = [path.relative_to(folder).as_posix() for path in paths]
    has_keypoints = source.annotations.is_file() and "kpt_shape" in read_data_yaml(source.annotations, findings)
    lines = _read_lines(source, paths, has_keypoints, findings)
    classes = _class_names(source, lines.classes, findings)
    known = np.isin(lines.classes, np.array(list(classes), dtype=np.int64))
    rows = np.flatnonzero(~known)
    findings.add_all(
        "error",
        "labels have a class that data.yaml or classes.txt does not list",
        rows.tolist(),
        lambda row: f"class {lines.classes[row]} in the labels of {names[int(lines.images[row])]}",
        "list it, or remove the labels",
    )
    check_class_numbers(
        np.unique(lines.classes[~known]).tolist(), np.unique(lines.classes[known]).tolist(), classes, findings
    )
    ids = np.array(sorted(classes), dtype=np.int64)
    if known.any() and (np.abs(lines.boxes[known]) > 1.5).any(axis=1).mean() > 0.5:
        unit = "percent of the image" if are_percent(lines.boxes[known]) else "pixels"
        findings.add(
            "error", f"boxes are in {unit}", advice="they must be parts of the image's width and height, in [0, 1]"
        )
    return to_dataset(
        Columns(
            file=source.annotations,
            folders=[folder],
            names=TextColumn.from_texts(names),
            images=lines.images[known],
            boxes=lines.boxes[known],
            labels=np.searchsorted(ids, lines.classes[known]),
            class_names=[classes[int(class_id)] for class_id in ids],
            category_ids=ids.tolist(),
            are_relative=True,
            findings=findings,
        )
    )


# --- labels --------------------------------------------------------------------------------------------------------


class Lines(NamedTuple):
    """All objects, ordered by image."""

    images: Array  # (M,) number of the image
    classes: Array  # (M,) int64, as written
    boxes: Array  # (M, 4) x, y, width, height, relative


def _with_common_folder(paths: list[Path]) -> tuple[list[Path], Path]:
    """Return the files and the deepest folder that holds them all; absolute where only some of the files are.

    Raises:
        DataError: If there is no such folder, as for two drives of Windows.
    """
    if len({path.is_absolute() for path in paths}) > 1:
        paths = [Path(os.path.abspath(path)) for path in paths]
    try:
        return paths, Path(os.path.commonpath([path.parent for path in paths]))
    except ValueError as error:
        raise DataError(f"the images of a part must lie on one drive: {error}") from None


def _read_lines(source: Source, paths: Sequence[Path], has_keypoints: bool, findings: FindingList) -> Lines:
    """Read the label files of all images; lines that cannot be read become findings."""
    files = label_files(paths)
    there = {folder: set(os.listdir(folder)) for folder in {file.parent for file in files} if folder.is_dir()}
    files = [_as_written(file, there) for file in files]
    if not any(file.name in there.get(file.parent, ()) for file in files):
        _name_elsewhere(source, files, findings)
    parts: list[Lines] = []
    images: list[int] = []
    tokens: list[list[bytes]] = []
    for image, file in enumerate(files):
        if file.name in there.get(file.parent, ()):
            lines = _lines_of(file, findings)
            images += [image] * len(lines)
            tokens += lines
        if len(tokens) > _CHUNK or image == len(files) - 1:
            parts.append(_parse(images, tokens, files, has_keypoints, findings))
            images, tokens = [], []
    _name_orphans(files, there, findings)
    return Lines(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _as_written(file: Path, there: Mapping[Path, set[str]]) -> Path:
    """Return a label file as its folder calls it: letters with accents may be one or two characters (NFC, NFD)."""
    names = there.get(file.parent, set())
    if file.name in names or file.name.isascii():
        return file
    forms = (unicodedata.normalize(form, file.name) for form in ("NFC", "NFD"))
    return file.with_name(next((name for name in forms if name in names), file.name))


def _name_elsewhere(source: Source, files: Sequence[Path], findings: FindingList) -> None:
    """Say in which other folder of the data set label files with the names of these are."""
    wanted = {file.name for file in files}
    for where, folders, names in os.walk(source.root or source.folders_upwards()[0]):
        folders[:] = [name for name in folders if not name.startswith(".")]
        count = len(wanted.intersection(names))
        if 2 * count > len(wanted) and Path(where) != files[0].parent:
            text = f"no image has its label file in {printable(str(files[0].parent))}"
            advice = f"{count:,} files of these names are in {printable(where)}: move them"
            findings.add("error", text, advice=advice)
            return


def _lines_of(file: Path, findings: FindingList) -> list[list[bytes]]:
    """Return the values of each line of a label file."""
    try:
        content = read_bytes(file)
        if not content.isascii():
            content = decode(content, file, findings).encode()
    except DataError as error:
        findings.add("error", "label files cannot be read", str(error), "correct or remove them")
        return []
    return [values for line in content.splitlines() if (values := line.split())]


def _name_orphans(files: Sequence[Path], there: Mapping[Path, set[str]], findings: FindingList) -> None:
    """Say which label files have no image. Texts beside images may be anything, so only ``labels`` is looked at."""
    wanted: dict[Path, set[str]] = {
        folder: {"classes.txt"} for folder in there if "labels" in map(str.lower, folder.parts)
    }
    for file in files:
        if file.parent in wanted:
            wanted[file.parent].add(file.name)
    orphans = [
        name for folder, known in wanted.items() for name in sorted(there[folder] - known) if name.endswith(".txt")
    ]
    findings.add_all("warning", "label files have no image", orphans, advice="add the images, or remove the files")


def _parse(
    images: list[int], tokens: list[list[bytes]], files: Sequence[Path], has_keypoints: bool, findings: FindingList
) -> Lines:
    counts = np.array([len(values) for values in tokens], dtype=np.int64)
    classes = np.full(len(tokens), -1, dtype=np.int64)
    boxes = np.zeros((len(tokens), 4))
    is_read = np.zeros(len(tokens), dtype=bool)
    for count in np.unique(counts).tolist():
        is_box = count in (5, 6) or (has_keypoints and count >= 5)
        if not is_box and (count < 7 or count % 2 == 0):
            continue
        rows = np.flatnonzero(counts == count)
        numbers, are_numbers = _numbers([tokens[row][: 5 if is_box else None] for row in rows.tolist()])
        boxes[rows] = _from_centres(numbers[:, 1:]) if is_box else _around(numbers[:, 1:])
        is_read[rows] = are_numbers & _are_whole(numbers[:, 0])
        classes[rows[is_read[rows]]] = numbers[is_read[rows], 0].astype(np.int64)

    def name(row: int) -> str:
        return f"{files[images[row]].name} has {short(b' '.join(tokens[row]).decode(errors='replace'))}"

    advice = "a line must be: class cx cy w h, or class x1 y1 x2 y2 x3 y3 …"
    findings.add_all("error", "lines of label files cannot be read", np.flatnonzero(~is_read).tolist(), name, advice)
    scored = np.flatnonzero(is_read & (counts == 6)).tolist() if not has_keypoints else []
    findings.add_all("warning", "lines have six numbers", scored, name, "the last one, a score, is left out")
    return Lines(np.array(images, dtype=np.int64)[is_read], classes[is_read], boxes[is_read])


def _are_whole(values: Array) -> Array:
    known = np.where(np.isfinite(values), values, 0.5)
    return (known == np.round(known)) & (np.abs(known) < 2**31)


def _numbers(rows: list[list[bytes]]) -> tuple[Array, Array]:
    """Return (M, n) numbers, and (M,) whether all of a row are numbers."""
    try:
        if not any(b"_" in value for row in rows for value in row):  # which Python would leave out of a number
            return np.array(rows, dtype=np.bytes_).astype(np.float64), np.ones(len(rows), dtype=bool)
    except ValueError:
        pass
    numbers = [[number(value.decode(errors="replace")) for value in row] for row in rows]
    are_numbers = np.array([None not in row for row in numbers], dtype=bool)
    return np.array([[np.nan if value is None else value for value in row] for row in numbers]), are_numbers


def _from_centres(boxes: Array) -> Array:
    return np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, 2:]], axis=1)


def _around(polygons: Array) -> Array:
    """Return the boxes around polygons, (M, 2n) x and y in turn."""
    xs, ys = polygons[:, ::2], polygons[:, 1::2]
    left, top = xs.min(axis=1), ys.min(axis=1)
    return np.stack([left, top, xs.max(axis=1) - left, ys.max(axis=1) - top], axis=1)


def _class_names(source: Source, used: Array, findings: FindingList) -> dict[int, str]:
    """Return the class names by number."""
    file = source.annotations
    content = read_data_yaml(file, findings) if file.is_file() else {}
    names = content.get("names")
    if isinstance(names, list):
        names = dict(enumerate(names))
    if isinstance(names, dict) and all(type(key) is int and 0 <= key < 2**31 for key in names):
        if content.get("nc", len(names)) != len(names):
            text = f"{file.name} has nc: {short(content['nc'])}, but {len(names)} names"
            findings.add("warning", text, advice="the names count; correct nc, or complete them")
        return {int(key): str(name) for key, name in sorted(names.items())}
    if names is not None:
        raise DataError(
            f"{file}: names must be a list of class names, or a map from numbers to them, got {short(names)}"
        )
    root = source.root or file.parent
    near = [folder for images in source.folders for folder in (images, images.parent) if folder.is_relative_to(root)]
    if listed := read_numbered_classes([*source.folders_upwards(), *near], findings):
        return listed
    highest = max([int(used.max(initial=-1)) + 1, _count(content.get("nc"))])
    findings.add(
        "warning", "there are no class names", advice="write them to classes.txt, one a line; numbers are used"
    )
    return {number: str(number) for number in range(min(highest, 100_000))}


def _count(value: Any) -> int:
    return value if type(value) is int and 0 < value < 100_000 else 0


# --- writing -------------------------------------------------------------------------------------------------------


def write_yolo(parts: Mapping[Part, Dataset], copies: ImageCopies) -> None:
    """Write ``images/train/``, ``labels/train/``, … and ``data.yaml``; ``classes.txt`` where there are no parts."""
    for part, dataset in parts.items():
        below = "images" if part == "all" else f"images/{part}"
        names = copies.place(dataset, below)
        (copies.folder / below.replace("images", "labels", 1)).mkdir(parents=True, exist_ok=True)
        _write_labels(dataset, [f"labels{name.removeprefix('images')}" for name in names], copies.folder)
    class_names = next(iter(parts.values())).class_names
    if "all" in parts:
        write_text_file(copies.folder / "classes.txt", "".join(f"{' '.join(name.split())}\n" for name in class_names))
        return
    content: dict[str, Any] = {
        "path": ".",
        **{part: f"images/{part}" for part in parts},
        "names": dict(enumerate(class_names)),
    }
    text = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    write_text_file(copies.folder / "data.yaml", text)


def _write_labels(dataset: Dataset, names: Sequence[str], folder: Path) -> None:
    for index, name in enumerate(names):
        rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
        boxes = dataset.boxes_xywh[rows]
        height, width = dataset.sizes[index].tolist()
        scale = np.array([width, height, width, height], dtype=np.float64)
        centred = np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], axis=1) / np.where(
            scale > 0, scale, 1
        )
        lines = [
            f"{label} {' '.join(map(repr, row))}\n"
            for label, row in zip(dataset.labels[rows].tolist(), centred.tolist(), strict=True)
        ]
        write_text_file((folder / name).with_suffix(".txt"), "".join(lines))


YOLO = Format(
    name="yolo",
    title="YOLO",
    find=find_yolo,
    read=read_yolo,
    write=write_yolo,
    cannot_hold="crowd flags, areas, ids of images, boxes and categories",
)
