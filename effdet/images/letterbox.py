"""Fit an image of any size into the network input, for files, loaders and deployed models alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.images.pixel_format import PixelFormat
from effdet.images.preprocessing import PRESETS, Colour, Preprocessing, Scales, Size
from effdet.images.reading import EncodedImage, Picture
from effdet.images.stored import StoredImage

Array: TypeAlias = NDArray[Any]

_PILLOW = {"pillow-bilinear": Image.Resampling.BILINEAR, "pillow-bicubic": Image.Resampling.BICUBIC}


class Letterboxed(NamedTuple):
    """An image in the frame of the network input."""

    image: Array  # (H, W, C) uint8, or float32 that is normalised already
    content_size: Size  # (height, width) without padding
    scales: Scales  # network pixels per original pixel, along x and along y; equal unless the image is stretched


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Fit images into a network input: scale by one factor, put top-left, pad at the right and the bottom.

    With ``preprocessing.fit`` "stretch" each axis has a factor of its own, and nothing is padded.

    Plain values, so that it can be sent to loader processes.
    """

    image_size: Size  # (H, W)
    mean: tuple[float, ...]  # of each channel (RGB), in 0…255
    std: tuple[float, ...]
    preprocessing: Preprocessing = PRESETS["default"]
    value_range: tuple[float, float] | None = None  # of stored values, which become 0…255; None: 8-bit levels

    @property
    def pixels(self) -> PixelFormat:
        """The pixels that the network takes."""
        return PixelFormat(channels=len(self.mean), value_range=self.value_range)

    @property
    def fill(self) -> Colour:
        """The uint8 RGB of the padding.

        Raises:
            ValueError: If the network takes no RGB images.
        """
        if len(self.mean) != 3:
            raise ValueError(
                f"an RGB fill needs a network with in_channels=3, got in_channels={len(self.mean)}; take channel_fill"
            )
        red, green, blue = self.channel_fill
        return red, green, blue

    @property
    def channel_fill(self) -> tuple[int, ...]:
        """The padding's uint8 value of each channel, of images of any number of channels."""
        return self.preprocessing.fill_colour(self.mean)

    def read(self, source: str | Path | StoredImage | EncodedImage, *, size: Size | None = None) -> Picture:
        """Read an image file, at least as large as it is needed; see ``PixelFormat.read``."""
        return self.pixels.read(
            source, size=size, least_size=self._needed if self.preprocessing.reduced_decoding else None
        )

    def _needed(self, original_size: Size) -> Size:
        return self.preprocessing.content_size(original_size, self.image_size)[0]

    def __call__(self, image: Array, original_size: Size | None = None) -> Letterboxed:
        """Return an (h, w, C) image of levels in 0…255 in the frame of the network input.

        An image of uint8 stays so, unless the preprocessing normalises before it scales; others become float32,
        normalised.

        Args:
            image: The pixels.
            original_size: (height, width) of the image at full size, where it was decoded at a reduced one.
        """
        fill = self.channel_fill
        original_size = original_size or (image.shape[0], image.shape[1])
        content_size, scales = self.preprocessing.content_size(original_size, self.image_size)
        if not self.preprocessing.normalises and image.dtype == np.uint8:
            resized = _resize_levels(image, content_size, self.preprocessing.resize)
            return Letterboxed(pad(resized, self.image_size, fill), content_size, scales)

        padded = np.zeros((*self.image_size, len(self.mean)), dtype=np.float32)
        if not self.preprocessing.zero_padding:
            padded[:] = self._normalise(np.array([fill], dtype=np.float32))
        padded[: content_size[0], : content_size[1]] = self._resize_normalised(image, content_size)
        return Letterboxed(padded, content_size, scales)

    def _resize_normalised(self, image: Array, content_size: Size) -> Array:
        if not self.preprocessing.normalises:
            return self._normalise(_resize_levels(image, content_size, self.preprocessing.resize).astype(np.float32))
        if self.preprocessing.resize == "opencv-float":
            return resize_linear(self._normalise(image.astype(np.float64, order="C")), content_size)
        return self._resize_like_tensorflow(image, content_size)

    def _resize_like_tensorflow(self, image: Array, content_size: Size) -> Array:
        """Interpolate between columns, then between rows, as a + (b - a) · t in float32.

        Only pixels that take part are normalised: of a photo much larger than the input, a small share.
        """
        above, below, down = _neighbours(image.shape[0], content_size[0])
        left, right, across = _neighbours(image.shape[1], content_size[1])
        rows = image[np.concatenate([above, below])]
        first, second = (self._normalise(rows.take(columns, axis=1).astype(np.float32)) for columns in (left, right))
        first, second = (half.reshape(len(rows), -1) for half in (first, second))  # long rows are quick to work on
        second -= first
        second *= across.repeat(len(self.mean))
        first += second
        top, bottom = np.split(first, 2)
        bottom -= top
        bottom *= down[:, None]
        bottom += top
        return bottom.reshape(*content_size, len(self.mean))

    def _normalise(self, pixels: Array) -> Array:
        """Take mean and standard deviation out of contiguous (..., W, C) float pixels of 0…255, in place."""
        rows = pixels.reshape(-1, pixels.shape[-2] * len(self.mean))
        for values, operation in ((self.mean, np.subtract), (self.std, np.divide)):
            operation(rows, np.tile(np.array(values, pixels.dtype), pixels.shape[-2]), out=rows)
        return pixels


