"""Let an ONNX graph that was traced at one size take any batch and any size.

Tracing with symbolic sizes takes minutes and leaves arithmetic on shapes in the graph. What depends on the size of the
input in an EfficientDet is little and known: padding, the sizes that maps are resized to, and the number of anchors.
Each has a form in ONNX that does not name a size.
"""

from __future__ import annotations

from collections.abc import Sequence
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
    graph, shapes = model.graph, _traced_shapes(model)
    del graph.value_info[:]
    if size:
        say_same(graph, "Conv")
        _pad_odd_sides(graph)
    _resize_to_neighbours(graph, shapes)
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


def _resize_to_neighbours(graph: Any, shapes: dict[str, list[int]]) -> None:
    """Compute the target of every resize from the maps at hand, in the place of the size that was traced.

    A map that is enlarged gets the height and width of the map that it is then added to. A map that is reduced gets
    half its own, rounded up.
    """
    constants = _constants(graph)
    nodes = []
    for node in graph.node:
        if node.op_type == "Resize":
            shape, target, sizes = (f"{node.output[0]}.{part}" for part in ("shape", "target", "sizes"))
            nodes.append(_make_node("Shape", [node.input[0]], [shape], start=0, end=2))
            if _traced_height(node, constants, shapes) < shapes[node.input[0]][2]:
                nodes += _half_rounded_up(graph, node.input[0], target)
            else:
                nodes.append(_make_node("Shape", [_other_summand(graph, node.output[0])], [target], start=2, end=4))
            nodes.append(_make_node("Concat", [shape, target], [sizes], axis=0))
            del node.input[1:]
            node.input.extend(["", "", sizes])
        nodes.append(node)
    _replace_nodes(graph, nodes)


def _traced_height(node: Any, constants: dict[str, np.ndarray], shapes: dict[str, list[int]]) -> float:
    """Return the height that a resize had when it was traced, from its sizes or its scales."""
    if len(node.input) > 3 and node.input[3]:
        return float(constants[node.input[3]][-2])
    return float(constants[node.input[2]][-2] * shapes[node.input[0]][2])


def _half_rounded_up(graph: Any, name: str, result: str) -> list[Any]:
    """Return the nodes of ``result`` = (height, width) of a map, halved and rounded up."""
    one, two = (_int64(graph, f"{result}.{number}", [number]) for number in (1, 2))
    return [
        _make_node("Shape", [name], [f"{result}.whole"], start=2, end=4),
        _make_node("Add", [f"{result}.whole", one], [f"{result}.more"]),
        _make_node("Div", [f"{result}.more", two], [result]),
    ]


def _pad_odd_sides(graph: Any) -> None:
    """Let the zeros around a map that is pooled depend on its sides: after an even one; before and after an odd one."""
    pooled = {node.input[0] for node in graph.node if node.op_type == "MaxPool"}
    nodes = []
    for node in graph.node:
        if node.op_type == "Pad" and node.output[0] in pooled:
            sides, odd, pads = (f"{node.output[0]}.{part}" for part in ("sides", "odd", "pads"))
            before = _int64(graph, f"{pads}.before", [0, 0])
            after = _int64(graph, f"{pads}.after", [0, 0, 1, 1])
            nodes.append(_make_node("Shape", [node.input[0]], [sides], start=2, end=4))
            nodes.append(_make_node("Mod", [sides, _int64(graph, f"{pads}.two", [2])], [odd]))
            nodes.append(_make_node("Concat", [before, odd, after], [pads], axis=0))
            node.input[1] = pads
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
    constants = _constants(graph)
    for node in graph.node:
        if node.op_type == "Reshape" and constants[node.input[1]].size == 3:
            node.input[1] = _int64(graph, f"{node.output[0]}.shape", [0, -1, constants[node.input[1]][2]])
            del node.attribute[:]  # allowzero: here 0 means as in the input


def _traced_shapes(model: Any) -> dict[str, list[int]]:
    """Return the shape that every map had when the graph was traced."""
    graph = require("onnx").shape_inference.infer_shapes(model).graph
    values = (*graph.input, *graph.value_info, *graph.output)
    return {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in values}


def _constants(graph: Any) -> dict[str, np.ndarray]:
    return {tensor.name: require("onnx").numpy_helper.to_array(tensor) for tensor in graph.initializer}


def _int64(graph: Any, name: str, values: Sequence[int]) -> str:
    """Add a constant to the graph and return its name."""
    graph.initializer.append(require("onnx").numpy_helper.from_array(np.array(values, dtype=np.int64), name))
    return name


def _make_node(kind: str, inputs: list[str], outputs: list[str], **attributes: int) -> Any:
    return require("onnx").helper.make_node(kind, inputs, outputs, **attributes)


def _name_sizes(value: Any, names: dict[int, str]) -> None:
    for dimension, name in names.items():
        value.type.tensor_type.shape.dim[dimension].dim_param = name


def _replace_nodes(graph: Any, nodes: list[Any]) -> None:
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
