"""What an exported file says about itself, so that it can be used without any other file."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from effdet.deployment.formats import Precision
from effdet.images.preprocessing import Preprocessing
from effdet.models.architecture import Architecture
from effdet.ops.settings import PostprocessSettings
from effdet.ops.tiles import Tiles, tiles_from_dict

KEY = "effdet"  # under which ONNX, OpenVINO and torch.export files hold the description
FORMAT = "effdet-deployed-2"
_FIRST_FORMAT = "effdet-deployed-1"  # had the name of a published architecture instead of the architecture

_FIRST_ANCHOR_KEYS = ("max_level", "anchor_scale", "aspect_ratios")  # follow from the architecture


_SIZE = "be two whole numbers of pixels, height and width"


@dataclass(frozen=True, kw_only=True)
class Description:
    """Everything besides the graph that turns photos into detections; plain values, one JSON text in the file."""

    architecture: Architecture | None  # None: of a file that others wrote, which does not say
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: tuple[int, int]  # network input (height, width); where the size is dynamic, the usual one
    mean: tuple[float, ...]  # RGB in 0…255
    std: tuple[float, ...]
    preprocessing: Preprocessing
    settings: PostprocessSettings
    batch: int | None = 1  # images of every run; None: any number
    dynamic_size: bool = False  # whether height and width may be anything; otherwise image_size only
    input: Literal["normalised", "pixels"] = "normalised"  # "pixels": of 0…255; the graph normalises them
    outputs: Literal["raw", "detections"] = "raw"
    precision: Precision = "fp32"
    training_tiles: Tiles | None = None  # in which objects have the size that they had in training; None: unknown

    def __post_init__(self) -> None:
        texts = all(isinstance(name, str) for name in self.class_names)
        _check(bool(self.class_names) and texts, "class_names", "be texts, one or more", self.class_names)
        ids = self.category_ids
        _check(all(map(_is_whole, ids)), "category_ids", "be whole numbers", ids)
        _check(len(ids) == len(self.class_names), "category_ids", f"be {len(self.class_names)} numbers", len(ids))
        size = self.image_size
        _check(len(size) == 2 and all(_is_whole(side) and side > 0 for side in size), "image_size", _SIZE, size)
        channels = len(self.mean) if self.architecture is None else self.architecture.in_channels
        for name, values in (("mean", self.mean), ("std", self.std)):
            _check(len(values) == channels and _are_finite(values), name, f"be {channels} finite numbers", values)
        _check(min(self.std) > 0, "std", "be positive", self.std)
        batch = self.batch
        _check(batch is None or (_is_whole(batch) and batch > 0), "batch", "be 1 or more, or null for any", batch)
        _check(isinstance(self.dynamic_size, bool), "dynamic_size", "be true or false", self.dynamic_size)
        _check(self.input in ("normalised", "pixels"), "input", "be normalised or pixels", self.input)
        _check(self.outputs in ("raw", "detections"), "outputs", "be raw or detections", self.outputs)
        _check(self.precision in get_args(Precision), "precision", f"be one of {get_args(Precision)}", self.precision)

    @property
    def name(self) -> str:
        """The name of the published architecture that the graph is of, or "custom"; of a file of others "unknown"."""
        return "unknown" if self.architecture is None else self.architecture.name

    def to_json(self) -> str:
        """Return the description as one JSON text."""
        values = asdict(self) | {"architecture": self.architecture and self.architecture.to_dict(), "name": self.name}
        return json.dumps({"format": FORMAT, **values}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, file: str) -> Description:
        """Return the description of a file.

        Raises:
            ValueError: If there is none, it is of another version, or a value is missing or cannot be.
        """
        try:
            values = json.loads(text) if text else {}
            if not isinstance(values, dict) or values.get("format") not in (FORMAT, _FIRST_FORMAT):
                raise ValueError(f"{file} holds no description of this package; export it with tools/export.py")
        except json.JSONDecodeError as error:
            raise ValueError(f"{file} holds a damaged description: {error}; export it again") from error
        try:
            return cls(**_checked_values(values))
        except (KeyError, TypeError, ValueError) as error:
            wrong = f"{error} is missing" if isinstance(error, KeyError) else error
            raise ValueError(f"{file} holds a damaged description: {wrong}; export it again") from error


def _checked_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a description from the values of its JSON text."""
    values = dict(values)
    file_format, name = values.pop("format"), values.pop("name", "")
    if file_format == _FIRST_FORMAT:
        values = {key: value for key, value in values.items() if key not in _FIRST_ANCHOR_KEYS}
        values["architecture"] = Architecture.named(name)
    else:
        values["architecture"] = Architecture.from_dict(values["architecture"])
    values["settings"] = PostprocessSettings(**values["settings"])
    values["preprocessing"] = Preprocessing(**values["preprocessing"])
    values["training_tiles"] = tiles_from_dict(values.get("training_tiles"))
    for field in ("class_names", "category_ids", "image_size", "mean", "std"):
        if not isinstance(values[field], list):
            raise TypeError(f"{field} must be a list, got {values[field]!r}")
        values[field] = tuple(values[field])
    return values


def _check(good: bool, name: str, must: str, got: object) -> None:
    if not good:
        raise ValueError(f"{name} must {must}, got {got}")


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _are_finite(values: tuple[object, ...]) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)
