"""Label Studio's own JSON, full or minimal: boxes in per cent of the image."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats.coco_layouts import SPLIT_NAMES, likely_image_folders, split_in_name
from effdet.data.formats.folders import existing_folders, files_in
from effdet.data.formats.interface import Format, Found, Source
from effdet.data.formats.object_list import ObjectList
from effdet.data.formats.shapes import Box, box_around, turned_ellipse, turned_rectangle
from effdet.data.formats.text_files import kind_of_json, read_class_list, read_json
from effdet.data.formats.values import is_encodable, number, short, side

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")  # what Label Studio puts before the name of an uploaded file
_SHAPES = {"rectanglelabels": "rectangle", "polygonlabels": "polygon", "ellipselabels": "ellipse"}
_WITHOUT_BOX = {"choices", "textarea", "rating", "number", "taxonomy", "keypointlabels", "keypoint", "relation"}


def find_label_studio(root: Path) -> Found:
    """Return Label Studio's JSON files in a folder, or a file itself."""
    if not root.is_dir():
        return {"all": Source(root, format="label-studio")} if _is_label_studio(root) else {}
    words = [word for names in SPLIT_NAMES.values() for word in names]
    folders = existing_folders(root, [".", "annotations", *words])
    files = [path for folder in folders for path in files_in(folder, ".json")[:50] if _is_label_studio(path)]
    found: Found = {}
    for file in files:
        part = split_in_name(file.relative_to(root).as_posix())
        if part is not None:
            found.setdefault(part, Source(file, format="label-studio", part=part))
    return found or ({"all": Source(files[0], format="label-studio")} if len(files) == 1 else {})


def _is_label_studio(path: Path) -> bool:
    return path.suffix.lower() == ".json" and kind_of_json(path) == "label-studio"


def read_label_studio(source: Source) -> Dataset:
    """Read one file of tasks.

    Raises:
        DataError: If it is not a list of tasks.
    """
    objects = ObjectList()
    tasks = read_json(source.annotations, objects.findings, "Label Studio JSON")
    if not isinstance(tasks, list):
        raise DataError(f"{source.annotations}: must be a list of Label Studio's tasks, got {short(tasks)}")
    for place, task in enumerate(tasks):
        _read_task(task, f"task {place + 1}", objects)
    listed = read_class_list(source.folders_upwards(), objects.findings)
    folders = source.folders or likely_image_folders(source)
    objects.names = _without_upload_prefix(objects.names, folders)
    return objects.to_dataset(source.annotations, folders, listed)


def _read_task(task: Any, where: str, objects: ObjectList) -> None:
    name = _image_name(task) if isinstance(task, dict) else None
    if name is None:
        objects.findings.add("error", "tasks have no image", f"{where} has {short(task)}", "data must name an image")
        return
    results = _results(task, name, objects)
    sizes = [result for result in results if isinstance(result, dict)] or [{}]
    size = side(sizes[0].get("original_height")), side(sizes[0].get("original_width"))
    objects.add_image(name, size)
    for number_of_result, result in enumerate(results):
        _read_result(result, f"result {number_of_result + 1} of {name}", objects)


def _image_name(task: dict[str, Any]) -> str | None:
    """Return the image file of a task: the last part of its address, or what ``?d=`` says of local files."""
    data = task["data"] if isinstance(task.get("data"), dict) else task
    values = [data.get(key) for key in ("image", "img", "image_url", "ocr", "captioning")]
    values += [value for value in data.values() if isinstance(value, str) and re.search(r"\.\w{3,4}$", value)]
    address = next((value for value in values if isinstance(value, str) and value), None)
    if address is None or not is_encodable(address):
        return None
    try:
        parts = urlsplit(address)
        local = parse_qs(parts.query).get("d", [""])[0]
    except ValueError:
        return address.replace("\\", "/")
    if local:
        return unquote(local).replace("\\", "/")
    if parts.scheme in ("http", "https", "s3", "gs", "azure-blob"):
        return unquote(parts.path).lstrip("/")
    return unquote(address).replace("\\", "/").removeprefix("/data/upload/").removeprefix("/data/")


