"""Let an ONNX graph that was traced at one size take any batch and any size.

Tracing with symbolic sizes takes minutes and leaves arithmetic on shapes in the graph. What depends on the size of the
input in an EfficientDet is little and known: ``SAME`` padding, the sizes that upsampling aims at, and the number of
anchors. Each has a form in ONNX that does not name a size.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from effdet.deployment.runtimes import require


def make_dynamic(model: Any, *, batch: bool, size: bool) -> None:
    """Give the input and the outputs of a graph names in the place of the sizes that may vary.

    Args:
        model: The ``onnx.ModelProto``, traced with inputs that the coarsest stride divides; changed in place.
        batch: Whether the number of images may vary.
        size: Whether height and width may vary.
    """
    graph = model.graph
    del graph.value_info[:]
    if size:
        say_same(graph, "Conv")
    _resize_to_the_other(graph)
    _count_anchors(graph)

    names = [*(["batch"] if batch else []), *(["height", "width"] if size else [])]
    _name_sizes(graph.input[0], dict(zip([0, 2, 3] if batch else [2, 3], names, strict=False)))
    for output in graph.output:
        _name_sizes(output, {**({0: "batch"} if batch else {}), **({1: "anchors"} if size else {})})


def say_same(graph: Any, kind: str) -> None:
    """Say ``SAME_UPPER`` where one-sided padding, or a pool that rounds up, shows that it is meant.

    Args:
        graph: The ``onnx.GraphProto``; changed in place.
        kind: "Conv" or "MaxPool".
    """
    for node in graph.node:
        values = {attribute.name: attribute for attribute in node.attribute}
        if node.op_type != kind or "pads" not in values:
            continue
        top, left, bottom, right = values["pads"].ints
        if (top < bottom and left < right) or ("ceil_mode" in values and values["ceil_mode"].i == 1):
            kept = [values[name] for name in values if name not in ("pads", "ceil_mode", "auto_pad")]
            del node.attribute[:]
            node.attribute.extend([*kept, require("onnx").helper.make_attribute("auto_pad", "SAME_UPPER")])


def _resize_to_the_other(graph: Any) -> None:
    """Resize to the height and width of the map that the result is added to."""
    make_node = require("onnx").helper.make_node
    nodes = []
    for node in graph.node:
        if node.op_type == "Resize":
            shape, target, sizes = (f"{node.output[0]}.{part}" for part in ("shape", "target", "sizes"))
            other = _other_summand(graph, node.output[0])
            nodes.append(make_node("Shape", [node.input[0]], [shape], start=0, end=2))
            nodes.append(make_node("Shape", [other], [target], start=2, end=4))
            nodes.append(make_node("Concat", [shape, target], [sizes], axis=0))
            del node.input[1:]
            node.input.extend(["", "", sizes])
        nodes.append(node)
    _replace_nodes(graph, nodes)


def _other_summand(graph: Any, name: str) -> str:
    """Return what a map, perhaps scaled, is added to."""
    while True:
        consumer = next(node for node in graph.node if name in node.input)
        if consumer.op_type == "Add":
            return next(other for other in consumer.input if other != name)
        name = consumer.output[0]


def _count_anchors(graph: Any) -> None:
    """Let the heads' reshape to (B, H·W·A, O) take B from its input and count the anchors itself."""
    onnx = require("onnx")
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Reshape" and constants[node.input[1]].size == 3:
            shape = np.array([0, -1, constants[node.input[1]][2]], dtype=np.int64)
            node.input[1] = f"{node.output[0]}.shape"
            graph.initializer.append(onnx.numpy_helper.from_array(shape, node.input[1]))
            del node.attribute[:]  # allowzero: here 0 means as in the input


def _name_sizes(value: Any, names: dict[int, str]) -> None:
    for dimension, name in names.items():
        value.type.tensor_type.shape.dim[dimension].dim_param = name


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
