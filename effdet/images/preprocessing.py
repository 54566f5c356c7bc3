"""How an image becomes the network input: one function for files, loaders and deployed models, and its presets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.images.reading import Picture, fit, pad, read_picture

Array: TypeAlias = NDArray[Any]
Colour: TypeAlias = tuple[int, int, int]
Size: TypeAlias = tuple[int, int]

Resize: TypeAlias = Literal["opencv", "opencv-float", "pillow-bilinear", "pillow-bicubic", "tensorflow"]
Sizes: TypeAlias = Literal["float32", "float64", "exact"]

_PILLOW = {"pillow-bilinear": Image.Resampling.BILINEAR, "pillow-bicubic": Image.Resampling.BICUBIC}


def _check(ok: bool, name: str, must: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{name} must {must}, got {got}")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image is scaled and padded; plain values, saved with a model. Defaults are the ones we recommend.

    Kinds of ``resize``, all with half-pixel centres:

    - ``opencv``: bilinear on whole levels, no antialias;
    - ``opencv-float``: the same on normalised float64;
    - ``pillow-bilinear``, ``pillow-bicubic``: on whole levels, with antialias;
    - ``tensorflow``: bilinear on normalised float32, no antialias, rounded as TensorFlow's kernel rounds.

    Rules of ``sizes``, with scale = min(H / h, W / w): ``float32`` and ``float64`` truncate h · scale and w · scale as
    computed in that precision, so that the tighter axis may lose a pixel; ``exact`` lets it fill the input.

    With ``reduced_decoding``, JPEG files much larger than the input are decoded at 1/2, 1/4 or 1/8, but never smaller
    than the size that they have inside the input. Boxes stay in pixels of the full size.

    Raises:
        ValueError: If there is no such kind or rule, or the colour is none.
    """

    resize: Resize = "opencv"
    sizes: Sizes = "float32"
    fill: Colour | None = None  # uint8 RGB of the padding; None: the mean colour
    zero_padding: bool = True  # zeros in the padding after normalising; False: the colour, normalised like a pixel
    reduced_decoding: bool = False  # of image files only: what is decoded already is taken as it is

    def __post_init__(self) -> None:
        _check(self.resize in get_args(Resize), "resize", f"be one of {', '.join(get_args(Resize))}", self.resize)
        _check(self.sizes in get_args(Sizes), "sizes", f"be one of {', '.join(get_args(Sizes))}", self.sizes)
        if self.fill is not None:
            good = len(self.fill) == 3 and all(value in range(256) for value in self.fill)
            _check(good, "fill", "be three whole numbers in 0…255", self.fill)
            object.__setattr__(self, "fill", tuple(self.fill))  # JSON gives a list

    @classmethod
    def preset(cls, name: str) -> Preprocessing:
        """Return what published models of a family expect: see docs/presets.md.

        Args:
            name: "default", "fast", "google", "google-advprop", "effdet", "effdet-advprop" or "zylo".

        Raises:
            ValueError: If there is no such preset.
        """
        if name not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got '{name}'")
        return PRESETS[name]

    @property
    def normalises(self) -> bool:
        """Whether images are normalised before they are scaled, hence leave ``Letterbox`` as floats."""
        return self.resize in ("opencv-float", "tensorflow")

    def content_size(self, original_size: Size, image_size: Size) -> tuple[Size, float]:
        """Return the (height, width) that an image has inside the network input, and network per original pixel."""
        (height, width), scale = fit(original_size, image_size, np.float32 if self.sizes == "float32" else np.float64)
        if self.sizes == "exact":
            height_is_tight = image_size[0] / original_size[0] <= image_size[1] / original_size[1]
            height, width = (image_size[0], width) if height_is_tight else (height, image_size[1])
        return (height, width), scale

    def fill_colour(self, mean: tuple[float, ...]) -> Colour:
        """Return the uint8 RGB of the padding, for a mean in 0…255."""
        red, green, blue = self.fill or (round(value) for value in mean)
        return red, green, blue


PRESETS = {
    "default": Preprocessing(),
    "fast": Preprocessing(reduced_decoding=True),
    "google": Preprocessing(resize="tensorflow"),
    "google-advprop": Preprocessing(resize="tensorflow", fill=(0, 0, 0), zero_padding=False),
    "effdet": Preprocessing(resize="pillow-bilinear", sizes="float64", zero_padding=False),
    "effdet-advprop": Preprocessing(resize="pillow-bilinear", sizes="float64", fill=(0, 0, 0), zero_padding=False),
    "zylo": Preprocessing(resize="opencv-float", sizes="exact"),
}