def _results(task: dict[str, Any], name: str, objects: ObjectList) -> list[Any]:
    """Return the results of a task: of several annotators those of the ground truth, else of the last one."""
    given = task.get("annotations", task.get("completions"))
    if not isinstance(given, list):  # the minimal form: the results stand in the task itself
        lists = [value for key, value in task.items() if isinstance(value, list) and key != "predictions"]
        return [
            item for value in lists for item in value if isinstance(item, dict) and ("x" in item or "points" in item)
        ]
    known = [item for item in given if isinstance(item, dict) and not item.get("was_cancelled", item.get("skipped"))]
    known = [item for item in known if isinstance(item.get("result"), list)]
    if len(known) < len(given) and not known:
        objects.findings.add(
            "note", "tasks are skipped or have no result", name, "they count as images without objects"
        )
    if len(known) > 1:
        objects.findings.add(
            "note", "tasks have several annotations", name, "the ground truth, or the last one, counts"
        )
    chosen = next((item for item in known if item.get("ground_truth") is True), known[-1] if known else {"result": []})
    return list(chosen["result"])


def _read_result(result: Any, where: str, objects: ObjectList) -> None:
    result = result if isinstance(result, dict) else {"is": result}
    value, kind = result.get("value", result), result.get("type")
    if isinstance(kind, str) and kind in _WITHOUT_BOX:
        objects.findings.add("note", f"results of the kind {kind} have no box", where, "they do not count")
        return
    key = next((key for key in _SHAPES if key in value), None) if isinstance(value, dict) else None
    names = value.get(key) if key else None
    size = objects.sizes[-1]
    own = side(result.get("original_height")), side(result.get("original_width"))
    box = _box(_SHAPES[key], value, own if all(own) else size) if key and isinstance(value, dict) else None
    label = names[0] if isinstance(names, list) and names else None
    if box is None or not isinstance(label, str) or not label.strip() or not is_encodable(label):
        advice = "rectangles, polygons and ellipses with a label, and original_width and original_height, are read"
        objects.findings.add("error", "results have no box or no label", f"{where} has {short(result)}", advice)
        return
    if isinstance(names, list) and len(names) > 1:
        objects.findings.add("warning", "results have several labels", where, "the first one counts")
    objects.add(box, label)


def _box(kind: str, value: dict[str, Any], size: tuple[int, int]) -> Box | None:
    """Return the box of a shape in pixels."""
    height, width = size
    if not height or not width:
        return None
    if kind == "polygon":
        points = value.get("points")
        if not isinstance(points, list) or not all(isinstance(point, list) and len(point) == 2 for point in points):
            return None
        pairs = [(_part(x, width), _part(y, height)) for x, y in points]
        return box_around(pairs) if len(pairs) >= 3 and not any(math.isnan(x + y) for x, y in pairs) else None
    keys = ("x", "y", "width", "height") if kind == "rectangle" else ("x", "y", "radiusX", "radiusY")
    a, b, c, d = (_part(value.get(key), side) for key, side in zip(keys, (width, height, width, height), strict=True))
    angle = number(value.get("rotation") or 0)
    if any(number(value.get(key)) is None for key in keys) or angle is None or not math.isfinite(angle):
        return None
    return turned_rectangle((a, b), (c, d), angle) if kind == "rectangle" else turned_ellipse((a, b), (c, d), angle)


def _part(value: Any, side_length: int) -> float:
    known = number(value)
    return math.nan if known is None else known * side_length / 100


def _without_upload_prefix(names: list[str], folders: tuple[Path, ...]) -> list[str]:
    """Return names without the eight letters that an upload puts before them, where there is no file with them."""

    def own(name: str) -> str:
        base = name.rpartition("/")[2]
        shorter = _UPLOAD.sub("", base)
        tries = (name, base, shorter) if shorter != base else (name,)
        return next((found for found in tries if any(os.path.isfile(place / found) for place in folders)), name)

    return [own(name) for name in names]


LABEL_STUDIO = Format(name="label-studio", title="Label Studio JSON", find=find_label_studio, read=read_label_studio)
