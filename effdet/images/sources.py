"""From what a user names (files, folders, glob patterns, videos, images in memory) to single pictures."""

from __future__ import annotations

import glob
import io
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.images.addresses import Address, as_address
from effdet.images.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES, is_image, is_video
from effdet.images.pixels import to_rgb
from effdet.images.reading import EncodedImage, ImageError, Picture, read_picture
from effdet.images.tensors import is_tensor
from effdet.images.video import read_frames

Array: TypeAlias = NDArray[Any]

log = logging.getLogger(__name__)

_PATHS = (str, os.PathLike)
_BYTES = (bytes, bytearray, memoryview)
_IN_MEMORY = (Image.Image, np.ndarray, Picture, EncodedImage, Address)
_NAMED = 20  # files that a message names before it counts the rest


def iterate_images(source: Any) -> Iterator[tuple[str, Array]]:
    """Return an iterator over the images of a source; each is read when it is asked for.

    Args:
        source: An image file; a folder (its images by name; what it leaves out is logged); a glob pattern (``**`` goes
            into sub-folders); a video file (through PyAV); an ``http(s)://`` address of an image or video; a stream
            such as ``rtsp://…``; ``webcam:0``; the bytes of an image file, as bytes, bytearray, memoryview,
            ``io.BytesIO`` or another open binary file; a Pillow image, an array or a tensor as ``to_rgb`` takes them; a
            (B, H, W, C) array or (B, C, H, W) tensor; a ``Picture``; or a list or an iterator of any of these.

    Returns:
        (name, (H, W, 3) uint8 RGB) of each: the name is the file; ``file#n`` for frame n of a video, from 0;
        ``<bytes n>`` or ``image-n`` for the n-th image if that came as bytes or as pixels.

    Raises:
        TypeError: At once, if the source or an item of a list is of another type; an iterator's items when they come.
        FileNotFoundError: If a file does not exist or a pattern matches nothing.
        ImageError: If a file cannot be decoded, a folder holds no image, or PyAV is needed and missing.
        ValueError: If an image in memory does not suit ``to_rgb``.
    """
    return ((picture.name, picture.pixels) for picture in iterate_pictures(source))


def iterate_pictures(
    source: Any,
    read: Callable[[Path | EncodedImage], Picture] = read_picture,
    *,
    first_number: int = 0,
    convert: Callable[[Any], Array] = to_rgb,
) -> Iterator[Picture]:
    """Return an iterator over pictures, as ``iterate_images`` does.

    Args:
        source: See ``iterate_images``.
        read: Reads image files and their bytes.
        first_number: Of images without a file, in their names.
        convert: Makes pixels from an image in memory, or from a frame of a video.
    """
    check_source(source)
    return _pictures(source, read, first_number, convert)


def check_source(source: Any) -> None:
    """Check the types of a source, before a model is loaded or a file is read.

    Args:
        source: As ``iterate_images`` takes it. An iterator is not looked into: that would use it up.

    Raises:
        TypeError: If it, or an item of a list or tuple, is of a type that is no source.
    """
    if isinstance(source, _PATHS + _BYTES + _IN_MEMORY) or is_tensor(source) or _is_binary_file(source):
        return
    if isinstance(source, list | tuple):
        for item in source:
            check_source(item)
    elif isinstance(source, Mapping | io.IOBase) or not hasattr(source, "__iter__"):
        raise TypeError(
            "a source must be a path, a glob pattern, the bytes of an image file, a Pillow image, an array, a tensor "
            f"or a list of them, got {_type_name(source)}"
        )


def _type_name(source: Any) -> str:
    return "a text file; open it with mode 'rb'" if isinstance(source, io.TextIOBase) else type(source).__name__


def _is_binary_file(source: Any) -> bool:
    """Return whether an object is an open binary file, or looks like one, as the uploads of web servers do."""
    return not isinstance(source, io.TextIOBase | type) and callable(getattr(source, "read", None))


def _pictures(
    source: Any, read: Callable[[Path | EncodedImage], Picture], first_number: int, convert: Callable[[Any], Array]
) -> Iterator[Picture]:
    for number, (name, item) in enumerate(_expand(source), start=first_number):
        if isinstance(item, Picture):
            yield item
        elif isinstance(item, _BYTES):
            yield read(EncodedImage(f"<bytes {number}>", np.frombuffer(item, dtype=np.uint8)))
        elif isinstance(item, EncodedImage):
            yield read(item)
        elif not isinstance(item, Path | Address):
            yield _whole(name or f"image-{number}", convert(item))
        elif isinstance(item, Address) and not item.is_video():
            yield read(item.read())
        elif isinstance(item, Address) or is_video(item):
            name = item.url if isinstance(item, Address) else str(item)
            yield from (_whole(f"{name}#{frame}", convert(pixels)) for frame, pixels in enumerate(read_frames(item)))
        else:
            yield read(item)


