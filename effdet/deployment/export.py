"""Write a detector as a file of another runtime that describes itself: ONNX, OpenVINO, ``torch.export``, TFLite."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effdet.deployment.description import KEY, Description
from effdet.deployment.end_to_end import ALL_CANDIDATES, append_postprocessing, postprocess_settings
from effdet.deployment.formats import FORMATS, FormatName, Precision
from effdet.deployment.onnx_graph import RawNetwork, trace_onnx, unshare_biases
from effdet.deployment.quantise import Quantisation, quantise
from effdet.deployment.runtimes import openvino_core, require
from effdet.deployment.weight_storage import store_in_half
from effdet.detector.efficientdet import EfficientDet
from effdet.models.feature_sizes import Edge
from effdet.ops.settings import PostprocessSettings


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What an exported file is to be.

    Precisions: ``fp16`` halves the file; ONNX and OpenVINO files then hold their weights in float16 and compute in
    float32 where the processor has nothing better, a ``torch-export`` file computes in it. ``bf16`` computes in
    bfloat16. ``int8`` quantises weights and activations by calibration images, in OpenVINO and TFLite files.

    Files of the format ``tflite`` take one image and hold hard NMS unless ``postprocess`` is False.

    Raises:
        ValueError: If the format does not have one of these options.
    """

    format: FormatName = "onnx"
    image_size: tuple[int, int] | None = None  # network input; None: that of the model
    batch: int | None = 1  # images of every run; None: any number
    dynamic_size: bool = False  # let height and width be anything; ``image_size`` is then the usual one
    precision: Precision = "fp32"
    postprocess: bool | None = None  # put hard NMS into the file; None: as is usual for the format
    score_threshold: float | None = None  # of NMS inside the file; None: the model's, but 0.02 or more in tflite
    max_candidates: int | None = None  # of NMS inside the file; None: as few as TensorRT takes, where it can be limited
    bf16_drop: float | None = None  # what ``effdet.runs.bf16_drop.measure_bf16_drop`` returned, for precision="auto"

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            raise ValueError(f"format must be one of {', '.join(FORMATS)}, got '{self.format}'")
        format = FORMATS[self.format]
        if self.precision not in format.precisions:
            valid = ", ".join(format.precisions)
            raise ValueError(f"precision of {self.format} must be one of {valid}, got '{self.precision}'")
        if self.batch is not None and self.batch < 1:
            raise ValueError(f"batch must be 1 or more, or None for any, got {self.batch}")
        if self.batch != 1 and format.one_image:
            raise ValueError(f"batch of {self.format} files must be 1, got {self.batch}; leave it out or take onnx")
        if self.postprocess and not format.postprocess:
            raise ValueError(f"post-processing cannot be part of {self.format} files; leave it out or take onnx")
        if self.dynamic_size and not format.dynamic_size:
            raise ValueError(f"the size of {self.format} files must be fixed; give an image_size or take onnx")
        if self.dynamic_size and self.with_nms:
            raise ValueError("a file with post-processing must have a fixed size; leave one of the two out")
        if self.max_candidates is not None and not (self.postprocess and format.max_candidates):
            raise ValueError("max_candidates goes with postprocess, in the formats onnx and openvino")
        if self.score_threshold is not None and not self.with_nms:
            raise ValueError("score_threshold goes with post-processing inside the file")

    @property
    def with_nms(self) -> bool:
        """Whether hard NMS is part of the file."""
        return FORMATS[self.format].postprocess_by_default if self.postprocess is None else self.postprocess


def export(
    model: EfficientDet, file: str | Path, options: ExportOptions, *, quantisation: Quantisation | None = None
) -> Description:
    """Write a detector to a file, and return what the file says about itself.

    Args:
        model: The detector; it is not changed.
        file: The file, with the suffix of the format. An OpenVINO file has its weights beside it, in ``.bin``.
        options: What the file is to be.
        quantisation: Calibration images and what int8 may cost; for the precision int8 only, which needs it.

    Raises:
        ValueError: If the suffix is another, or options cannot be joined.
        ImportError: If a package of the extra ``deploy`` or ``edge`` is missing.
    """
    file = Path(file)
    format = FORMATS[options.format]
    if file.suffix != format.suffix:
        raise ValueError(f"{options.format} files end in {format.suffix}, got {file}")
    if (options.precision == "int8") != (quantisation is not None):
        raise ValueError("calibration images go with the precision int8, which needs them")
    description = describe(model, options)
    file.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
        format.write(model, Path(folder) / file.name, description, quantisation)
        for suffix in (*format.companions, format.suffix):  # the file that is opened comes last
            _move(Path(folder) / file.with_suffix(suffix).name, file.with_suffix(suffix))
    return description


