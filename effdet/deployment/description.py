"""What an exported file says about itself, so that it can be used without any other file."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

from effdet.deployment.formats import Precision
from effdet.images.preprocessing import Preprocessing
from effdet.ops.postprocess import PostprocessSettings

KEY = "effdet"  # under which ONNX, OpenVINO and torch.export files hold the description
FORMAT = "effdet-deployed-1"


@dataclass(frozen=True, kw_only=True)
class Description:
    """Everything besides the graph that turns photos into detections; plain values, one JSON text in the file."""

    name: str  # variant
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: tuple[int, int]  # network input (height, width); where the size is dynamic, the usual one
    mean: tuple[float, ...]  # RGB in 0…255
    std: tuple[float, ...]
    preprocessing: Preprocessing
    settings: PostprocessSettings
    max_level: int  # coarsest level of the pyramid; the finest is P3
    anchor_scale: float
    aspect_ratios: tuple[tuple[float, float], ...]  # (width, height) factors
    batch: int | None = 1  # images of every run; None: any number
    dynamic_size: bool = False  # whether height and width may be anything; otherwise image_size only
    outputs: Literal["raw", "detections"] = "raw"
    precision: Precision = "fp32"

    def to_json(self) -> str:
        """Return the description as one JSON text."""
        return json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | None, file: str) -> Description:
        """Return the description of a file.

        Raises:
            ValueError: If there is none, or it is of another version.
        """
        values = json.loads(text) if text else {}
        if values.pop("format", None) != FORMAT:
            raise ValueError(f"{file} holds no description of this package; export it with tools/export.py")
        values["settings"] = PostprocessSettings(**values["settings"])
        values["preprocessing"] = Preprocessing(**values["preprocessing"])
        values["aspect_ratios"] = tuple((width, height) for width, height in values["aspect_ratios"])
        for field in ("class_names", "category_ids", "image_size", "mean", "std"):
            values[field] = tuple(values[field])
        return cls(**values)
