"""Read image files of every kind as RGB arrays.

An image inside this package is a (H, W, 3) uint8 array in RGB order, rows from the top.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from effdet.images.jpeg import (
    decode_jpeg,
    is_whole_jpeg,
    jpeg_orientation,
    jpeg_size,
    largest_reduction,
    orientation_of,
)
from effdet.images.pixels import pillow_to_rgb

Array: TypeAlias = NDArray[Any]
Size: TypeAlias = tuple[int, int]  # (height, width)


class ImageError(ValueError):
    """A file that does not give an image; the message begins with its name."""


class Picture(NamedTuple):
    """An image as it was decoded, which may be smaller than it is in its file."""

    name: str
    pixels: Array  # (H, W, 3) uint8 RGB
    original_size: Size  # (height, width) at full size, in whose pixels boxes are


def read_image(path: str | Path, *, size: Size | None = None) -> Array:
    """Read an image file as RGB, upright by its EXIF orientation.

    Gray, palette, CMYK, alpha (dropped) and 16-bit images (their high byte) are accepted; of an animation, the first
    frame. A JPEG with its end marker is decoded by OpenCV, everything else by Pillow, which refuses truncated files.

    Args:
        path: The file.
        size: (height, width) that an annotation file gives. When it fits the stored pixels and not the upright ones,
            the annotations were drawn on the stored pixels, and the orientation is not applied.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If the file is not an image, or is truncated or corrupt.
    """
    return read_picture(path, size=size).pixels


def read_picture(
    path: str | Path, *, size: Size | None = None, least_size: Callable[[Size], Size] | None = None
) -> Picture:
    """Read an image file as ``read_image`` does, a JPEG at a fraction of its size where that is enough.

    Args:
        path: The file.
        size: See ``read_image``.
        least_size: From the full (height, width) to the smallest that is of use; None: always the full size.

    Raises:
        FileNotFoundError, ImageError: As ``read_image``.
    """
    path = Path(path)
    data = _read_bytes(path)
    pixels, stored, orientation = _decode(path, data, size, least_size)
    if _orientation_to_undo(stored, orientation, size) == 1:
        return Picture(str(path), pixels, stored)
    return Picture(str(path), _upright(pixels, orientation), stored[::-1] if orientation >= 5 else stored)


def _read_bytes(path: Path) -> NDArray[np.uint8]:
    try:
        data = np.fromfile(path, dtype=np.uint8)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such image file") from None
    except OSError as error:
        raise ImageError(f"{path}: cannot be read: {error.strerror or error}") from error
    if data.size == 0:
        raise ImageError(f"{path}: is an empty file, not an image")
    return data


def _decode(
    path: Path, data: NDArray[np.uint8], size: Size | None, least_size: Callable[[Size], Size] | None
) -> tuple[Array, Size, int]:
    """Return the stored pixels, perhaps reduced, their full size, and their EXIF orientation (1 = upright)."""
    if is_whole_jpeg(data):
        orientation = jpeg_orientation(data)
        stored = jpeg_size(data) if least_size is not None else None
        reduction = 1
        if stored is not None and least_size is not None:
            swapped = _orientation_to_undo(stored, orientation, size) >= 5
            least = least_size(stored[::-1])[::-1] if swapped else least_size(stored)
            reduction = largest_reduction(stored, least)
        image = decode_jpeg(data, reduction=reduction)
        if image is not None:
            return image, stored or (image.shape[0], image.shape[1]), orientation
    try:
        with Image.open(path) as opened:
            image = pillow_to_rgb(opened)
            return image, (image.shape[0], image.shape[1]), orientation_of(opened)
    except UnidentifiedImageError as error:
        raise ImageError(f"{path}: is not an image of a known format") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ImageError(f"{path}: truncated or corrupt image: {_first_line(error)}") from error


def _orientation_to_undo(stored: Size, orientation: int, size: Size | None) -> int:
    return 1 if size is not None and _only_stored_pixels_fit(stored, orientation, size) else orientation


def _only_stored_pixels_fit(stored: Size, orientation: int, size: Size) -> bool:
    upright = stored[::-1] if orientation >= 5 else stored
    return tuple(size) == tuple(stored) and tuple(size) != tuple(upright)


def _upright(image: Array, orientation: int) -> Array:
    """Undo an EXIF orientation: 2-4 mirror or turn by 180°, 5-8 swap the sides."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)  # now 5 is done, 6 needs a mirror, 7 a half turn, 8 a flip
    mirrored = orientation in (2, 3, 6, 7)
    flipped = orientation in (3, 4, 7, 8)
    return np.ascontiguousarray(image[:: -1 if flipped else 1, :: -1 if mirrored else 1])


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
