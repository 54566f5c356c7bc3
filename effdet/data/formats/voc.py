"""Pascal VOC: one XML file for each image, boxes as two corners in pixels.

The files of the PASCAL challenge count pixels from 1, and a box holds its last pixel: 1 is taken from xmin and ymin.
Other tools that write this form (labelImg, CVAT, Roboflow, this one) count from 0, and nothing is changed. A set counts
from 1 if ``<database>`` or ``<annotation>`` says "VOC" and a year, and no coordinate of the set is below 1.

``difficult`` objects become crowds: training ignores them, and finding them or not changes no AP, as in the challenge.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

import numpy as np

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.columns import Columns, to_dataset
from effdet.data.formats.interface import Format, Part, Source
from effdet.data.formats.labels import number_labels
from effdet.data.formats.text_files import read_class_list, read_text, read_xml
from effdet.data.formats.values import flag, is_encodable, number, short, side
from effdet.data.formats.voc_layouts import find_voc
from effdet.data.image_copies import ImageCopies, write_text_file
from effdet.data.image_lists import ImageIndex, list_images
from effdet.data.text_column import TextColumn

_CORNERS = ("xmin", "ymin", "xmax", "ymax")


@dataclass
class _Rows:
    """What the XML files hold, object by object."""

    names: list[str] = field(default_factory=list)  # I
    sizes: list[tuple[int, int]] = field(default_factory=list)  # I
    images: list[int] = field(default_factory=list)  # M
    corners: list[tuple[float, ...]] = field(default_factory=list)  # M
    labels: list[str] = field(default_factory=list)  # M
    is_difficult: list[bool] = field(default_factory=list)  # M
    files_of_pascal: int = 0


def read_voc(source: Source) -> Dataset:
    """Read one part of a Pascal VOC data set.

    Raises:
        DataError: If a list of ImageSets cannot be read, or there are no XML files.
    """
    findings = FindingList()
    stems = _listed(source, findings)
    images = list_images(source.folders[0]) if len(source.folders) == 1 else []
    index = ImageIndex(images)
    rows = _Rows()
    for stem in stems:
        _read_file(source.annotations / f"{stem}.xml", stem, index, rows, findings)
    if source.details is None and index.names:
        unlabelled = sorted(index.names - set(rows.names))
        findings.add_all("note", "images have no XML file", unlabelled, advice="they are left out")
    corners = np.array(rows.corners, dtype=np.float64).reshape(-1, 4)
    if rows.files_of_pascal > len(rows.names) / 2:
        _shift(corners, findings)
    listed = read_class_list(source.folders_upwards(), findings)
    class_names, labels = number_labels(rows.labels, listed, findings)
    difficult = np.array(rows.is_difficult, dtype=bool)
    if difficult.any():
        advice = "they are ignored in training, and no AP counts them"
        findings.add("note", f"{int(difficult.sum()):,} objects are marked as difficult", advice=advice)
    return to_dataset(
        Columns(
            file=source.annotations,
            folders=source.folders,
            names=TextColumn.from_texts(rows.names),
            images=np.array(rows.images, dtype=np.int64),
            boxes=np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1),
            labels=labels,
            class_names=class_names,
            sizes=np.array(rows.sizes, dtype=np.int64).reshape(-1, 2),
            is_crowd=difficult,
            findings=findings,
        )
    )


def _listed(source: Source, findings: FindingList) -> list[str]:
    """Return the names of the XML files without their suffix: those that ImageSets lists, or all."""
    if source.details is None:
        found = [
            os.path.relpath(os.path.join(where, name), source.annotations).replace(os.sep, "/")
            for where, _, names in os.walk(source.annotations)
            for name in names
        ]
        return sorted(name[:-4] for name in found if name.lower().endswith(".xml") and is_encodable(name))
    lines = (line.strip() for line in read_text(Path(source.details), findings).splitlines())
    stems = [
        re.sub(r"\s+-?[01]$", "", line) for line in lines if line
    ]  # the lists of one class say -1, 0 or 1 behind it
    if not stems:
        raise DataError(f"{source.details}: must name the images of {source.part}, one a line, but it is empty")
    repeated = len(stems) - len(dict.fromkeys(stems))
    if repeated:
        findings.add("warning", f"{Path(source.details).name} names {repeated} images twice", advice="they count once")
    return [stem for stem in dict.fromkeys(stems) if is_encodable(stem)]


def _read_file(file: Path, stem: str, index: ImageIndex, rows: _Rows, findings: FindingList) -> None:
    try:
        root = read_xml(file, findings)
    except DataError as error:
        findings.add("error", "annotation files cannot be read", str(error), "correct or remove them")
        return
    if root.tag != "annotation":
        example = f"{file.name} has <{root.tag[:40]}>"
        findings.add("error", "XML files do not hold <annotation>", example, "remove them")
        return
    rows.files_of_pascal += _says_pascal(root)
    image = len(rows.names)
    rows.names.append(_image_name(root, stem, index))
    rows.sizes.append((side(_text(root, "size/height")), side(_text(root, "size/width"))))
    if 0 in rows.sizes[-1]:
        findings.add("note", "XML files give no size of the image", file.name, "it is taken from the image file")
    for place, item in enumerate(root.iterfind("object")):
        _read_object(item, f"object {place + 1} of {file.name}", image, rows, findings)


def _says_pascal(root: Element) -> bool:
    words = f"{_text(root, 'source/database')} {_text(root, 'source/annotation')}"
    return re.search(r"VOC\s*(19|20)\d\d", words) is not None


def _image_name(root: Element, stem: str, index: ImageIndex) -> str:
    """Return the image file: the one that ``filename`` says, or the one that is called like the XML file."""
    said = (_text(root, "filename") or "").strip().replace("\\", "/")
    for name in (said, stem, said.rpartition("/")[2], os.path.splitext(said)[0]):
        if name and (found := index.find(name)) is not None:
            same_folder = f"{stem.rpartition('/')[0]}/{said}".lstrip("/")
            return same_folder if same_folder in index.names else found
    return said if said and is_encodable(said) else f"{stem}.jpg"


def _text(element: Element, path: str) -> str | None:
    found = element.find(path)
    return None if found is None else found.text


def _read_object(item: Element, where: str, image: int, rows: _Rows, findings: FindingList) -> None:
    name = " ".join((_text(item, "name") or "").split())
    texts = [_text(item, f"bndbox/{corner}") for corner in _CORNERS]
    corners = [number(text.strip()) if text is not None else None for text in texts]
    if None in corners or not name:
        example = f"{where} has {short(texts)} of class {short(name)}"
        findings.add(
            "error", "objects have no box or no name", example, "write name, and xmin, ymin, xmax, ymax in bndbox"
        )
        return
    is_difficult = flag(_text(item, "difficult"))
    if is_difficult is None:
        findings.add("error", "values of difficult are neither 0 nor 1", where, "write 0 or 1")
    rows.images.append(image)
    rows.corners.append(tuple(corners))  # type: ignore[arg-type]
    rows.labels.append(name)
    rows.is_difficult.append(bool(is_difficult))


def _shift(corners: np.ndarray[Any, Any], findings: FindingList) -> None:
    """Count from 0 what the PASCAL challenge counts from 1, in place."""
    if not (corners[:, :2] >= 1).all():
        text = "the files name the PASCAL VOC challenge, whose coordinates count from 1, but some are below 1"
        findings.add("note", text, advice="they are taken as counted from 0")
        return
    corners[:, :2] -= 1
    text = "coordinates count from 1, as the files name the PASCAL VOC challenge"
    findings.add("note", text, advice="1 is taken from xmin and ymin")


# --- writing -------------------------------------------------------------------------------------------------------


def write_voc(parts: Mapping[Part, Dataset], copies: ImageCopies) -> None:
    """Write ``JPEGImages/``, ``Annotations/``, ``ImageSets/Main/train.txt`` and so on, and ``classes.txt``."""
    for part, dataset in parts.items():
        names = [name.removeprefix("JPEGImages/") for name in copies.place(dataset, "JPEGImages")]
        for index, name in enumerate(names):
            file = copies.folder / "Annotations" / f"{os.path.splitext(name)[0]}.xml"
            write_text_file(file, _to_xml(dataset, index, name))
        if part != "all":
            lines = "".join(f"{os.path.splitext(name)[0]}\n" for name in names)
            write_text_file(copies.folder / "ImageSets" / "Main" / f"{part}.txt", lines)
    classes = next(iter(parts.values())).class_names
    write_text_file(copies.folder / "classes.txt", "".join(f"{' '.join(name.split())}\n" for name in classes))


def _to_xml(dataset: Dataset, index: int, name: str) -> str:
    rows = slice(dataset.offsets[index], dataset.offsets[index + 1])
    height, width = dataset.sizes[index].tolist()
    corners = np.concatenate(
        [dataset.boxes_xywh[rows, :2], dataset.boxes_xywh[rows].reshape(-1, 2, 2).sum(axis=1)], axis=1
    )
    objects = [
        f"  <object>\n    <name>{escape(dataset.class_names[label])}</name>\n"
        f"    <difficult>{int(is_crowd)}</difficult>\n"
        f"    <bndbox>{''.join(f'<{key}>{value!r}</{key}>' for key, value in zip(_CORNERS, box, strict=True))}"
        "</bndbox>\n  </object>\n"
        for label, is_crowd, box in zip(
            dataset.labels[rows].tolist(), dataset.is_crowd[rows].tolist(), corners.tolist(), strict=True
        )
    ]
    size = f"<width>{width}</width><height>{height}</height><depth>3</depth>"
    head = f"  <filename>{escape(name)}</filename>\n  <size>{size}</size>\n"
    return f"<annotation>\n{head}{''.join(objects)}</annotation>\n"


VOC = Format(
    name="voc",
    title="Pascal VOC",
    find=find_voc,
    read=read_voc,
    write=write_voc,
    cannot_hold="areas, ids of images, boxes and categories; a crowd is written as difficult",
)
