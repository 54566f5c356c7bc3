"""Paste the photos of a data set into large canvases, to measure what tiles do for small objects.

python -m tools.benchmark.canvases ../shared/data/bccd canvases
effdet evaluate --weights W --data canvases/photos
effdet evaluate --weights W --data canvases --tiles auto
effdet evaluate --weights W --data canvases
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effdet.data.conversion import convert
from effdet.data.dataset import Dataset
from effdet.data.formats import find_dataset

SIZE = (3000, 4000)  # (height, width) of a canvas
PHOTOS = 3  # in a canvas; COCO's numbers count 100 detections of an image at most
CANVASES = 10
BACKGROUND = 200  # gray


def main() -> None:
    """Write the canvases with their boxes as COCO JSON, and the photos that are on them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="data set whose val photos are pasted")
    parser.add_argument("out", type=Path, help="folder for the canvases")
    args = parser.parse_args()
    dataset = find_dataset(args.data, "val")
    chosen = np.random.default_rng(0).permutation(len(dataset))[: PHOTOS * CANVASES]
    part = dataset.without(set(range(len(dataset))) - set(chosen.tolist()))
    write_canvases(part, args.out)
    convert({"val": part}, args.out / "photos", to="coco")


def write_canvases(dataset: Dataset, folder: Path, *, seed: int = 0) -> None:
    """Write the canvases and ``val.json`` to a folder; the same seed gives the same canvases."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset))
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for number, first in enumerate(range(0, len(order), PHOTOS), start=1):
        canvas, boxes = _canvas(dataset, order[first : first + PHOTOS], rng)
        name = f"{number:03}.png"
        Image.fromarray(canvas).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        rows += [{**box, "id": len(rows) + n, "image_id": number} for n, box in enumerate(boxes, start=1)]
    pairs = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": category_id, "name": name} for category_id, name in pairs]
    (folder / "val.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))


def _canvas(dataset: Dataset, indices: Any, rng: np.random.Generator) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Return a canvas with photos that do not touch, and their boxes as rows of COCO JSON without ids."""
    canvas = np.full((*SIZE, 3), BACKGROUND, np.uint8)
    taken: list[tuple[int, int, int, int]] = []
    rows = []
    for index in indices:
        photo = dataset.read(int(index))
        left, top = _free_place(photo.shape[:2], taken, rng)
        canvas[top : top + photo.shape[0], left : left + photo.shape[1]] = photo
        span = slice(dataset.offsets[index], dataset.offsets[index + 1])
        columns = (dataset.boxes_xywh[span], dataset.labels[span], dataset.areas[span], dataset.is_crowd[span])
        for (x, y, width, height), label, area, is_crowd in zip(*(column.tolist() for column in columns), strict=True):
            box = [x + left, y + top, width, height]
            category_id = dataset.category_ids[label]
            rows.append({"bbox": box, "category_id": category_id, "area": area, "iscrowd": int(is_crowd)})
    return canvas, rows


def _free_place(size: tuple[int, int], taken: list[tuple[int, int, int, int]], rng: np.random.Generator) -> Any:
    while True:
        left, top = (int(rng.integers(whole - side + 1)) for whole, side in zip(SIZE[::-1], size[::-1], strict=True))
        right, bottom = left + size[1], top + size[0]
        if all(right < x1 or left > x2 or bottom < y1 or top > y2 for x1, y1, x2, y2 in taken):
            taken.append((left, top, right, bottom))
            return left, top


if __name__ == "__main__":
    main()