def _whole(name: str, pixels: Array) -> Picture:
    return Picture(name, pixels, (pixels.shape[0], pixels.shape[1]))


def _expand(source: Any) -> Iterator[tuple[str, Any]]:
    """Yield (name, file, bytes or image in memory) for everything in a source, in order."""
    if isinstance(source, str) and (address := as_address(source)) is not None:
        source = address
    if isinstance(source, Address):
        yield source.url, source
    elif isinstance(source, _PATHS):
        yield from ((str(path), path) for path in find_files(os.fsdecode(source)))
    elif isinstance(source, Picture | EncodedImage):
        yield source.name, source
    elif isinstance(source, _BYTES):
        yield "", source
    elif isinstance(source, Image.Image):
        yield str(getattr(source, "filename", "")), source
    elif isinstance(source, np.ndarray) or is_tensor(source):
        yield from (("", image) for image in (source if source.ndim == 4 else [source]))
    elif _is_binary_file(source):
        yield "", _read_binary(source)
    else:
        check_source(source)
        for item in source:
            yield from _expand(item)


def _read_binary(file: Any) -> bytes:
    """Return what is left to read in an open file.

    Raises:
        TypeError: If it gives no bytes.
        ValueError: If it is closed, or was read to its end before.
    """
    if getattr(file, "closed", False):
        raise ValueError("a source that is a file must be open, got a closed one")
    data = file.read()
    if data == b"" and _is_at_an_end(file):
        raise ImageError("a source that is a file must have bytes left, got one that was read to its end; call seek(0)")
    if not isinstance(data, bytes):
        raise TypeError(f"an open file must give bytes, got {type(data).__name__}; open it with mode 'rb'")
    return data


def _is_at_an_end(file: Any) -> bool:
    """Return whether a file that gives no more bytes had some."""
    try:
        return bool(file.tell() > 0)
    except (AttributeError, OSError):  # a stream that only goes on
        return False


def find_files(source: str | Path) -> list[Path]:
    """Return the files that a path means: itself, the images of a folder by name, or what a glob pattern matches.

    A folder's sub-folders that hold images, its videos and its other files are left out; one line of the log names
    them. Hidden files are left out without a word.

    Raises:
        FileNotFoundError: If there is no such file, or nothing matches.
        ImageError: If a folder holds no image.
    """
    if not str(source):
        raise FileNotFoundError("a source must be a path or a pattern, got an empty text")
    path = Path(source)
    if path.is_dir():
        return _images_of_folder(path)
    if path.exists():  # before the glob: a file may have brackets in its name
        return [path]
    if not glob.has_magic(str(path)):
        raise FileNotFoundError(f"{path}: no such image, folder or video")
    matches = sorted(Path(match) for match in glob.glob(str(path), recursive=True))
    found = [match for match in matches if (is_image(match) or is_video(match)) and match.is_file()]
    if not found:
        raise FileNotFoundError(f"{path}: no image or video file matches this pattern")
    return found


def _images_of_folder(folder: Path) -> list[Path]:
    images, others, folders = [], [], []
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            folders.append(entry)
        elif is_image(entry) and entry.is_file():
            images.append(entry)
        else:
            others.append(entry)
    nested = [entry.name for entry in folders if _holds_images(entry)]
    left_out = _left_out(folder, nested, [entry.name for entry in others])
    if not images:
        known = f"the folder itself holds no images ({', '.join(sorted(IMAGE_SUFFIXES))})"
        raise ImageError("; ".join([f"{folder}: {known}", *left_out]))
    if left_out:
        log.warning("%s: %s", folder, "; ".join(left_out))
    return images


def _left_out(folder: Path, nested: Sequence[str], others: Sequence[str]) -> list[str]:
    parts = []
    if nested:
        pattern = folder / "**" / "*"
        parts.append(f"left out the sub-folders {_listed(nested)}; to take their images too, give '{pattern}'")
    videos = [name for name in others if is_video(Path(name))]
    if videos:
        parts.append(f"left out the videos {_listed(videos)}; give them by name")
    unknown = [name for name in others if not is_video(Path(name))]
    if unknown:
        parts.append(f"left out {_listed(unknown)}: not image files")
    return parts


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _holds_images(folder: Path) -> bool:
    names: Iterable[str] = (name for _, _, files in os.walk(folder) for name in files)
    return any(Path(name).suffix.lower() in IMAGE_SUFFIXES | VIDEO_SUFFIXES for name in names)