class Letterboxed(NamedTuple):
    """An image in the frame of the network input."""

    image: Array  # (H, W, 3) uint8, or float32 that is normalised already
    content_size: Size  # (height, width) without padding
    scale: float  # network pixels per original pixel


@dataclass(frozen=True, kw_only=True)
class Letterbox:
    """Fit images into a network input: scale by one factor, put top-left, pad at the right and the bottom.

    Plain values, so that it can be sent to loader processes.
    """

    image_size: Size  # (H, W)
    mean: tuple[float, ...]  # RGB in 0…255
    std: tuple[float, ...]
    preprocessing: Preprocessing = PRESETS["default"]

    @property
    def fill(self) -> Colour:
        """The uint8 RGB of the padding."""
        return self.preprocessing.fill_colour(self.mean)

    def read(self, path: str | Path, *, size: Size | None = None) -> Picture:
        """Read an image file, at least as large as it is needed; see ``effdet.images.reading.read_picture``."""
        return read_picture(path, size=size, least_size=self._needed if self.preprocessing.reduced_decoding else None)

    def _needed(self, original_size: Size) -> Size:
        return self.preprocessing.content_size(original_size, self.image_size)[0]

    def __call__(self, image: Array, original_size: Size | None = None) -> Letterboxed:
        """Return an (h, w, 3) uint8 RGB image in the frame of the network input.

        It stays uint8, or is float32 and normalised if the preprocessing normalises before it scales.

        Args:
            image: The pixels.
            original_size: (height, width) of the image at full size, where it was decoded at a reduced one.
        """
        original_size = original_size or (image.shape[0], image.shape[1])
        content_size, scale = self.preprocessing.content_size(original_size, self.image_size)
        if not self.preprocessing.normalises:
            resized = _resize_levels(image, content_size, self.preprocessing.resize)
            return Letterboxed(pad(resized, self.image_size, self.fill), content_size, scale)

        padded = np.zeros((*self.image_size, 3), dtype=np.float32)
        if not self.preprocessing.zero_padding:
            padded[:] = self._normalise(np.array([self.fill], dtype=np.float32))
        padded[: content_size[0], : content_size[1]] = self._resize_normalised(image, content_size)
        return Letterboxed(padded, content_size, scale)

    def _resize_normalised(self, image: Array, content_size: Size) -> Array:
        if self.preprocessing.resize == "opencv-float":
            normalised = self._normalise(image.astype(np.float64, order="C"))
            return cv2.resize(normalised, content_size[::-1], interpolation=cv2.INTER_LINEAR)
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
        second *= across.repeat(3)
        first += second
        top, bottom = np.split(first, 2)
        bottom -= top
        bottom *= down[:, None]
        bottom += top
        return bottom.reshape(*content_size, 3)

    def _normalise(self, pixels: Array) -> Array:
        """Take mean and standard deviation out of contiguous (..., W, 3) float pixels of 0…255, in place."""
        rows = pixels.reshape(-1, pixels.shape[-2] * 3)
        for values, operation in ((self.mean, np.subtract), (self.std, np.divide)):
            operation(rows, np.tile(np.array(values, pixels.dtype), pixels.shape[-2]), out=rows)
        return pixels


def _resize_levels(image: Array, size: Size, resize: str) -> Array:
    if image.shape[:2] == size:
        return image
    if resize == "opencv":
        return cv2.resize(image, size[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(Image.fromarray(image).resize(size[::-1], _PILLOW[resize]))


def _neighbours(old: int, new: int) -> tuple[Array, Array, Array]:
    """Return the pixels before and after each of ``new`` samples along a side of ``old`` pixels, and where between.

    All in float32, as the published models compute it; each (new,).
    """
    scale = np.float32(old) / np.float32(new)
    position = (np.arange(new, dtype=np.float32) + np.float32(0.5)) * scale - np.float32(0.5)
    floor = np.floor(position)
    before, after = np.maximum(floor, 0).astype(np.int64), np.minimum(np.ceil(position), old - 1).astype(np.int64)
    return before, after, position - floor