def _resize_levels(image: Array, size: Size, resize: str) -> Array:
    if image.shape[:2] == size:
        return image
    if resize == "mediapipe":
        return _resize_like_mediapipe(image, size)
    if resize == "opencv":
        return resize_linear(image, size)
    if image.dtype == np.uint8 and image.shape[2] == 3:
        return np.asarray(Image.fromarray(image).resize(size[::-1], _PILLOW[resize]))
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(image, 2, 0)]
    return np.stack([np.asarray(channel.resize(size[::-1], _PILLOW[resize])) for channel in channels], axis=2)


def resize_linear(image: Array, size: Size) -> Array:
    """Return an (H, W, C) image, uint8 or float, of another (height, width): bilinear, no antialias, half-pixel."""
    resized: Array = cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized.reshape(*size, image.shape[2])  # OpenCV drops the axis of a single channel


def _resize_like_mediapipe(image: Array, size: Size) -> Array:
    """Scale from the corner, so that all of the photo moves by up to half a pixel, as MediaPipe warps it on a CPU."""
    scaling = np.diag([size[1] / image.shape[1], size[0] / image.shape[0], 1.0])
    parts = []
    for first in range(0, image.shape[2], 4):  # OpenCV takes four channels at a time
        part = np.ascontiguousarray(image[..., first : first + 4])
        warped = cv2.warpPerspective(part, scaling, size[::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        parts.append(warped.reshape(*size, -1))
    return np.concatenate(parts, axis=2) if len(parts) > 1 else parts[0]


def _neighbours(old: int, new: int) -> tuple[Array, Array, Array]:
    """Return the pixels before and after each of ``new`` samples along a side of ``old`` pixels, and where between.

    All in float32, as the published models compute it; each (new,).
    """
    scale = np.float32(old) / np.float32(new)
    position = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(position)
    before, after = np.maximum(floor, 0).astype(np.int64), np.minimum(np.ceil(position), old - 1).astype(np.int64)
    return before, after, position - floor


def pad(image: Array, image_size: Size, fill: Sequence[float], *, out: Array | None = None) -> Array:
    """Return an (H, W, C) array of ``image_size`` with the image top-left and ``fill`` at its right and bottom.

    It is written to ``out``, a contiguous array of this shape and type, if there is one.
    """
    height, width, channels = image.shape
    bottom, right = image_size[0] - height, image_size[1] - width
    if channels > 4 or channels == 1:  # OpenCV knows no colours of more channels, and drops the axis of one
        padded = np.empty((*image_size, channels), image.dtype) if out is None else out
        padded[:] = np.array(fill, image.dtype)
        padded[:height, :width] = image
        return padded
    padded = cv2.copyMakeBorder(image, 0, bottom, 0, right, cv2.BORDER_CONSTANT, dst=out, value=tuple(fill))
    return padded
