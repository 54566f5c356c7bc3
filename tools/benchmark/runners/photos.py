"""Pictures to measure on: drawn ones with the detail of photos, as JPEG files with COCO annotations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

QUALITY = 90  # of the JPEG files; 1920 × 1080 pixels then take about half a megabyte, as photos do
BOXES = 7  # number of boxes in a picture, about as in a photo of COCO


def draw_photos(folder: Path, count: int, image_size: tuple[int, int], *, num_classes: int, seed: int = 0) -> Path:
    """Write ``count`` JPEG files of ``image_size`` (height, width) and ``train.json`` in COCO's format; return that."""
    rng = np.random.default_rng(seed)
    (folder / "train").mkdir(parents=True, exist_ok=True)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for index in range(count):
        name = f"{index:05d}.jpg"
        boxes = random_boxes(rng, image_size)
        picture = draw_photo(rng, image_size, boxes)
        cv2.imwrite(str(folder / "train" / name), picture, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
        images.append({"id": index + 1, "file_name": name, "height": image_size[0], "width": image_size[1]})
        for x, y, width, height in boxes.tolist():
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index + 1,
                    "category_id": int(rng.integers(num_classes)) + 1,
                    "bbox": [x, y, width, height],
                    "area": width * height,
                    "iscrowd": 0,
                }
            )
    categories = [{"id": number, "name": str(number)} for number in range(1, num_classes + 1)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    file = folder / "train.json"
    file.write_text(json.dumps(content))
    return file


def random_boxes(rng: np.random.Generator, image_size: tuple[int, int], count: int = BOXES) -> NDArray[np.float64]:
    """Return (count, 4) boxes x, y, width, height of whole pixels, small ones more often than large ones."""
    height, width = image_size
    sides = np.exp(rng.uniform(np.log(0.04), np.log(0.6), (count, 2))) * (width, height)
    corners = rng.random((count, 2)) * ((width, height) - sides)
    return np.concatenate([corners, sides], axis=1).round()


def draw_photo(rng: np.random.Generator, image_size: tuple[int, int], boxes: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Return a picture with an ellipse in every box and a frequency spectrum like that of photos."""
    height, width = image_size
    picture = np.full((height, width, 3), 110.0, dtype=np.float32)
    strength, cells = 40.0, 4
    while cells < max(image_size):
        grid = rng.standard_normal((max(2, cells * height // width), cells, 3)).astype(np.float32)
        picture += strength * cv2.resize(grid, (width, height), interpolation=cv2.INTER_CUBIC)
        strength, cells = strength * 0.62, cells * 2
    for x, y, w, h in boxes.tolist():
        centre, axes = (int(x + w / 2), int(y + h / 2)), (max(1, int(w / 2)), max(1, int(h / 2)))
        color = tuple(rng.uniform(0, 255, 3).tolist())
        layer = picture.copy()
        cv2.ellipse(layer, centre, axes, 0, 0, 360, color, -1)
        picture = 0.3 * picture + 0.7 * layer
    return picture.clip(0, 255).astype(np.uint8)
