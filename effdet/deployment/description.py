"""What an exported file says about itself, so that it can be used without any other file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

from effdet.deployment.formats import Precision
from effdet.images.pixel_format import check_range
from effdet.images.preprocessing import Preprocessing
from effdet.models.architecture import Architecture
from effdet.ops.settings import PostprocessSettings
from effdet.ops.tiles import Tiles, tiles_from_dict
from effdet.weights.described import (
    check,
    check_ids,
    check_input_size,
    check_names,
    check_normalisation,
    check_threshold,
    is_whole,
    list_of,
    settings_of,
)
from effdet.weights.limits import first_line, parse_json

KEY = "effdet"  # under which ONNX, OpenVINO and torch.export files hold the description
FORMAT = "effdet-deployed-2"
_FIRST_FORMAT = "effdet-deployed-1"  # had the name of a published architecture instead of the architecture

_FIRST_ANCHOR_KEYS = ("max_level", "anchor_scale", "aspect_ratios")  # follow from the architecture


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
    value_range: tuple[float, float] | None = None  # of stored values, which become 0…255; None: 8-bit levels
    training_tiles: Tiles | None = None  # in which objects have the size that they had in training; None: unknown

    predict_threshold: float | None = None  # score threshold of predict where it is given none; None: 0.3
    bf16_drop: float | None = None  # AP (0…1) that OpenVINO lost in bf16 on photos; None: not measured

    def __post_init__(self) -> None:
        check_threshold(self.predict_threshold)
        check_names(self.class_names)
        check_ids(self.category_ids, len(self.class_names))
        check_input_size(self.image_size)
        channels = len(self.mean) if self.architecture is None else self.architecture.in_channels
        check_normalisation(self.mean, self.std, channels)
        batch = self.batch
        check(batch is None or (is_whole(batch) and 0 < batch < 2**31), "batch", "be 1 or more, or null for any", batch)
        drop = self.bf16_drop
        is_drop = drop is None or (isinstance(drop, int | float) and -1 <= drop <= 1)
        check(is_drop, "bf16_drop", "be a difference of AP in -1…1, or null", drop)
        check(isinstance(self.dynamic_size, bool), "dynamic_size", "be true or false", self.dynamic_size)
        check(self.input in ("normalised", "pixels"), "input", "be normalised or pixels", self.input)
        check(self.outputs in ("raw", "detections"), "outputs", "be raw or detections", self.outputs)
        check(self.precision in get_args(Precision), "precision", f"be one of {get_args(Precision)}", self.precision)

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
            ValueError: If there is none, it is of another version, or a value is missing or not valid.
        """
        values = parse_json(text, f"{file} holds a damaged description: it") if text else {}
        if not isinstance(values, dict) or values.get("format") not in (FORMAT, _FIRST_FORMAT):
            raise ValueError(f"{file} holds no description of this package; export it with tools/export.py")
        try:
            return cls(**_checked_values(values))
        except (KeyError, TypeError, ValueError) as error:
            wrong = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
            raise ValueError(f"{file} holds a damaged description: {wrong}; export it again") from error


def _checked_values(values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a description from the values of its JSON text."""
    values = dict(values)
    file_format, name = values.pop("format"), values.pop("name", "")
    if file_format == _FIRST_FORMAT:
        values = {key: value for key, value in values.items() if key not in _FIRST_ANCHOR_KEYS}
        check(isinstance(name, str), "name", "be a text", name)
        values["architecture"] = Architecture.named(name)
    else:
        values["architecture"] = Architecture.from_dict(values["architecture"])
    unknown = sorted(set(values) - {field.name for field in fields(Description)})
    check(not unknown, "its entries", "be known to this version", ", ".join(unknown))
    values["settings"] = settings_of(values["settings"], "settings", PostprocessSettings)
    values["preprocessing"] = settings_of(values["preprocessing"], "preprocessing", Preprocessing)
    if values.get("value_range") is not None:
        values["value_range"] = check_range(values["value_range"])
    values["training_tiles"] = tiles_from_dict(values.get("training_tiles"))
    for name in ("class_names", "category_ids", "image_size", "mean", "std"):
        values[name] = list_of(values, name)
    return values
