"""Int8 by calibration on the user's images (ai-edge-quantizer), for ``.tflite`` files."""

from __future__ import annotations

import contextlib
import io
import logging
import re
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from effdet.deployment.runtimes import require
from effdet.deployment.tflite.graph import SIGNATURE, Graph, pack, unpack

_LEAST_WEIGHT = 1e-4  # of a channel's bias
CONVOLUTIONS = ("CONV_2D", "DEPTHWISE_CONV_2D")


class Quantiser:
    """Makes int8 graphs of one float graph; calibration is done once.

    Args:
        graph: The float graph, with one input and raw outputs.
        inputs: What the input gets, each (1, H, W, C) float32. The range of a tensor is what is seen here.
        kept: Names of tensors whose operators always stay in float.
    """

    def __init__(self, graph: Graph, inputs: Sequence[np.ndarray], kept: Sequence[str]) -> None:
        logging.getLogger("absl").setLevel(logging.ERROR)
        self._library = require("ai_edge_quantizer")
        self._recipe = require("ai_edge_quantizer.recipe").static_wi8_ai8
        _wake_dead_channels(graph)
        self._model = pack(graph.model)
        self._kept = kept
        name = graph.subgraph.tensors[graph.subgraph.inputs[0]].name
        self.samples = inputs
        samples = [{name: image} for image in inputs]
        with _quiet():
            self._ranges = self._quantizer(()).calibrate({SIGNATURE: samples}, num_threads=1)

    def _quantizer(self, in_float: Sequence[str]) -> Any:
        quantizer = self._library.quantizer.Quantizer(self._model, self._recipe())
        names = self._library.qtyping.TFLOperationName
        keep = {"op_config": None, "algorithm_key": "no_quantize"}
        for end in (names.INPUT, names.OUTPUT):
            quantizer.update_quantization_recipe(regex=".*", operation_name=end, **keep)
        for name in (*self._kept, *in_float):
            pattern = f"^{re.escape(name)};$"
            quantizer.update_quantization_recipe(regex=pattern, operation_name=names.ALL_SUPPORTED, **keep)
        return quantizer

    def float_graph(self) -> Graph:
        """Return the graph in float."""
        return Graph(unpack(self._model))

    def quantise(self, in_float: Sequence[str] = ()) -> Graph:
        """Return the graph in int8, with float input and outputs.

        Args:
            in_float: Names of further tensors whose operators stay in float.
        """
        with _quiet():
            made = self._quantizer(in_float).quantize(self._ranges, enable_progress_report=False)
        return Graph(unpack(bytes(made.quantized_model)))


def _wake_dead_channels(graph: Graph) -> None:
    """Give every output channel of a convolution a weight of at least a ten-thousandth of its bias.

    A channel's bias is stored in steps of input scale · weight scale. Where training has let all weights of a channel
    vanish, the bias would be more steps than int32 holds, and the quantiser would turn its sign.
    """
    tensors, buffers = graph.subgraph.tensors, graph.model.buffers
    for operator in graph.subgraph.operators:
        if graph.kind(operator) not in CONVOLUTIONS:
            continue
        weight, bias = (tensors[index] for index in list(operator.inputs)[1:3])
        axis = 0 if graph.kind(operator) == "CONV_2D" else 3
        values = buffers[weight.buffer].data.view(np.float32).reshape(weight.shape).copy()
        rows = np.moveaxis(values, axis, 0)
        least = _LEAST_WEIGHT * np.abs(buffers[bias.buffer].data.view(np.float32))
        for channel in np.flatnonzero(np.abs(rows).reshape(len(rows), -1).max(axis=1) < least):
            place = np.unravel_index(np.abs(rows[channel]).argmax(), rows.shape[1:])
            row = rows[channel]
            row[place] = np.copysign(least[channel], row[place])
        buffers[weight.buffer].data = np.frombuffer(values.tobytes(), np.uint8)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and warnings of the quantiser; its exceptions are raised as ever."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def output_operators(graph: Graph) -> tuple[list[str], list[str]]:
    """Return the operators that the outputs come from, by the names of what they compute.

    Returns:
        The last convolutions, one for each head and level; and what follows them.
    """
    makers = {index: operator for operator in graph.subgraph.operators for index in operator.outputs}
    convolutions: list[str] = []
    others: list[str] = []
    seen: set[int] = set()
    waiting = list(graph.subgraph.outputs)
    while waiting:
        index = waiting.pop()
        if index in seen or index not in makers:
            continue
        seen.add(index)
        name, is_convolution = graph.subgraph.tensors[index].name, graph.kind(makers[index]) in CONVOLUTIONS
        (convolutions if is_convolution else others).append(name)
        if not is_convolution:
            waiting += list(makers[index].inputs)
    return convolutions, others


def let_input_be_uint8(graph: Graph, scale: float, zero_point: int) -> None:
    """Let the input be uint8: (level − zero point) · scale is what it was in float.

    The first operator makes int8 of it, at the same steps if calibration has seen black and white.
    """
    old = graph.at(graph.subgraph.inputs[0])
    name = graph.subgraph.tensors[old.index].name
    parameters = graph.schema.QuantizationParametersT()
    parameters.scale, parameters.zeroPoint = np.array([scale], np.float32), np.array([zero_point], np.int64)
    graph.rename(old, f"{name}.float")
    new = graph.tensor(name, old.shape, "uint8", parameters)
    readers = [one for one in graph.subgraph.operators if old.index in list(one.inputs)]
    for operator in readers:
        if graph.kind(operator) == "QUANTIZE":
            operator.inputs = [new.index]
    if any(graph.kind(operator) != "QUANTIZE" for operator in readers):
        graph.operator("DEQUANTIZE", [new], [old], graph.options("Dequantize"), version=2)
        graph.subgraph.operators.insert(0, graph.subgraph.operators.pop())
    outputs = {_name(entry): graph.at(entry.tensorIndex) for entry in graph.model.signatureDefs[0].outputs}
    graph.set_signature({name: new}, outputs)


def _name(entry: Any) -> str:
    return entry.name.decode() if isinstance(entry.name, bytes) else entry.name
