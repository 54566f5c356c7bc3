"""Which pixels a network takes: how many channels, and which range of stored values becomes the levels 0…255."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.images.faults import UnreadableError

if TYPE_CHECKING:
    from effdet.images.reading import EncodedImage, Picture, Size
    from effdet.images.stored import StoredImage

Array: TypeAlias = NDArray[Any]

_LUMINANCE = np.array([4899, 9617, 1868])  # 0.299, 0.587, 0.114 of Rec. 601, in 1 / 16384; a gray copy stays as it is


@dataclass(frozen=True, kw_only=True)
class PixelFormat:
    """The pixels that a network takes; plain values, saved with a model.

    With 3 channels and no range these are 8-bit RGB images, and files of other kinds become such (``pixels.py``). Any
    other format takes the channels of a file as they are, and scales nothing by guess:

    - Without a range, values must be 8-bit levels.
    - With one, a value v becomes the level 255 · (v - low) / (high - low), a float; levels are clipped to [0, 255].

    A file may have other channels than the network where nothing has to be guessed: a network of one channel takes the
    luminance of RGB; one of three takes a gray image three times; alpha is dropped where the network has no channel for
    it.

    Raises:
        ValueError: If there is no channel, or the range is none.
    """

    channels: int = 3
    value_range: tuple[float, float] | None = None  # stored values that become 0 and 255; None: 8-bit levels

    def __post_init__(self) -> None:
        if self.channels < 1:
            raise ValueError(f"channels must be 1 or more, got {self.channels}")
        if self.value_range is not None:
            object.__setattr__(self, "value_range", check_range(self.value_range))

    @property
    def is_rgb(self) -> bool:
        """Whether images are 8-bit RGB."""
        return self.channels == 3 and self.value_range is None

    @property
    def dtype(self) -> type[np.generic]:
        """Type of the levels: uint8, or float32 where values have a range."""
        return np.uint8 if self.value_range is None else np.float32

    def read(
        self,
        source: str | Path | StoredImage | EncodedImage,
        *,
        size: Size | None = None,
        least_size: Callable[[Size], Size] | None = None,
    ) -> Picture:
        """Read an image file; see ``effdet.images.reading.read_picture``.

        Returns:
            Its pixels are (H, W, C), of the type ``dtype``.

        Raises:
            FileNotFoundError, ImageError: As ``read_picture``; and if channels or values do not suit the network.
        """
        from effdet.images.faults import ImageError
        from effdet.images.reading import Picture, read_picture
        from effdet.images.values import read_values

        if self.is_rgb:
            return read_picture(source, size=size, least_size=least_size)
        name, values = read_values(source, size=size)
        try:
            pixels = self.levels(values)
        except UnreadableError as error:
            raise ImageError(f"{name}: {error}") from error
        return Picture(name, pixels, (pixels.shape[0], pixels.shape[1]))

    def convert(self, image: Any) -> Array:
        """Return an image held in memory, as ``effdet.images.pixels.to_rgb`` takes it, in this format.

        Raises:
            TypeError: If it is no image.
            ValueError: If channels or values do not suit the network.
        """
        from effdet.images.pixels import to_rgb
        from effdet.images.values import memory_values

        return to_rgb(image) if self.is_rgb else self.levels(memory_values(image))

    def levels(self, values: Array) -> Array:
        """Return stored values (H, W, C of the file) as levels (H, W, C), contiguous.

        Raises:
            UnreadableError: If channels or values do not suit the network.
        """
        values = self._with_channels(values)
        if self.value_range is None:
            if values.dtype != np.uint8:
                raise UnreadableError(
                    f"holds {values.dtype} values, but the network was made for 8-bit levels; train it with "
                    "data.value_range=[low, high], the values that become 0 and 255"
                )
            return np.ascontiguousarray(values)
        low, high = self.value_range
        levels = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / (high - low))
        if not np.isfinite(levels).all():
            raise UnreadableError("holds values that are not finite; replace them by numbers")
        return np.ascontiguousarray(levels.clip(0, 255))

    def _with_channels(self, values: Array) -> Array:
        found, wanted = values.shape[2], self.channels
        if found == wanted:
            return values
        if found == 1 and wanted == 3:
            return np.repeat(values, 3, axis=2)
        if found in (2, 4) and wanted == found - 1:  # alpha
            return values[..., :wanted]
        if found in (3, 4) and wanted == 1:
            return _luminance(values[..., :3])
        raise UnreadableError(
            f"has {found} channels, but the network takes {wanted}; model.architecture.in_channels={found} trains one "
            "that takes it"
        )


def check_range(given: Any) -> tuple[float, float]:
    """Return a range of values as two numbers.

    Raises:
        ValueError: If it is no pair of finite numbers, the first one smaller.
    """
    try:
        low, high = (float(value) for value in given)
    except (TypeError, ValueError):
        low, high = math.nan, math.nan
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise ValueError(f"value_range must be two finite numbers [low, high] with low < high, got {given!r}")
    return low, high


def _luminance(rgb: Array) -> Array:
    if np.issubdtype(rgb.dtype, np.integer):
        return ((rgb.astype(np.int64) @ _LUMINANCE + 8192) >> 14)[..., None].astype(rgb.dtype)
    return (rgb @ (_LUMINANCE / 16384))[..., None].astype(rgb.dtype)
