"""LabelMe: one JSON file for each image, with rectangles, polygons, circles and masks."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats.coco_layouts import SPLIT_NAMES
from effdet.data.formats.folders import existing_folders, files_in
from effdet.data.formats.interface import SPLITS, Format, Found, Part, Source
from effdet.data.formats.object_list import ObjectList
from effdet.data.formats.shapes import Box, box_around
from effdet.data.formats.text_files import kind_of_json, read_class_list, read_json
from effdet.data.formats.values import is_encodable, number, short, side
from effdet.data.image_lists import ImageIndex, list_images

_FOLDERS = ("annotations", "labels", "json", "jsons")
_WITHOUT_BOX = {"point", "points", "line", "linestrip"}


def find_labelme(root: Path) -> Found:
    """Return the folders of LabelMe's JSON files: the folder itself, or one for each part."""
    if not root.is_dir():
        return {}
    found: Found = {}
    for part in SPLITS:
        words = SPLIT_NAMES[part]
        for folder in existing_folders(root, [*words, *(f"{name}/{word}" for name in _FOLDERS for word in words)]):
            if source := _in_folder(folder, root, part):
                found.setdefault(part, source)
    if found:
        return found
    whole = _in_folder(root, root, "all")
    return {"all": whole} if whole else {}


def _in_folder(folder: Path, root: Path, part: Part) -> Source | None:
    for place in (folder, *existing_folders(folder, _FOLDERS)):
        if any(kind_of_json(path) == "labelme" for path in files_in(place, ".json")[:20]):
            names = [".", "images", *(f"images/{word}" for word in (SPLIT_NAMES[part] if part != "all" else ()))]
            images = dict.fromkeys([place, *existing_folders(folder, names[:2]), *existing_folders(root, names[1:])])
            return Source(place, tuple(images), format="labelme", part=part)
    return None


def read_labelme(source: Source) -> Dataset:
    """Read all JSON files of one folder.

    Raises:
        DataError: If none of them is LabelMe's.
    """
    objects = ObjectList()
    index = {folder: ImageIndex(list_images(folder)) for folder in source.folders}
    files = [path for path in files_in(source.annotations, ".json") if path.name != "splits.json"]
    for file in files:
        _read_file(file, source, index, objects)
    if not objects.names:
        raise DataError(f"{source.annotations}: none of its {len(files)} JSON files can be read as LabelMe's")
    unlabelled = sorted(index[source.annotations].names - set(objects.names)) if source.annotations in index else []
    objects.findings.add_all("note", "images have no JSON file", unlabelled, advice="they are left out")
    listed = read_class_list(source.folders_upwards(), objects.findings)
    return objects.to_dataset(source.annotations, source.folders, listed)


def _read_file(file: Path, source: Source, index: dict[Path, ImageIndex], objects: ObjectList) -> None:
    try:
        content = read_json(file, objects.findings)
    except DataError as error:
        objects.findings.add("error", "annotation files cannot be read", str(error), "correct or remove them")
        return
    if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
        objects.findings.add("warning", "JSON files are not LabelMe's", file.name, "they are left out")
        return
    objects.add_image(
        _image_name(content, file, source, index), (side(content.get("imageHeight")), side(content.get("imageWidth")))
    )
    for place, shape in enumerate(content["shapes"]):
        _read_shape(shape, f"shapes[{place}] of {file.name}", objects)


def _image_name(content: dict[str, Any], file: Path, source: Source, index: dict[Path, ImageIndex]) -> str:
    """Return the image file: the one that ``imagePath`` says, relative to the JSON file, or that of the same name."""
    said = content.get("imagePath")
    name = os.path.normpath(said.replace("\\", "/")) if isinstance(said, str) and said and is_encodable(said) else ""
    for candidate in (name, os.path.basename(name), file.stem):
        for folder in source.folders:
            if candidate and (found := index[folder].find(candidate)):
                return found
    return name or f"{file.stem}.jpg"


def _read_shape(shape: Any, where: str, objects: ObjectList) -> None:
    kind = shape.get("shape_type", "polygon") if isinstance(shape, dict) else None
    if isinstance(kind, str) and kind in _WITHOUT_BOX:
        objects.findings.add("note", f"shapes of the kind {kind} have no box", where, "they do not count")
        return
    box = _box(kind, shape.get("points")) if isinstance(shape, dict) else None
    label = shape.get("label") if isinstance(shape, dict) else None
    if box is None or not isinstance(label, str) or not label.strip() or not is_encodable(label):
        example = f"{where} has {short(label)} and {short(shape.get('points') if isinstance(shape, dict) else shape)}"
        objects.findings.add("error", "shapes have no box or no label", example, "draw them again, or remove them")
        return
    objects.add(box, label)


def _box(kind: Any, points: Any) -> Box | None:
    if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
        return None
    pairs = [(number(x), number(y)) for x, y in points]
    known = [(x, y) for x, y in pairs if x is not None and y is not None]
    if len(known) != len(points):
        return None
    if kind == "circle" and len(known) == 2:
        (x, y), edge = known
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, 2 * radius, 2 * radius
    least = {"rectangle": 2, "mask": 2}.get(kind, 3) if isinstance(kind, str) else 3
    return box_around(known) if len(known) >= least else None


LABELME = Format(name="labelme", title="LabelMe JSON", find=find_labelme, read=read_labelme)