def _move(written: Path, to: Path) -> None:
    """Give a file, or a folder such as ``.mlpackage``, its name in place of what has it."""
    if to.is_dir():
        shutil.rmtree(to)
    os.replace(written, to)


def describe(model: EfficientDet, options: ExportOptions) -> Description:
    """Return what the exported file will say about itself."""
    if options.dynamic_size and model.network.backbone.edge is not Edge.rounds_up:
        raise ValueError(
            f"the size of a file must be fixed for the backbone '{model.architecture.backbone}', for which images are "
            "padded to multiples of 32; give an image_size"
        )
    settings = model.settings
    if options.with_nms:
        settings = _inside_settings(settings, options)
    return Description(
        architecture=model.architecture,
        class_names=model.class_names,
        category_ids=model.category_ids,
        image_size=options.image_size or model.image_size,
        mean=model.letterbox.mean,
        std=model.letterbox.std,
        preprocessing=model.preprocessing,
        settings=settings,
        batch=options.batch,
        dynamic_size=options.dynamic_size,
        input=FORMATS[options.format].input_kind(model.letterbox.mean, model.letterbox.std, options.precision),
        outputs="detections" if options.with_nms else "raw",
        precision=options.precision,
        value_range=model.value_range,
        training_tiles=model.training_tiles,
        predict_threshold=model.predict_threshold,
        bf16_drop=options.bf16_drop,
    )


def _inside_settings(settings: PostprocessSettings, options: ExportOptions) -> PostprocessSettings:
    """Return the settings that NMS inside the file has."""
    format = FORMATS[options.format]
    usual = ALL_CANDIDATES if format.max_candidates is None else min(settings.max_candidates, format.max_candidates)
    threshold = options.score_threshold
    if threshold is None:
        threshold = max(settings.score_threshold, format.score_threshold)
    inside = postprocess_settings(settings, usual if options.max_candidates is None else options.max_candidates)
    return replace(inside, score_threshold=threshold)


def as_exported(model: EfficientDet, description: Description) -> EfficientDet:
    """Return the PyTorch model with the settings of an export, to compare the two; the weights are shared."""
    twin = EfficientDet.__new__(EfficientDet)
    twin.__dict__.update(model.__dict__)
    twin.settings = description.settings
    twin.image_size = description.image_size
    return twin


def onnx_graph(model: EfficientDet, description: Description) -> Any:
    """Return the graph of an export as an ``onnx.ModelProto`` in float32, with its description."""
    graph = trace_onnx(model, description.image_size, batch=description.batch, dynamic_size=description.dynamic_size)
    unshare_biases(graph)
    if description.outputs == "detections":
        anchors: np.ndarray = model.anchors(description.image_size, "cpu").numpy()
        append_postprocessing(graph, anchors, model.num_classes, description.settings)
    entry = graph.metadata_props.add()
    entry.key, entry.value = KEY, description.to_json()
    return graph


def onnx_bytes(model: EfficientDet, description: Description) -> bytes:
    """Return an ONNX file in memory."""
    data: bytes = onnx_graph(model, description).SerializeToString()
    return data


def write_onnx(model: EfficientDet, file: Path, description: Description, _: Quantisation | None) -> None:
    """Write an ONNX file."""
    graph = onnx_graph(model, description)
    if description.precision == "fp16":
        store_in_half(graph)
    require("onnx").save(graph, str(file))


def write_openvino(
    model: EfficientDet, file: Path, description: Description, quantisation: Quantisation | None
) -> None:
    """Write an OpenVINO file, ``.xml`` with its ``.bin``."""
    openvino = require("openvino")
    graph = openvino_core().read_model(onnx_graph(model, description).SerializeToString())
    if quantisation is not None:
        graph = quantise(graph, quantisation)
    graph.set_rt_info(description.to_json(), [KEY])
    openvino.save_model(graph, str(file), compress_to_fp16=description.precision == "fp16")


def write_torch_export(model: EfficientDet, file: Path, description: Description, _: Quantisation | None) -> None:
    """Write a ``.pt2`` file of ``torch.export``."""
    dtypes = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    images = torch.zeros(description.batch or 2, model.architecture.in_channels, *description.image_size)
    shapes = {0: torch.export.Dim("batch", min=1, max=4096)} if description.batch is None else None
    network = RawNetwork(model, dtypes[description.precision])
    with torch.no_grad():
        program = torch.export.export(network, (images,), dynamic_shapes=(shapes,) if shapes else None)
    torch.export.save(program, file, extra_files={KEY: description.to_json()})
