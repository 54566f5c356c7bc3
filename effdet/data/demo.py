"""Write the demo set: pictures that this project draws itself, with COCO annotations.

With it a model can be trained on a new machine without a download. One image in 15 has no object.

    root/train.json  root/val.json  root/images/{train,val}_00000.jpg …
"""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from effdet.data.shapes import CATEGORIES, Scene, annotate, draw_scene

logger = logging.getLogger(__name__)

_DRAWING = 1  # version of the pictures; a set of an older version is drawn again
_EMPTY_EVERY = 15  # one image in 15 has no object
_SPLIT_SEEDS = {"train": 0, "val": 1}
_FIRST_IDS = {"train": 1, "val": 1_000_001}


def draw_demo(
    root: str | Path,
    *,
    num_train: int = 400,
    num_val: int = 100,
    seed: int = 0,
    image_size: tuple[int, int] = (240, 352),
) -> bool:
    """Draw the demo set into a folder, unless it is already there.

    The same arguments give the same bytes. Every file is written in one step, the annotation files last. An interrupted
    set is therefore recognised and drawn again, and two processes can draw the same set at the same time.

    Args:
        root: Folder to fill; made if missing. A demo set with other arguments in it is replaced.
        num_train: Images of ``train.json``, with ids from 1.
        num_val: Images of ``val.json``, with ids from 1,000,001.
        seed: 0 or more; another seed draws other pictures.
        image_size: Shortest and longest side of a picture, in pixels; height and width are drawn independently.

    Returns:
        True if the set was drawn, False if it was already complete.

    Raises:
        ValueError: If an argument is out of range, or the folder holds another data set.
    """
    root = Path(root)
    counts = {"train": num_train, "val": num_val}
    settings = {"drawing": _DRAWING, **counts, "seed": seed, "image_size": list(image_size)}
    _check_settings(counts, seed, image_size)
    present = {split: _read_own(root / f"{split}.json") for split in counts}
    if all(_is_complete(root, content, settings) for content in present.values()):
        return False

    logger.info("drawing the demo set, %d + %d images, into %s", num_train, num_val, root)
    (root / "images").mkdir(parents=True, exist_ok=True)
    _remove_old(root, counts)
    contents = {split: _draw_split(root, split, settings) for split in counts}
    for split, content in contents.items():
        _write(root / f"{split}.json", json.dumps(content).encode())
    return True


def _check_settings(counts: dict[str, int], seed: int, image_size: tuple[int, int]) -> None:
    for split, count in counts.items():
        if count < 1:
            raise ValueError(f"num_{split} must be 1 or more, got {count}")
    if seed < 0:
        raise ValueError(f"seed must be 0 or more, got {seed}")
    shortest, longest = image_size
    if not 64 <= shortest <= longest:
        raise ValueError(f"image_size must be two sides, 64 <= shortest <= longest, got {image_size}")


def _read_own(path: Path) -> dict[str, Any] | None:
    """Return an annotation file that this module wrote, None if there is none."""
    if not path.exists():
        return None
    try:
        content = json.loads(path.read_bytes())
    except ValueError:
        content = None
    if not isinstance(content, dict) or "demo" not in (content.get("info") or {}):
        raise ValueError(f"{path} is not of a demo set and will not be overwritten; choose another folder")
    return content


def _is_complete(root: Path, content: dict[str, Any] | None, settings: dict[str, Any]) -> bool:
    if content is None or content["info"]["demo"] != settings:
        return False
    return all((root / "images" / image["file_name"]).is_file() for image in content["images"])


def _remove_old(root: Path, counts: dict[str, int]) -> None:
    for split in counts:  # removed first: a folder without annotation files counts as not drawn
        (root / f"{split}.json").unlink(missing_ok=True)
    for split, count in counts.items():
        wanted = {_file_name(split, number) for number in range(count)}
        for path in (root / "images").glob(f"{split}_[0-9][0-9][0-9][0-9][0-9].jpg"):
            if path.name not in wanted:
                path.unlink(missing_ok=True)


def _draw_split(root: Path, split: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Draw the pictures of one split and return its annotation file."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(settings[split]):
        rng = np.random.default_rng([settings["seed"], _SPLIT_SEEDS[split], number])
        scene = _random_scene(rng, number, settings["image_size"])
        _write(root / "images" / _file_name(split, number), _to_jpeg(scene.image))
        height, width = scene.owner.shape
        image_id = _FIRST_IDS[split] + number
        images.append({"id": image_id, "file_name": _file_name(split, number), "width": width, "height": height})
        for row in annotate(scene):
            annotations.append({"id": len(annotations) + 1, "image_id": image_id, **row})
    return {
        "info": {"description": "shapes drawn by effdet", "demo": settings},
        "images": images,
        "categories": [{"id": key, "name": name} for key, name in CATEGORIES.items()],
        "annotations": annotations,
    }


def _random_scene(rng: np.random.Generator, number: int, sides: list[int]) -> Scene:
    size = (int(rng.integers(sides[0], sides[1] + 1)), int(rng.integers(sides[0], sides[1] + 1)))
    ids = tuple(CATEGORIES)
    if number % _EMPTY_EVERY == _EMPTY_EVERY // 2:
        return draw_scene(rng, size, ())
    others = rng.choice(ids, int(rng.integers(0, 5)))
    return draw_scene(rng, size, (ids[number % len(ids)], *map(int, others)))  # every class occurs even in a small set


def _file_name(split: str, number: int) -> str:
    return f"{split}_{number:05d}.jpg"


def _to_jpeg(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])
    assert done
    return data.tobytes()


def _write(path: Path, data: bytes) -> None:
    """Write a file in one step: a reader sees all of it or nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(data)
    os.replace(temporary, path)
