"""Write a detector as a ``.tflite`` file that LiteRT, MediaPipe and other TFLite runtimes take as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effdet.atomic_write import replace_file
from effdet.deployment.onnx_graph import INPUT, RAW_OUTPUTS, trace_onnx
from effdet.deployment.tflite.convert import Converter, Value
from effdet.deployment.tflite.graph import Graph, Tensor, pack
from effdet.deployment.tflite.half import store_in_half
from effdet.deployment.tflite.inputs import has_one_scale, metadata_scale
from effdet.deployment.tflite.metadata import (
    CHECKSUM,
    DESCRIPTION,
    LABELS,
    NAME,
    append_files,
    checksum,
    label_lines,
    make_metadata,
)
from effdet.deployment.tflite.nms import OUTPUTS, append_nms
from effdet.deployment.tflite.operators import OPERATORS, as_tensor
from effdet.detector.efficientdet import EfficientDet

if TYPE_CHECKING:
    from effdet.deployment.description import Description
    from effdet.deployment.quantise import Quantisation


def write_tflite(model: EfficientDet, file: Path, description: Description, _: Quantisation | None) -> None:
    """Write a ``.tflite`` file with its description, TFLite metadata and labels."""
    with_nms = description.outputs == "detections"
    graph = network_graph(model, description)
    if description.precision == "fp16":
        store_in_half(graph)
    if with_nms:
        anchors: np.ndarray = model.anchors(description.image_size, "cpu").numpy()
        append_nms(graph, anchors, description.image_size, model.num_classes, description.settings)
    with replace_file(file) as stream:
        stream.write(finish_file(graph, description))


def tflite_bytes(model: EfficientDet, description: Description) -> bytes:
    """Return a ``.tflite`` file in memory with the float32 network."""
    return finish_file(network_graph(model, description), description)


def finish_file(graph: Graph, description: Description) -> bytes:
    """Return the bytes of a file: the graph with TFLite metadata, and labels and description in a zip behind it."""
    names = OUTPUTS if description.outputs == "detections" else RAW_OUTPUTS
    graph.add_metadata(NAME, make_metadata(description.name, metadata_scale(description), names))
    model = pack(graph.model)
    files = {LABELS: label_lines(description.class_names), DESCRIPTION: description.to_json()}
    return append_files(model, {**files, CHECKSUM: checksum(model)})


def network_graph(model: EfficientDet, description: Description) -> Graph:
    """Return the network as a TFLite graph with the input ``images`` (1, H, W, C) and the raw outputs."""
    with_nms = description.outputs == "detections"
    onnx_graph = trace_onnx(model, description.image_size, deltas_as_yxhw=with_nms).graph
    converter = Converter(onnx_graph)
    height, width = description.image_size
    images = converter.graph.tensor(INPUT, (1, height, width, len(description.mean)))
    start = images
    if not has_one_scale(description.mean, description.std):
        start = _normalised(converter, images, description)
    converter.run(Value(start, channels_last=True), OPERATORS)
    outputs = {name: as_tensor(converter, name) for name in RAW_OUTPUTS}
    converter.graph.set_signature({INPUT: images}, outputs)
    return converter.graph


def _normalised(to: Converter, images: Tensor, description: Description) -> Tensor:
    """Return (pixel − mean) / std, computed in the graph, for images of 0…255."""
    mean, std = np.array(description.mean), np.array(description.std)
    factor, shift = (1 / std).astype(np.float32), (-mean / std).astype(np.float32)
    scaled = to.add("MUL", [images, to.graph.constant(factor)], images.shape, to.graph.options("Mul"), name="scaled")
    shifted = [scaled, to.graph.constant(shift)]
    return to.add("ADD", shifted, images.shape, to.graph.options("Add"), name="normalised")
