"""Look into TIFF data: what its values are, also where no decoder reads them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from effdet.images.faults import UnreadableError
from effdet.install import hint

_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_BIG = (b"+\x00", b"\x00+")  # bytes 3 and 4 of a BigTIFF, whose header is longer
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLES_PER_PIXEL, _PLANES, _SAMPLE_FORMAT = 258, 262, 277, 284, 339
_WHITE_IS_ZERO, _BLACK_IS_ZERO = 0, 1
_SEPARATE = 2
_SIGNED, _FLOAT, _COMPLEX = 2, 3, (5, 6)


def is_tiff(data: NDArray[np.uint8]) -> bool:
    """Return whether these bytes begin as a TIFF does."""
    return data[:4].tobytes() in _STARTS


class TiffKind:
    """What the tags of the first image of a TIFF say about its values.

    Args:
        data: (L,) the file. Of a damaged one, or one of another format, nothing is known.
    """

    def __init__(self, data: NDArray[np.uint8]) -> None:
        tags = _read_tags(data) if is_tiff(data) else {}
        self.bits: int = max(tags.get(_BITS_PER_SAMPLE, (1,)))
        self.formats: tuple[int, ...] = tags.get(_SAMPLE_FORMAT, (1,))
        self.channels: int = tags.get(_SAMPLES_PER_PIXEL, 1)
        self.separate_planes: bool = tags.get(_PLANES) == _SEPARATE and self.channels > 1
        self.white_is_zero: bool = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
        self.is_gray: bool = tags.get(_PHOTOMETRIC) in (_WHITE_IS_ZERO, _BLACK_IS_ZERO)

    @property
    def has_bands(self) -> bool:
        """Whether it has channels that are neither gray, RGB nor alpha; OpenCV reads only the first of these."""
        return self.channels > 4 or (self.channels > 2 and self.is_gray)

    @property
    def is_signed(self) -> bool:
        """Whether it holds signed integers."""
        return _SIGNED in self.formats

    def unread(self) -> str | None:
        """Return what no decoder here reads, or reads rightly; None if there is no such thing."""
        if any(number in self.formats for number in _COMPLEX):
            return f"complex numbers of {self.bits} bits"
        if _FLOAT in self.formats and self.bits not in (32, 64):
            return f"floats of {self.bits} bits"
        if self.separate_planes and self.bits > 8:
            return f"{self.channels} channels of {self.bits} bits in separate planes"
        return None

    def __str__(self) -> str:
        channels = "1 channel" if self.channels == 1 else f"{self.channels} channels"
        return f"{channels} of {self.bits} bits"


def read_planes(data: NDArray[np.uint8]) -> NDArray[Any]:
    """Return the values of the first image of a TIFF with any number of channels, (H, W, C), by the package tifffile.

    Raises:
        UnreadableError: If the package, or what its compression needs, is missing.
    """
    try:
        import tifffile
    except ImportError as error:
        what = TiffKind(data)
        raise UnreadableError(f"is a TIFF of {what}, which needs tifffile; install it with: {hint('tiff')}") from error
    try:
        with tifffile.TiffFile(io.BytesIO(data.tobytes())) as file:
            page: Any = file.pages[0]
            values: NDArray[Any] = page.asarray()
            planes_first = page.planarconfig == _SEPARATE and values.ndim == 3
    except ValueError as error:
        raise UnreadableError(f"is a TIFF that tifffile does not read: {str(error).splitlines()[0]}") from error
    if values.ndim not in (2, 3):
        raise UnreadableError(f"is a TIFF of the shape {values.shape}; an image must be (height, width[, channels])")
    values = np.moveaxis(values, 0, 2) if planes_first else values
    return values if values.ndim == 3 else values[..., None]


def _read_tags(data: NDArray[np.uint8]) -> Mapping[int, Any]:
    start = 16 if data[2:4].tobytes() in _BIG else 8
    try:
        directory = ImageFileDirectory_v2(data[:start].tobytes())
        file = io.BytesIO(data.tobytes())
        file.seek(directory.next)
        directory.load(file)
        return dict(directory)
    except Exception:  # the decoders say what is wrong with a damaged file
        return {}
