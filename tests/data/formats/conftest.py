"""Write a data set in any format, also those that the package only reads, with all digits."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

import pytest

from effdet.data.conversion import WRITABLE, convert
from effdet.data.dataset import Dataset
from effdet.data.formats import read_parts


@pytest.fixture(scope="session")
def write_as() -> Callable[[str, Path, Path], None]:
    """Return a function that writes a data set, which has train and val, in a format: name, source, new folder."""
    return _write_as


def _write_as(name: str, source: Path, folder: Path) -> None:
    if name in WRITABLE:
        convert(source, folder, to=name)
        return
    for part, dataset in read_parts(source).items():
        (folder / "images" / part).mkdir(parents=True)
        for image in dataset.names:
            shutil.copyfile(dataset.folder / image, folder / "images" / part / image)
        OTHERS[name](dataset, folder, part)


def _boxes(dataset: Dataset, index: int) -> list[tuple[str, list[float]]]:
    """Return class name and x1, y1, x2, y2 of each box of an image."""
    rows = range(int(dataset.offsets[index]), int(dataset.offsets[index + 1]))
    boxes = dataset.boxes_xywh.tolist()
    corners = [(x, y, x + width, y + height) for x, y, width, height in boxes]
    return [(dataset.class_names[int(dataset.labels[row])], list(corners[row])) for row in rows]


def _write_cvat(dataset: Dataset, folder: Path, part: str) -> None:
    labels = "".join(f"<label><name>{escape(name)}</name></label>" for name in dataset.class_names)
    images = []
    for index, name in enumerate(dataset.names):
        height, width = dataset.sizes[index].tolist()
        boxes = "".join(
            f'<box label={quoteattr(label)} xtl="{x1!r}" ytl="{y1!r}" xbr="{x2!r}" ybr="{y2!r}" occluded="0"/>'
            for label, (x1, y1, x2, y2) in _boxes(dataset, index)
        )
        images.append(f'<image id="{index}" name={quoteattr(name)} width="{width}" height="{height}">{boxes}</image>')
    meta = f"<meta><task><labels>{labels}</labels></task></meta>"
    (folder / f"{part}.xml").write_text(f"<annotations>{meta}{''.join(images)}</annotations>")


def _write_labelme(dataset: Dataset, folder: Path, part: str) -> None:
    place = folder / "annotations" / part
    place.mkdir(parents=True)
    for index, name in enumerate(dataset.names):
        height, width = dataset.sizes[index].tolist()
        shapes = [
            {"label": label, "points": [box[:2], box[2:]], "shape_type": "rectangle", "flags": {}}
            for label, box in _boxes(dataset, index)
        ]
        content = {"version": "5.5.0", "flags": {}, "shapes": shapes, "imagePath": f"../../images/{part}/{name}"}
        content |= {"imageData": None, "imageHeight": height, "imageWidth": width}
        (place / f"{os.path.splitext(name)[0]}.json").write_text(json.dumps(content))
        (place / "labels.txt").write_text("\n".join(["__ignore__", "_background_", *dataset.class_names]))


def _write_label_studio(dataset: Dataset, folder: Path, part: str) -> None:
    tasks = []
    for index, name in enumerate(dataset.names):
        height, width = dataset.sizes[index].tolist()
        results = []
        for label, (x1, y1, x2, y2) in _boxes(dataset, index):
            value = {"x": 100 * x1 / width, "y": 100 * y1 / height, "rotation": 0, "rectanglelabels": [label]}
            value |= {"width": 100 * (x2 - x1) / width, "height": 100 * (y2 - y1) / height}
            results.append(
                {"type": "rectanglelabels", "original_width": width, "original_height": height, "value": value}
            )
        address = f"/data/upload/1/{index:08x}-{name}"
        tasks.append({"id": index, "data": {"image": address}, "annotations": [{"result": results}]})
    (folder / f"{part}.json").write_text(json.dumps(tasks))
    (folder / "classes.txt").write_text("\n".join(dataset.class_names))


OTHERS: dict[str, Callable[[Dataset, Path, str], None]] = {
    "cvat": _write_cvat,
    "labelme": _write_labelme,
    "label-studio": _write_label_studio,
}
