"""Read images of every kind as RGB arrays, and letterbox them into the network input.

An image inside this package is a (H, W, 3) uint8 array in RGB order, rows from the top.
"""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from effdet.images.jpeg import (
    decode_jpeg,
    is_whole_jpeg,
    jpeg_orientation,
    jpeg_size,
    largest_reduction,
    orientation_of,
)
from effdet.install import hint

Array: TypeAlias = NDArray[Any]
Size: TypeAlias = tuple[int, int]  # (height, width)

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".jpe", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm"})
VIDEO_SUFFIXES = frozenset({".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v", ".mpg", ".mpeg", ".wmv"})


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


def to_rgb(image: Image.Image | Array | Tensor) -> Array:
    """Return an image held in memory as RGB.

    A Pillow image keeps its pixels as they are held (its EXIF orientation is not applied), so that boxes fit the image
    that the caller holds.

    Args:
        image: Pillow image of any mode; array (H, W), (H, W, 1), (H, W, 3) RGB or (H, W, 4) RGBA; or tensor (C, H, W)
            or (H, W) with the same channels. uint8, bool, uint16 (the high byte is used) or float in [0, 1].

    Returns:
        (H, W, 3) uint8 RGB, contiguous; it shares memory with the input where nothing had to change.

    Raises:
        TypeError: If it is none of these types.
        ValueError: If the shape or the range of values does not fit, or the image has no pixels.
    """
    if isinstance(image, Image.Image):
        return _pillow_to_rgb(image)
    if isinstance(image, Tensor):
        tensor = image.detach().cpu()
        if tensor.dtype in (torch.bfloat16, torch.float16):
            tensor = tensor.float()
        if tensor.ndim == 3:
            _check_channels(tensor.shape[0], "a tensor image must be (C, H, W) with C = 1, 3 or 4", tensor.shape)
            tensor = tensor.permute(1, 2, 0)
        image = tensor.numpy()
    if not isinstance(image, np.ndarray):
        raise TypeError(f"an image must be a Pillow image, an array or a tensor, got {type(image).__name__}")

    pixels = image[..., None] if image.ndim == 2 else image
    if pixels.ndim != 3:
        raise ValueError(f"an image must have 2 or 3 dimensions, got shape {tuple(image.shape)}")
    _check_channels(pixels.shape[2], "an image array must be (H, W) or (H, W, C) with C = 1, 3 or 4", image.shape)
    if pixels.size == 0:
        raise ValueError(f"an image must have pixels, got shape {tuple(image.shape)}")
    pixels = _to_uint8(pixels)
    return np.ascontiguousarray(np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels[..., :3])


def letterbox(
    image: Array, image_size: tuple[int, int], fill: tuple[int, int, int]
) -> tuple[Array, tuple[int, int], float]:
    """Fit an image into the network input: scale it by one factor, put it top-left, and pad with a colour.

    scale = min(H / h, W / w); the content measures int(h · scale) × int(w · scale) in float32, as the published models
    compute it: for some sizes one pixel less than exact arithmetic gives. Bilinear, half-pixel centres, no antialias.

    Args:
        image: (h, w, 3) uint8.
        image_size: (H, W) of the network input.
        fill: RGB of the padding.

    Returns:
        The (H, W, 3) uint8 image; the content's (height, width), each at least 1; and the scale, in network pixels per
        original pixel.
    """
    original_size = (image.shape[0], image.shape[1])
    content, scale = fit(original_size, image_size)
    resized = image if content == original_size else cv2.resize(image, content[::-1], interpolation=cv2.INTER_LINEAR)
    return pad(resized, image_size, fill), content, scale


def fit(original_size: Size, image_size: Size, precision: type[np.floating[Any]] = np.float32) -> tuple[Size, float]:
    """Return the (height, width) of an image scaled by one factor to fit into another size, and that factor.

    Factor and sides are computed in ``precision``; sides are truncated, and at least 1.
    """
    sides = [precision(side) for side in original_size]
    scale = min(precision(limit) / side for limit, side in zip(image_size, sides, strict=True))
    height, width = (max(1, int(side * scale)) for side in sides)
    return (height, width), float(scale)


def pad(image: Array, image_size: tuple[int, int], fill: tuple[int, int, int], *, out: Array | None = None) -> Array:
    """Return a (H, W, 3) uint8 array of ``image_size`` with the image top-left and ``fill`` at its right and bottom.

    It is written to ``out``, a contiguous array of this shape, if there is one.
    """
    height, width = image.shape[:2]
    bottom, right = image_size[0] - height, image_size[1] - width
    padded: Array = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, dst=out, value=fill)
    return padded


