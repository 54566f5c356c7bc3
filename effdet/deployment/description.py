"""What an exported file says about itself, so that it can be used without any other file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from effdet.deployment.formats import Precision
from effdet.images.preprocessing import Preprocessing
from effdet.models.architecture import Architecture
from effdet.ops.settings import PostprocessSettings

KEY = "effdet"  # under which ONNX, OpenVINO and torch.export files hold the description
FORMAT = "effdet-deployed-2"
_FIRST_FORMAT = "effdet-deployed-1"  # had the name of a published architecture instead of the architecture

_FIRST_ANCHOR_KEYS = ("max_level", "anchor_scale", "aspect_ratios")  # follow from the architecture


@dataclass(frozen=True, kw_only=True)
class Description:
    """Everything besides the graph that turns photos into detections; plain values, one JSON text in the file."""

    architecture: Architecture
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: tuple[int, int]  # network input (height, width); where the size is dynamic, the usual one
    mean: tuple[float, ...]  # RGB in 0…255
    std: tuple[float, ...]
    preprocessing: Preprocessing
    settings: PostprocessSettings
    batch: int | None = 1  # images of every run; None: any number
    dynamic_size: bool = False  # whether height and width may be anything; otherwise image_size only
    outputs: Literal["raw", "detections"] = "raw"
    precision: Precision = "fp32"

    @property
    def name(self) -> str:
        """The name of the published architecture that the graph is of, or "custom"."""
        return self.architecture.name

    def to_json(self) -> str:
        """Return the description as one JSON text."""
        values = asdict(self) | {"architecture": self.architecture.to_dict(), "name": self.name}
        return json.dumps({"format": FORMAT, **values}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, file: str) -> Description:
        """Return the description of a file.

        Raises:
            ValueError: If there is none, it is of another version, or its architecture is not valid.
        """
        values = json.loads(text) if text else {}
        file_format, name = values.pop("format", None), values.pop("name", "")
        if file_format == _FIRST_FORMAT:
            values = {key: value for key, value in values.items() if key not in _FIRST_ANCHOR_KEYS}
            values["architecture"] = Architecture.named(name)
        elif file_format == FORMAT:
            values["architecture"] = Architecture.from_dict(values["architecture"])
        else:
            raise ValueError(f"{file} holds no description of this package; export it with tools/export.py")
        values["settings"] = PostprocessSettings(**values["settings"])
        values["preprocessing"] = Preprocessing(**values["preprocessing"])
        for field in ("class_names", "category_ids", "image_size", "mean", "std"):
            values[field] = tuple(values[field])
        return cls(**values)
