"""Paste the photos of a data set into large canvases, to measure what tiles do for small objects.

python -m tools.benchmark.canvases ../shared/data/bccd canvases
effdet evaluate --weights W --data canvases/photos
effdet evaluate --weights W --data canvases --tiles auto
effdet evaluate --weights W --data canvases

Objects that the edge of a photo cuts are another matter: on the photo their boxes end where the image does, and on a
canvas nothing tells where. ``whole.json``, beside each ``val.json``, has them as crowds, which need not be found:

effdet evaluate --weights W --data canvases --tiles auto --save-results found.json
effdet evaluate --predictions found.json --annotations canvases/whole.json
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
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
CUT = 4  # pixels: an object that is as near to an edge of its photo counts as cut by it


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
    _write_whole(args.out / "photos", cut_by_edge(part).tolist())


def write_canvases(dataset: Dataset, folder: Path, *, seed: int = 0) -> None:
    """Write the canvases, ``val.json`` and ``whole.json`` to a folder; the same seed gives the same canvases."""
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(dataset))
    (folder / "images").mkdir(parents=True)
    images: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    is_cut = cut_by_edge(dataset)
    cut: list[bool] = []
    for number, first in enumerate(range(0, len(order), PHOTOS), start=1):
        chosen = order[first : first + PHOTOS]
        canvas, boxes = _canvas(dataset, chosen, rng)
        cut += [bool(row) for index in chosen for row in is_cut[dataset.offsets[index] : dataset.offsets[index + 1]]]
        name = f"{number:03}.png"
        Image.fromarray(canvas).save(folder / "images" / name)
        images.append({"id": number, "file_name": name, "height": SIZE[0], "width": SIZE[1]})
        rows += [{**box, "id": len(rows) + n, "image_id": number} for n, box in enumerate(boxes, start=1)]
    pairs = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": category_id, "name": name} for category_id, name in pairs]
    (folder / "val.json").write_text(json.dumps({"images": images, "annotations": rows, "categories": categories}))
    _write_whole(folder, cut)


def cut_by_edge(dataset: Dataset) -> np.ndarray:
    """Return (M,) whether each box ends at an edge of its image, as the object there goes on beyond it."""
    left_top = dataset.boxes_xywh[:, :2]
    right_bottom = dataset.sizes[dataset.image_of_box][:, ::-1] - left_top - dataset.boxes_xywh[:, 2:]
    return np.any(np.minimum(left_top, right_bottom) <= CUT, axis=1)


def _write_whole(folder: Path, is_cut: Sequence[bool]) -> None:
    """Write ``whole.json``: ``val.json`` with the objects that are cut, in the order of its annotations, as crowds."""
    content = json.loads((folder / "val.json").read_text())
    for row, cut in zip(content["annotations"], is_cut, strict=True):
        row["iscrowd"] = int(row["iscrowd"] or cut)
    (folder / "whole.json").write_text(json.dumps(content))


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
