"""Read image files of every kind as RGB arrays.

An image inside this package is a (H, W, 3) uint8 array in RGB order, rows from the top.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.images.decoder_messages import quiet_opencv
from effdet.images.faults import ImageError as ImageError
from effdet.images.faults import UnreadableError
from effdet.images.freed_memory import keep_freed_memory
from effdet.images.jpeg import (
    decode_jpeg,
    is_jpeg,
    is_whole_jpeg,
    jpeg_orientation,
    jpeg_size,
    largest_reduction,
    orientation_of,
)
from effdet.images.npy import is_npy, read_npy
from effdet.images.pixels import pillow_to_rgb, stored_to_rgb
from effdet.images.png import bit_depth, damaged_chunk, has_all_rows, is_png
from effdet.images.stored import StoredImage
from effdet.images.tiff import TiffKind, is_tiff

Array: TypeAlias = NDArray[Any]
Data: TypeAlias = NDArray[np.uint8]  # (L,) the bytes of a file
Size: TypeAlias = tuple[int, int]  # (height, width)

MAX_PIXELS = 500_000_000  # of an image of any format: 1.5 GB as RGB, and decoders hold about as much beside it

_LARGE_JPEG = 50_000_000  # pixels
_MOST_PIXELS_OF_A_BYTE = (
    4096  # 512 are the most in practice: a progressive one of a single gray, without arithmetic coding
)

_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class Picture(NamedTuple):
    """An image as it was decoded, which may be smaller than it is in its file."""

    name: str
    pixels: Array  # (H, W, 3) uint8 RGB
    original_size: Size  # (height, width) at full size, in whose pixels boxes are


class EncodedImage(NamedTuple):
    """The bytes of an image file that are held in memory."""

    name: str  # for messages and results
    data: Data


def read_image(path: str | Path, *, size: Size | None = None) -> Array:
    """Read an image file as RGB, upright by its EXIF orientation.

    Gray, palette, CMYK, alpha (dropped), 16-bit and float images are accepted; ``effdet.images.pixels`` says how their
    values become levels. Of an animation it is the first frame. A JPEG with its end marker is decoded by OpenCV, and
    almost everything else by Pillow, which refuses truncated files.

    Args:
        path: The file.
        size: (height, width) that an annotation file gives. When it fits the stored pixels and not the upright ones,
            the annotations were drawn on the stored pixels, and the orientation is not applied.

    Returns:
        (H, W, 3) uint8 RGB, contiguous.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not a regular file or not an image, is truncated or damaged, has more than ``MAX_PIXELS``,
            or its values have no agreed range.
    """
    return read_picture(path, size=size).pixels


def read_picture(
    source: str | Path | StoredImage | EncodedImage,
    *,
    size: Size | None = None,
    least_size: Callable[[Size], Size] | None = None,
) -> Picture:
    """Read an image file as ``read_image`` does, a JPEG at a fraction of its size where that is enough.

    Args:
        source: The file, its place in an archive, or its bytes.
        size: See ``read_image``.
        least_size: From the full (height, width) to the smallest that is of use; None: always the full size.

    Raises:
        FileNotFoundError, ImageError: As ``read_image``.
    """
    name, data = source if isinstance(source, EncodedImage) else read_encoded(source)
    if data.size == 0:
        raise ImageError(f"{name}: is an empty file, not an image")
    try:
        pixels, stored, orientation = _decode(data, size, least_size)
    except UnreadableError as error:
        raise ImageError(f"{name}: {error}") from error
    except Exception as error:  # Pillow's decoders raise OSError, SyntaxError, struct.error, ... on damaged files
        raise ImageError(f"{name}: truncated or corrupt image: {first_line(error)}") from error
    if orientation_to_undo(stored, orientation, size) == 1:
        return Picture(name, pixels, stored)
    return Picture(name, upright(pixels, orientation), stored[::-1] if orientation >= 5 else stored)


def read_encoded(source: str | Path | StoredImage) -> EncodedImage:
    """Return the bytes of an image file, wherever it is.

    Raises:
        FileNotFoundError, ImageError: As ``StoredImage.read``.
    """
    stored = source if isinstance(source, StoredImage) else StoredImage.in_file(source)
    return EncodedImage(stored.name, stored.read())


def _decode(data: Data, size: Size | None, least_size: Callable[[Size], Size] | None) -> tuple[Array, Size, int]:
    """Return the stored pixels, perhaps reduced, their full size, and their EXIF orientation (1 = upright)."""
    keep_freed_memory()
    if is_jpeg(data):
        stored = jpeg_size(data)
        if stored is not None:
            check_size(stored)
            _check_jpeg_length(stored, len(data))
        if is_whole_jpeg(data):
            orientation = jpeg_orientation(data)
            reduction = 1
            if stored is not None and least_size is not None:
                swapped = orientation_to_undo(stored, orientation, size) >= 5
                least = least_size(stored[::-1])[::-1] if swapped else least_size(stored)
                reduction = largest_reduction(stored, least)
            image = decode_jpeg(data, reduction=reduction)
            if image is not None:
                return image, stored or (image.shape[0], image.shape[1]), orientation
    return _decode_other(data)


def _decode_other(data: Data) -> tuple[Array, Size, int]:
    if is_npy(data):
        image = stored_to_rgb(_of_rgb(read_npy(data)))
        return image, (image.shape[0], image.shape[1]), 1
    if is_png(data) and (chunk := damaged_chunk(data)) is not None:
        raise UnreadableError(f"truncated or corrupt image: the PNG's chunk {chunk} is missing or damaged")
    if is_png(data) and not has_all_rows(data):
        raise UnreadableError("truncated or corrupt image: the PNG has fewer rows than its header says")
    tiff = TiffKind(data)
    if (unread := tiff.unread()) is not None:
        raise UnreadableError(f"is a TIFF with {unread}, which is not read; convert it to 8-bit RGB")
    if tiff.has_bands:
        raise UnreadableError(_no_rgb(tiff.channels))
    opened = open_with_pillow(data)
    if opened is None:
        image, orientation = _opencv_to_rgb(data), 1
    else:
        with opened:
            check_size((opened.height, opened.width))
            image = _opencv_to_rgb(data) if needs_opencv(opened, data, tiff) else pillow_to_rgb(opened)
            orientation = orientation_of(opened)
    if tiff.white_is_zero and tiff.bits > 8:  # the decoders turn the others round
        image = 255 - image
    return image, (image.shape[0], image.shape[1]), orientation


def _of_rgb(values: Array) -> Array:
    channels = values.shape[2]
    if channels not in (1, 3, 4):
        raise UnreadableError(_no_rgb(channels))
    return values


def _no_rgb(channels: int) -> str:
    return (
        f"has {channels} channels, which are no RGB; model.architecture.in_channels={channels} trains a network that "
        "takes it"
    )


def _check_jpeg_length(size: Size, length: int) -> None:
    """Refuse a large JPEG of so few bytes that most of it would be gray; a block of 64 pixels takes a bit or more."""
    if size[0] * size[1] > _LARGE_JPEG and size[0] * size[1] > _MOST_PIXELS_OF_A_BYTE * length:
        raise UnreadableError(
            f"truncated or corrupt image: {length:,} bytes of JPEG cannot hold the {size[1]}×{size[0]} pixels that its "
            "header claims"
        )


def check_size(size: Size) -> None:
    """Raise ``UnreadableError`` if an image has more pixels than are read."""
    if size[0] * size[1] > MAX_PIXELS:
        raise UnreadableError(
            f"has {size[1]}×{size[0]} pixels, {size[0] * size[1] / 1e6:.0f} megapixels; at most "
            f"{MAX_PIXELS / 1e6:.0f} are read, as more do not fit into the memory of most machines; cut it into tiles"
        )


def open_with_pillow(data: Data) -> Image.Image | None:
    """Open an image as ``Image.open`` does, but without its limit on pixels; None if Pillow does not know the format.

    Pillow's limit is a global variable, which belongs to the program that uses this package.
    """
    content, start = data.tobytes(), data[:16].tobytes()
    tried: set[str] = set()
    for load_plugins in (Image.preinit, Image.init):  # the common formats first
        load_plugins()
        for name in [name for name in Image.ID if name not in tried]:
            tried.add(name)
            factory, accepts = Image.OPEN[name]
            try:
                accepted = accepts is None or accepts(start)
                if not accepted or isinstance(accepted, str):  # a text says what this Pillow lacks
                    continue
                return factory(io.BytesIO(content), "")
            except (SyntaxError, IndexError, TypeError, struct.error):  # another format, or an unknown kind of this
                continue
    return None


def needs_opencv(opened: Image.Image, data: Data, tiff: TiffKind) -> bool:
    """Return whether Pillow would drop half the bits of each sample, misread its sign, or find it too large."""
    if opened.format == "PNG":
        return bit_depth(data) == 16 and opened.mode in ("RGB", "RGBA", "LA")
    if opened.format != "TIFF":
        return False
    deep_colours = tiff.bits > 8 and opened.mode in ("RGB", "RGBA", "RGBX", "LA")
    signed_bytes = tiff.is_signed and opened.mode in ("L", "RGB")
    too_large = opened.width * opened.height > (Image.MAX_IMAGE_PIXELS or MAX_PIXELS) and opened.mode != "CMYK"
    return deep_colours or signed_bytes or too_large


def _opencv_to_rgb(data: Data) -> Array:
    try:
        with quiet_opencv():
            values = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        raise UnreadableError(f"truncated or corrupt image: {first_line(error)}") from error
    if values is None:
        raise UnreadableError(unknown_format(data))
    if values.ndim == 3 and values.shape[2] >= 3:
        values = values[..., [2, 1, 0]]  # OpenCV has BGR
    elif values.ndim == 3:
        values = values[..., :1]  # gray and alpha
    return stored_to_rgb(values)


def unknown_format(data: Data) -> str:
    """Return what to say of data that no decoder reads."""
    start = data[:12].tobytes()
    if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
        return "is a HEIC image, which Pillow reads only after pillow_heif.register_heif_opener(); convert it to JPEG"
    if start[4:8] == b"ftyp" and start[8:12] in (b"avif", b"avis"):
        return "is an AVIF image that is damaged, or this Pillow is older than 11.3 and does not read AVIF"
    if is_tiff(data):
        return f"is a TIFF ({TiffKind(data)}) that is damaged or of a kind that is not read; convert it to 8-bit RGB"
    return "is not an image of a known format"


def orientation_to_undo(stored: Size, orientation: int, size: Size | None) -> int:
    """Return the EXIF orientation, or 1 where the annotations were drawn on the stored pixels; see ``read_image``."""
    return 1 if size is not None and _only_stored_pixels_fit(stored, orientation, size) else orientation


def _only_stored_pixels_fit(stored: Size, orientation: int, size: Size) -> bool:
    upright = stored[::-1] if orientation >= 5 else stored
    return tuple(size) == tuple(stored) and tuple(size) != tuple(upright)


def upright(image: Array, orientation: int) -> Array:
    """Undo an EXIF orientation: 2-4 mirror or turn by 180°, 5-8 swap the sides."""
    if orientation >= 5:
        image = image.swapaxes(0, 1)  # now 5 is done, 6 needs a mirror, 7 a half turn, 8 a flip
    mirrored = orientation in (2, 3, 6, 7)
    flipped = orientation in (3, 4, 7, 8)
    return np.ascontiguousarray(image[:: -1 if flipped else 1, :: -1 if mirrored else 1])


def first_line(error: Exception) -> str:
    """Return the first line of an error's text, or its type."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
