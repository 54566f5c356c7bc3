"""Write a detector as a ``.tflite`` file that LiteRT, MediaPipe and other TFLite runtimes take as it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effdet.atomic_write import replace_file
from effdet.deployment.onnx_graph import INPUT, RAW_OUTPUTS, trace_onnx
from effdet.deployment.tflite.accuracy import quantise_within
from effdet.deployment.tflite.convert import Converter, Value
from effdet.deployment.tflite.graph import Graph, Tensor, pack
from effdet.deployment.tflite.half import store_in_half
from effdet.deployment.tflite.inputs import has_one_scale, metadata_scale, samples_of
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
from effdet.deployment.tflite.quantise import Quantiser, let_input_be_uint8, output_operators
from effdet.deployment.tflite.runtime import LiteRt
from effdet.detector.efficientdet import EfficientDet

_NORMALISING = ("scaled", "normalised")  # what the operators before the network compute, which stay in float

if TYPE_CHECKING:
    from effdet.deployment.description import Description
    from effdet.deployment.quantise import Quantisation


def write_tflite(model: EfficientDet, file: Path, description: Description, quantisation: Quantisation | None) -> None:
    """Write a ``.tflite`` file with its description, TFLite metadata and labels."""
    graph = network_graph(model, description)
    if quantisation is not None:
        graph = quantised(graph, model, description, quantisation)
    elif description.precision == "fp16":
        store_in_half(graph)
    with replace_file(file) as stream:
        stream.write(finished(graph, model, description))


def quantised(graph: Graph, model: EfficientDet, description: Description, quantisation: Quantisation) -> Graph:
    """Return the network in int8, with float input and outputs."""
    last, behind = output_operators(graph)
    kept = [*behind, *_NORMALISING, *(last if quantisation.float_outputs else [])]
    quantiser = Quantiser(graph, samples_of(quantisation.inputs, description), kept)
    if quantisation.control is None:
        return quantiser.quantise()

    def runtime_of(graph: Graph) -> LiteRt:
        return LiteRt(finished(graph, model, description))

    return quantise_within(quantiser, quantisation.control, runtime_of)


def tflite_bytes(model: EfficientDet, description: Description) -> bytes:
    """Return a ``.tflite`` file in memory with the float32 network."""
    return finished(network_graph(model, description), model, description)


def finished(graph: Graph, model: EfficientDet, description: Description) -> bytes:
    """Return the bytes of a file.

    Args:
        graph: The network with float input and raw outputs; input type, NMS and metadata are added to it.
        model: Gives the anchors.
        description: What the file is to be. It travels in a zip behind the graph, with the labels.
    """
    mean, std = description.mean, description.std
    if description.input == "pixels" and has_one_scale(mean, std):
        let_input_be_uint8(graph, 1 / std[0], round(mean[0]))
    with_nms = description.outputs == "detections"
    if with_nms:
        anchors: np.ndarray = model.anchors(description.image_size, "cpu").numpy()
        append_nms(graph, anchors, description.image_size, len(description.class_names), description.settings)
    names = OUTPUTS if with_nms else RAW_OUTPUTS
    graph.add_metadata(NAME, make_metadata(description.name, metadata_scale(description), names))
    content = pack(graph.model)
    files = {LABELS: label_lines(description.class_names), DESCRIPTION: description.to_json()}
    return append_files(content, {**files, CHECKSUM: checksum(content)})


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
    scaled = to.add(
        "MUL", [images, to.graph.constant(factor)], images.shape, to.graph.options("Mul"), name=_NORMALISING[0]
    )
    shifted = [scaled, to.graph.constant(shift)]
    return to.add("ADD", shifted, images.shape, to.graph.options("Add"), name=_NORMALISING[1])
