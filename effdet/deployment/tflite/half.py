"""Hold the weights of a TFLite model in half the space."""

from __future__ import annotations

import numpy as np

from effdet.deployment.tflite.graph import Graph

_VERSION = 3  # of DEQUANTIZE, from which on it takes float16


def store_in_half(graph: Graph) -> None:
    """Hold every float32 constant of two or more dimensions as float16, made float32 where it is used.

    Runtimes do that once, when they load the file.

    Args:
        graph: Changed in place. Constants beyond the range of float16 stay as they are.
    """
    subgraph, float32 = graph.subgraph, graph.schema.TensorType.FLOAT32
    computed = len(subgraph.operators)
    for index, tensor in enumerate(list(subgraph.tensors)):
        data = graph.model.buffers[tensor.buffer].data
        if tensor.type != float32 or len(tensor.shape) < 2 or data is None:
            continue
        values = data.view(np.float32)
        if np.abs(values).max(initial=0) > np.finfo(np.float16).max:
            continue
        half = graph.constant(values.astype(np.float16).reshape(tensor.shape), f"{tensor.name}.half")
        tensor.buffer = 0
        graph.operator("DEQUANTIZE", [half], [graph.at(index)], graph.options("Dequantize"), version=_VERSION)
    used = {tensor.buffer for tensor in subgraph.tensors} | {entry.buffer for entry in graph.model.metadata}
    for index, buffer in enumerate(graph.model.buffers):
        buffer.data = buffer.data if index in used else None
    operators = subgraph.operators
    subgraph.operators = [*operators[computed:], *operators[:computed]]
