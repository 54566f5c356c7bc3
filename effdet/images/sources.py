"""From what a user names (files, folders, glob patterns, videos, images in memory) to single pictures."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from effdet.images.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from effdet.images.pixels import to_rgb
from effdet.images.reading import ImageError, Picture, read_picture
from effdet.images.video import read_frames

Array: TypeAlias = NDArray[Any]


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
            yield from (_whole(f"{item}#{frame}", pixels) for frame, pixels in enumerate(read_frames(item)))
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
