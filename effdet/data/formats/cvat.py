"""CVAT's own XML ("CVAT for images 1.1"): one file for all images; boxes, polygons, ellipses and masks."""

from __future__ import annotations

import math
from pathlib import Path
from xml.etree.ElementTree import Element

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats.coco_layouts import SPLIT_NAMES, likely_image_folders, split_in_name
from effdet.data.formats.folders import existing_folders, files_in
from effdet.data.formats.interface import Format, Found, Source
from effdet.data.formats.object_list import ObjectList
from effdet.data.formats.shapes import Box, box_around, turned_ellipse, turned_rectangle
from effdet.data.formats.text_files import kind_of_xml, read_xml
from effdet.data.formats.values import is_encodable, number, short, side

_WITHOUT_BOX = {"tag", "points", "polyline", "skeleton", "cuboid"}


def find_cvat(root: Path) -> Found:
    """Return CVAT's XML files in a folder, or a file itself."""
    if not root.is_dir():
        return {"all": Source(root, format="cvat")} if _is_cvat(root) else {}
    folders = existing_folders(root, [".", "annotations", *(word for names in SPLIT_NAMES.values() for word in names)])
    files = [path for folder in folders for path in files_in(folder, ".xml")[:50] if _is_cvat(path)]
    found: Found = {}
    for file in files:
        part = split_in_name(file.relative_to(root).as_posix())
        if part is not None:
            found.setdefault(part, Source(file, format="cvat", part=part))
    return found or ({"all": Source(files[0], format="cvat")} if len(files) == 1 else {})


def _is_cvat(path: Path) -> bool:
    return path.suffix.lower() == ".xml" and kind_of_xml(path) == "cvat"


def read_cvat(source: Source) -> Dataset:
    """Read one file.

    Raises:
        DataError: If it is not CVAT's XML for images.
    """
    objects = ObjectList()
    root = read_xml(source.annotations, objects.findings)
    if root.tag != "annotations":
        raise DataError(f"{source.annotations}: must be CVAT's XML with <annotations>, but it has <{root.tag[:40]}>")
    if root.find("track") is not None:
        raise DataError(
            f"{source.annotations}: must be 'CVAT for images', but it holds the tracks of a video; "
            "export the frames as images"
        )
    for place, image in enumerate(root.iterfind("image")):
        name = (image.get("name") or "").replace("\\", "/")
        if not name or not is_encodable(name):
            objects.findings.add("error", "images have no name", f"image {place + 1}", "name the file of each image")
            continue
        objects.add_image(name, (side(image.get("height")), side(image.get("width"))))
        for shape in image:
            _read_shape(shape, name, objects)
    labels = [name.text for name in root.iterfind("meta//labels/label/name")]
    listed = list(dict.fromkeys(" ".join(name.split()) for name in labels if name and name.strip()))
    return objects.to_dataset(source.annotations, source.folders or likely_image_folders(source), listed)


def _read_shape(shape: Element, image: str, objects: ObjectList) -> None:
    if shape.tag in _WITHOUT_BOX:
        objects.findings.add("note", f"shapes <{shape.tag}> have no box", f"in {image}", "they do not count")
        return
    box, label = _box(shape), shape.get("label")
    if box is None or not label or not is_encodable(label):
        example = f"<{shape.tag}> of {image} has {short(dict(shape.attrib))}"
        objects.findings.add("error", "shapes have no box or no label", example, "draw them again, or remove them")
        return
    objects.add(box, label)


def _box(shape: Element) -> Box | None:
    keys = {
        "box": ("xtl", "ytl", "xbr", "ybr"),
        "ellipse": ("cx", "cy", "rx", "ry"),
        "mask": ("left", "top", "width", "height"),
    }.get(shape.tag)
    if keys is None:
        points = [_point(text) for text in (shape.get("points") or "").split(";")]
        known = [point for point in points if point is not None]
        return box_around(known) if shape.tag == "polygon" and len(known) == len(points) >= 3 else None
    values = [number(shape.get(key)) for key in keys]
    a, b, c, d = (math.nan if value is None else value for value in values)
    angle = number(shape.get("rotation", "0"))
    if None in values or angle is None or not math.isfinite(angle):
        return None
    if shape.tag == "mask":
        return a, b, c, d
    if shape.tag == "ellipse":
        return turned_ellipse((a, b), (c, d), angle)
    return _turned_about_centre((a, b, c - a, d - b), angle)


def _turned_about_centre(box: Box, degrees: float) -> Box:
    """Return the box around a rectangle that is turned about its centre, as CVAT does."""
    x, y, width, height = box
    if degrees % 360 == 0:
        return box
    turned = turned_rectangle((0.0, 0.0), (width, height), degrees)
    return x + width / 2 - turned[2] / 2, y + height / 2 - turned[3] / 2, turned[2], turned[3]


def _point(text: str) -> tuple[float, float] | None:
    values = [number(part.strip()) for part in text.split(",")]
    if len(values) != 2 or values[0] is None or values[1] is None:
        return None
    return values[0], values[1]


CVAT = Format(name="cvat", title="CVAT XML", find=find_cvat, read=read_cvat)
