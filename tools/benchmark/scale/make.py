"""Write a data set of a million images and ten million boxes, as COCO JSON and as OpenImages CSV.

The images are hard links to a few hundred small JPEG files, so that they need little room.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

SIDES = ((48, 64), (64, 48), (64, 64))  # height, width
NUM_FILES = 500  # that the others are links to
NUM_CLASSES = 80
_BLOCK = 10_000  # images written at a time


def make(folder: Path, num_images: int, boxes_per_image: int) -> None:
    """Write ``folder/train/*.jpg``, ``folder/coco/train.json`` and ``folder/openimages/train-annotations-bbox.csv``."""
    names = [f"{number:016x}" for number in range(num_images)]
    _write_images(folder / "train", names)
    for name in ("coco", "openimages"):
        (folder / name).mkdir(parents=True, exist_ok=True)
        _link_folder(folder / name / "train", folder / "train")
    _write_coco(folder / "coco" / "train.json", names, boxes_per_image)
    _write_openimages(folder / "openimages" / "train-annotations-bbox.csv", names, boxes_per_image)


def _link_folder(link: Path, folder: Path) -> None:
    if not link.is_symlink():
        link.symlink_to(os.path.relpath(folder, link.parent), target_is_directory=True)


def _write_images(folder: Path, names: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for number, name in enumerate(names):
        original = folder / f"{names[number % NUM_FILES]}.jpg"
        if number < NUM_FILES:
            Image.fromarray(rng.integers(256, size=(*_size(number), 3), dtype=np.uint8)).save(original, quality=60)
        else:
            os.link(original, folder / f"{name}.jpg")


def _size(number: int) -> tuple[int, int]:
    return SIDES[number % NUM_FILES % len(SIDES)]


def _boxes(names: list[str], per_image: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Yield first image, number of images, boxes (n, per_image, 4) as corners in [0, 1], and labels (n, per_image)."""
    for first in range(0, len(names), _BLOCK):
        rng = np.random.default_rng([1, first])
        count = min(_BLOCK, len(names) - first)
        corners = np.sort(rng.random((count, per_image, 2, 2)), axis=2)
        yield first, count, corners.reshape(count, per_image, 4), rng.integers(NUM_CLASSES, size=(count, per_image))


def _write_coco(file: Path, names: list[str], per_image: int) -> None:
    categories = [{"id": label + 1, "name": f"class {label}"} for label in range(NUM_CLASSES)]
    with file.open("w") as out:
        out.write('{"images": [')
        for number, name in enumerate(names):
            height, width = _size(number)
            out.write(", " if number else "")
            out.write(f'{{"id": {number + 1}, "file_name": "{name}.jpg", "height": {height}, "width": {width}}}')
        out.write('], "annotations": [')
        for first, count, corners, labels in _boxes(names, per_image):
            out.write(", " if first else "")
            out.write(", ".join(_annotations(first, count, corners, labels)))
        out.write(f'], "categories": {json.dumps(categories)}}}\n')


def _annotations(first: int, count: int, corners: np.ndarray, labels: np.ndarray) -> Iterator[str]:
    sizes = np.array([_size(first + number) for number in range(count)])[:, None]
    left_top = corners[..., :2] * sizes[..., ::-1]
    sides = corners[..., 2:] * sizes[..., ::-1] - left_top
    box_id = first * corners.shape[1]
    for image in range(count):
        rows = zip(left_top[image].tolist(), sides[image].tolist(), labels[image].tolist(), strict=True)
        for (x, y), (width, height), label in rows:
            box_id += 1
            yield (
                f'{{"id": {box_id}, "image_id": {first + image + 1}, "category_id": {label + 1}, '
                f'"bbox": [{x:.2f}, {y:.2f}, {width:.2f}, {height:.2f}], "area": {width * height:.2f}, "iscrowd": 0}}'
            )


def _write_openimages(file: Path, names: list[str], per_image: int) -> None:
    header = "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf"
    with file.open("w") as out:
        out.write(header + "\n")
        for first, count, corners, labels in _boxes(names, per_image):
            rows = zip(corners.reshape(-1, 4).tolist(), labels.reshape(-1).tolist(), strict=True)
            images = (name for name in names[first : first + count] for _ in range(per_image))
            out.writelines(
                f"{image},xclick,/m/{label:05d},1,{x1:.6f},{x2:.6f},{y1:.6f},{y2:.6f},0,0,0\n"
                for image, ((x1, y1, x2, y2), label) in zip(images, rows, strict=True)
            )


def main() -> None:
    """Write the data set that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=1_000_000)
    parser.add_argument("--boxes", type=int, default=10, help="of each image")
    args = parser.parse_args()
    make(args.folder, args.images, args.boxes)


if __name__ == "__main__":
    main()
