"""Small pictures for a page: as sharp as a number of bytes allows."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

SIDES = (640, 512, 400, 320, 256, 200, 160, 128, 96)  # of the longer side, in pixels; the largest that fits is taken
CROP_SIDE = 144
_QUALITY = 62
_BOX_COLOR = (255, 64, 64)

Box = tuple[float, float, float, float]


def shrink(image: NDArray[np.uint8], side: int = SIDES[0]) -> Image.Image:
    """Return an RGB picture whose longer side has at most ``side`` pixels."""
    picture = Image.fromarray(image)
    scale = side / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))), _BOX_FILTER)


_BOX_FILTER = Image.Resampling.BOX


def encode_all(pictures: Sequence[Image.Image | None], max_bytes: int) -> list[str]:
    """Return each picture as the address of its own content, "" for None.

    Args:
        pictures: At most ``SIDES[0]`` pixels long.
        max_bytes: All addresses together are at most so long: the largest of ``SIDES`` for which they are is taken.
    """
    for side in SIDES:
        some = [picture for picture in pictures if picture is not None][:: max(1, len(pictures) // 12)]
        lengths = [len(_address(picture, side)) for picture in some]
        if some and np.mean(lengths) * len(pictures) > max_bytes and side != SIDES[-1]:
            continue  # as a few of them show, without encoding all
        addresses = ["" if picture is None else _address(picture, side) for picture in pictures]
        if sum(map(len, addresses)) <= max_bytes:
            return addresses
    return [""] * len(pictures)


def crop(image: NDArray[np.uint8], box: Box, *, margin: float = 0.6) -> str:
    """Return the surroundings of a box, with its outline, as an address.

    Args:
        image: (H, W, 3) RGB.
        box: x, y, width, height in pixels of the image.
        margin: On each side, in lengths of the box's longer side.
    """
    x, y, width, height = box
    side = max(width, height, 16.0) * (1 + 2 * margin)
    left, top = x + width / 2 - side / 2, y + height / 2 - side / 2
    picture = Image.fromarray(image).transform(
        (CROP_SIDE, CROP_SIDE),
        Image.Transform.EXTENT,
        (left, top, left + side, top + side),
        Image.Resampling.BILINEAR,
        fillcolor=(128, 128, 128),
    )
    scale = CROP_SIDE / side
    corners = ((x - left) * scale, (y - top) * scale, (x + width - left) * scale, (y + height - top) * scale)
    ImageDraw.Draw(picture).rectangle(corners, outline=_BOX_COLOR, width=2)
    return _address(picture, CROP_SIDE)


def _address(picture: Image.Image, side: int) -> str:
    file = io.BytesIO()
    picture = picture.copy()
    picture.thumbnail((side, side), Image.Resampling.BILINEAR)
    picture.save(file, format="WEBP", quality=_QUALITY, method=2)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"
