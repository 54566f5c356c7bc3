"""How an image is scaled and padded into the network input: the settings, and the presets of published models."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Colour: TypeAlias = tuple[int, int, int]
Size: TypeAlias = tuple[int, int]
Scales: TypeAlias = tuple[float, float]  # network pixels per original pixel, along x and along y

Fit: TypeAlias = Literal["letterbox", "stretch"]
Resize: TypeAlias = Literal["opencv", "opencv-float", "pillow-bilinear", "pillow-bicubic", "tensorflow", "mediapipe"]
Sizes: TypeAlias = Literal["float32", "float64", "exact"]


def _check(ok: bool, name: str, must: str, got: object) -> None:
    if not ok:
        raise ValueError(f"{name} must {must}, got {got!s:.80}")


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image is scaled and padded; plain values, saved with a model. Defaults are the ones we recommend.

    Ways to ``fit`` an image into the network input of H×W:

    - ``letterbox``: scale both axes by one factor, so that objects keep their shape, and pad the rest;
    - ``stretch``: scale each axis by its own factor, so that the image fills the input, as MediaPipe does.

    Kinds of ``resize``, with half-pixel centres unless something else is said:

    - ``opencv``: bilinear on whole levels, no antialias;
    - ``opencv-float``: the same on normalised float64;
    - ``pillow-bilinear``, ``pillow-bicubic``: on whole levels, with antialias;
    - ``tensorflow``: bilinear on normalised float32, no antialias, rounded as TensorFlow's kernel rounds;
    - ``mediapipe``: bilinear on whole levels, no antialias, pixel i of n at i · (old side / new side).

    Rules of ``sizes`` of the letterbox, with scale = min(H / h, W / w): ``float32`` and ``float64`` truncate h · scale
    and w · scale as computed in that precision, so that the tighter axis may lose a pixel; ``exact`` lets it fill the
    input.

    With ``reduced_decoding``, JPEG files much larger than the input are decoded at 1/2, 1/4 or 1/8, but never smaller
    than the size that they have inside the input. Boxes stay in pixels of the full size.

    Raises:
        ValueError: If there is no such kind or rule, or the colour is not valid.
    """

    fit: Fit = "letterbox"
    resize: Resize = "opencv"
    sizes: Sizes = "float32"
    fill: Colour | None = None  # uint8 RGB of the padding; None: the mean colour
    zero_padding: bool = True  # zeros in the padding after normalising; False: the colour, normalised like a pixel
    reduced_decoding: bool = False  # of image files only: what is decoded already is taken as it is

    def __post_init__(self) -> None:
        _check(self.fit in get_args(Fit), "fit", f"be one of {', '.join(get_args(Fit))}", self.fit)
        _check(self.resize in get_args(Resize), "resize", f"be one of {', '.join(get_args(Resize))}", self.resize)
        _check(self.sizes in get_args(Sizes), "sizes", f"be one of {', '.join(get_args(Sizes))}", self.sizes)
        if self.fill is not None:
            is_list = isinstance(self.fill, list | tuple) and len(self.fill) == 3
            good = is_list and all(type(value) is int and 0 <= value < 256 for value in self.fill)
            _check(good, "fill", "be three whole numbers in 0…255", self.fill)
            object.__setattr__(self, "fill", tuple(self.fill))  # JSON gives a list
        for name in ("zero_padding", "reduced_decoding"):
            _check(isinstance(getattr(self, name), bool), name, "be true or false", getattr(self, name))

    @classmethod
    def preset(cls, name: str) -> Preprocessing:
        """Return what published models of a family expect: see docs/explanations/presets.md.

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

    def content_size(self, original_size: Size, image_size: Size) -> tuple[Size, Scales]:
        """Return the (height, width) that an image has inside the network input, and network per original pixel."""
        if self.fit == "stretch":
            return image_size, (image_size[1] / original_size[1], image_size[0] / original_size[0])
        (height, width), scale = _fit(original_size, image_size, np.float32 if self.sizes == "float32" else np.float64)
        if self.sizes == "exact":
            height_is_tight = image_size[0] / original_size[0] <= image_size[1] / original_size[1]
            height, width = (image_size[0], width) if height_is_tight else (height, image_size[1])
        return (height, width), (scale, scale)

    def fill_colour(self, mean: tuple[float, ...]) -> tuple[int, ...]:
        """Return the padding's uint8 value of each channel, for a mean in 0…255.

        Raises:
            ValueError: If ``fill`` is set, but the images have no three channels.
        """
        if self.fill is not None:
            _check(
                len(mean) == 3, "fill", f"be null for images of {len(mean)} channels, which have no colour", self.fill
            )
        return self.fill or tuple(round(value) for value in mean)


PRESETS = {
    "default": Preprocessing(),
    "fast": Preprocessing(reduced_decoding=True),
    "google": Preprocessing(resize="tensorflow"),
    "google-advprop": Preprocessing(resize="tensorflow", fill=(0, 0, 0), zero_padding=False),
    "effdet": Preprocessing(resize="pillow-bilinear", sizes="float64", zero_padding=False),
    "effdet-advprop": Preprocessing(resize="pillow-bilinear", sizes="float64", fill=(0, 0, 0), zero_padding=False),
    "zylo": Preprocessing(resize="opencv-float", sizes="exact"),
}


def _fit(original_size: Size, image_size: Size, precision: type[np.floating[Any]]) -> tuple[Size, float]:
    """Return the (height, width) of an image scaled by one factor to fit into another size, and that factor.

    Factor and sides are computed in ``precision``; sides are truncated, and at least 1.
    """
    sides = [precision(side) for side in original_size]
    scale = min(precision(limit) / side for limit, side in zip(image_size, sides, strict=True))
    height, width = (max(1, int(side * scale)) for side in sides)
    return (height, width), float(scale)
