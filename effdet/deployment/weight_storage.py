"""Hold the weights of an ONNX file in half the space."""

from __future__ import annotations

from typing import Any

import numpy as np

from effdet.deployment.runtimes import require


def store_in_half(model: Any) -> None:
    """Hold every large float32 constant as float16, cast back where it is used.

    Runtimes compute the cast once, when they load the file.

    Args:
        model: The ``onnx.ModelProto``; changed in place.
    """
    onnx = require("onnx")
    graph, casts = model.graph, []
    for tensor in list(graph.initializer):
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype != np.float32 or values.ndim < 2 or np.abs(values).max() > np.finfo(np.float16).max:
            continue
        half = onnx.numpy_helper.from_array(values.astype(np.float16), f"{tensor.name}.half")
        casts.append(onnx.helper.make_node("Cast", [half.name], [tensor.name], to=onnx.TensorProto.FLOAT))
        graph.initializer.remove(tensor)
        graph.initializer.append(half)
    nodes = [*casts, *(type(node).FromString(node.SerializeToString()) for node in graph.node)]
    del graph.node[:]
    graph.node.extend(nodes)