def iterate_images(source: Any) -> Iterator[tuple[str, Array]]:
    """Read the images of a source one after the other, when they are asked for.

    Args:
        source: An image file; a folder (its images by name, not its sub-folders); a glob pattern (``**`` goes into
            sub-folders); a video file (through PyAV); a Pillow image, an array or a tensor as ``to_rgb`` takes them;
            a (B, H, W, C) array or (B, C, H, W) tensor; a ``Picture``; or a list of any of these.

    Yields:
        (name, (H, W, 3) uint8 RGB): the file; ``file#n`` for frame n of a video, from 0; ``image-n`` for the n-th image
        without a file.

    Raises:
        FileNotFoundError: If a file does not exist or a pattern matches nothing.
        ImageError: If a file cannot be decoded, a folder holds no image, or PyAV is needed and missing.
        TypeError, ValueError: If an image in memory does not suit ``to_rgb``.
    """
    return ((picture.name, picture.pixels) for picture in iterate_pictures(source))


def iterate_pictures(source: Any, read: Callable[[Path], Picture] = read_picture) -> Iterator[Picture]:
    """Read as ``iterate_images`` does, image files by ``read``."""
    for number, (name, item) in enumerate(_expand(source)):
        if isinstance(item, Picture):
            yield item
        elif not isinstance(item, Path):
            yield _whole(name or f"image-{number}", to_rgb(item))
        elif item.suffix.lower() in VIDEO_SUFFIXES:
            yield from (_whole(f"{item}#{frame}", pixels) for frame, pixels in enumerate(_read_video(item)))
        else:
            yield read(item)


def _whole(name: str, pixels: Array) -> Picture:
    return Picture(name, pixels, (pixels.shape[0], pixels.shape[1]))


def _expand(source: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, file or image in memory) for everything in a source, in order."""
    if isinstance(source, str | Path):
        yield from ((str(path), path) for path in find_files(source))
    elif isinstance(source, Picture):
        yield source.name, source
    elif isinstance(source, Image.Image):
        yield str(getattr(source, "filename", "")), source
    elif isinstance(source, np.ndarray | Tensor):
        yield from (("", image) for image in (source if source.ndim == 4 else [source]))
    elif isinstance(source, Sequence) or hasattr(source, "__iter__"):
        for item in source:
            yield from _expand(item)
    else:
        raise TypeError(
            "a source must be a path, a glob, a Pillow image, an array, a tensor or a list of them, "
            f"got {type(source).__name__}"
        )


def find_files(source: str | Path) -> list[Path]:
    """Return the files that a path means: itself, the images of a folder by name, or what a glob pattern matches.

    Raises:
        FileNotFoundError: If there is no such file, or nothing matches.
        ImageError: If a folder holds no image.
    """
    path = Path(source)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file())
        if not found:
            raise ImageError(f"{path}: the folder holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})")
        return found
    if path.exists():  # before the glob: a file may have brackets in its name
        return [path]
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(f"{path}: no such image, folder or video")
    known = IMAGE_SUFFIXES | VIDEO_SUFFIXES
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    found = [match for match in matches if match.is_file() and match.suffix.lower() in known]
    if not found:
        raise FileNotFoundError(f"{path}: no image or video file matches this pattern")
    return found


def _read_video(path: Path) -> Iterator[Array]:
    try:
        import av
    except ImportError as error:
        raise ImageError(f"{path}: reading video needs PyAV; install it with: {hint('video')}") from error
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path}: holds no video stream")
            for frame in container.decode(video=0):
                quarter_turns = int(getattr(frame, "rotation", 0)) // 90 % 4  # counter-clockwise, of the display matrix
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))
    except av.FFmpegError as error:
        raise ImageError(f"{path}: not a readable video: {error.strerror}") from error


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
            image = _pillow_to_rgb(opened)
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


def _pillow_to_rgb(image: Image.Image) -> Array:
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        image.load()
        values = np.asarray(image)
        if image.mode != "F":  # 16-bit gray; older Pillow opens it as 32-bit "I"
            values = np.clip(values, 0, 65535).astype(np.uint16)
        return to_rgb(values)
    return np.array(image.convert("RGB"))


def _to_uint8(pixels: Array) -> Array:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    if not np.issubdtype(pixels.dtype, np.floating):
        raise ValueError(
            f"an image must be uint8, uint16, bool or float in [0, 1], got {pixels.dtype}; convert it to uint8"
        )
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -0.5 and high <= 1.5):  # a bicubic resize overshoots a little; also false for NaN
        raise ValueError(
            f"a float image must lie in [0, 1], got [{low:g}, {high:g}]; divide by 255, or convert it to uint8"
        )
    return np.rint(pixels.clip(0, 1) * 255).astype(np.uint8)


def _check_channels(channels: int, must: str, shape: Sequence[int]) -> None:
    if channels not in (1, 3, 4):
        raise ValueError(f"{must}, got {tuple(shape)}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
