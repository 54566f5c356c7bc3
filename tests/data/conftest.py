"""A small COCO data set on disk, in any layout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

SIZES = {"b.jpg": (60, 40), "a.jpg": (30, 50), "c.jpg": (20, 20)}  # width, height
IDS = {"b.jpg": 42, "a.jpg": 7, "c.jpg": 9}


@pytest.fixture
def write_coco() -> Callable[..., Path]:
    """Return a function that writes three images, with a box in each of two, and their annotation file."""

    def write(root: Path, name: str = "train.json", folder: str = "images", prefix: str = "") -> Path:
        """Write to ``root / name`` and ``root / folder``; ``prefix`` stands before each file_name."""
        images = [
            {"id": IDS[file], "file_name": prefix + file, "width": width, "height": height}
            for file, (width, height) in SIZES.items()
        ]
        annotations = [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 20]},
            {"id": 2, "image_id": 42, "category_id": 13, "bbox": [10, 0, 50, 40]},
        ]
        categories = [{"id": 13, "name": "bee"}, {"id": 90, "name": "cat"}]
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
        (root / folder).mkdir(parents=True, exist_ok=True)
        for file, size in SIZES.items():
            Image.new("RGB", size).save(root / folder / file)
        return path

    return write
