"""Read an image file with the channels and values that are stored in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.images.decoder_messages import quiet_opencv
from effdet.images.faults import ImageError, UnreadableError
from effdet.images.jpeg import decode_jpeg, is_jpeg, is_whole_jpeg, jpeg_orientation, jpeg_size
from effdet.images.npy import is_npy, read_npy
from effdet.images.png import damaged_chunk, is_png
from effdet.images.reading import (
    EncodedImage,
    check_size,
    first_line,
    needs_opencv,
    open_with_pillow,
    orientation_to_undo,
    read_encoded,
    unknown_format,
    upright,
)
from effdet.images.tensors import is_tensor, tensor_values
from effdet.images.tiff import TiffKind, read_planes

if TYPE_CHECKING:
    from effdet.images.reading import Data, Size
    from effdet.images.stored import StoredImage

Array: TypeAlias = NDArray[Any]


def read_values(source: str | Path | StoredImage | EncodedImage, *, size: Size | None = None) -> tuple[str, Array]:
    """Read an image file as it is stored, upright by its EXIF orientation.

    Args:
        source: The file, its place in an archive, or its bytes: what ``read_picture`` takes, or a NumPy file (.npy) of
            the shape (H, W) or (H, W, C).
        size: (height, width) that an annotation file gives; see ``read_image``.

    Returns:
        Name, and (H, W, C) of the type in the file: C is 1 for gray, 3 for RGB, 4 for RGBA or other four. Palettes
        become RGB, masks of one bit 0 and 255.

    Raises:
        FileNotFoundError, ImageError: As ``read_picture``.
    """
    name, data = source if isinstance(source, EncodedImage) else read_encoded(source)
    if data.size == 0:
        raise ImageError(f"{name}: is an empty file, not an image")
    try:
        values, orientation = _decode(data)
    except UnreadableError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ImageError(f"{name}: truncated or corrupt image: {first_line(error)}") from error
    stored = (values.shape[0], values.shape[1])
    if orientation_to_undo(stored, orientation, size) == 1:
        return name, values
    return name, upright(values, orientation)


def memory_values(image: Any) -> Array:
    """Return an image held in memory with its own channels and values, (H, W, C).

    Args:
        image: Pillow image of any mode; array (H, W) or (H, W, C); tensor (H, W) or (C, H, W).

    Raises:
        TypeError: If it is none of these types.
        ValueError: If it has another number of dimensions, or no pixels.
    """
    if isinstance(image, Image.Image):
        return _pillow_values(image)
    if is_tensor(image):
        image = tensor_values(image)
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image must be a Pillow image, an array or a tensor, got {type(image).__name__}")
    if image.ndim not in (2, 3) or image.size == 0:
        raise ValueError(f"an image must have 2 or 3 dimensions and pixels, got shape {image.shape}")
    return _as_numbers(image if image.ndim == 3 else image[..., None])


def _decode(data: Data) -> tuple[Array, int]:
    """Return the stored values and the EXIF orientation (1 = upright)."""
    if is_npy(data):
        return _as_numbers(read_npy(data)), 1
    if is_jpeg(data) and is_whole_jpeg(data):
        if (stored := jpeg_size(data)) is not None:
            check_size(stored)
        image = decode_jpeg(data)
        if image is not None:
            return (image if _has_colour(data) else image[..., :1]), jpeg_orientation(data)
    if is_png(data) and (chunk := damaged_chunk(data)) is not None:
        raise UnreadableError(f"truncated or corrupt image: the PNG's chunk {chunk} is missing or damaged")
    tiff = TiffKind(data)
    if tiff.has_bands or (tiff.unread() is not None and tiff.separate_planes):
        return _as_numbers(read_planes(data)), 1
    if (unread := tiff.unread()) is not None:
        raise UnreadableError(f"is a TIFF with {unread}, which is not read")
    return _decode_other(data, tiff)


def _decode_other(data: Data, tiff: TiffKind) -> tuple[Array, int]:
    opened = open_with_pillow(data)
    if opened is None:
        return _opencv_values(data), 1
    with opened:
        check_size((opened.height, opened.width))
        values = _opencv_values(data) if needs_opencv(opened, data, tiff) else _pillow_values(opened)
        orientation = int(opened.getexif().get(0x0112, 1))
    if tiff.white_is_zero and tiff.bits > 8 and np.issubdtype(values.dtype, np.unsignedinteger):
        values = np.iinfo(values.dtype).max - values
    return values, orientation if orientation in range(1, 9) else 1


def _has_colour(data: Data) -> bool:
    with Image.open(io.BytesIO(data.tobytes())) as opened:
        return opened.mode != "L"


def _pillow_values(image: Image.Image) -> Array:
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    elif image.mode in ("CMYK", "YCbCr", "LAB", "HSV", "RGBa", "La", "PA") or (
        image.mode == "RGBX" and image.format != "TIFF"  # whose fourth channel is one
    ):
        image = image.convert("RGB")
    image.load()
    values = np.array(image)
    return _as_numbers(values if values.ndim == 3 else values[..., None])


def _opencv_values(data: Data) -> Array:
    with quiet_opencv():
        values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    if values is None:
        raise UnreadableError(unknown_format(data))
    if values.ndim == 2:
        return values[..., None]
    return values[..., [2, 1, 0, *range(3, values.shape[2])]] if values.shape[2] >= 3 else values  # OpenCV has BGR


def _as_numbers(values: Array) -> Array:
    """Return values that are integers or floats; bool becomes 0 and 255."""
    if values.dtype == np.bool_:
        return values.astype(np.uint8) * np.uint8(255)
    if not (np.issubdtype(values.dtype, np.integer) or np.issubdtype(values.dtype, np.floating)):
        raise UnreadableError(f"its values must be integers or floats, got {values.dtype}")
    return values.astype(values.dtype.newbyteorder("="), copy=False)
