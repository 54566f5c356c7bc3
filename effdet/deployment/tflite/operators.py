"""How each operator of an ONNX graph is written in TFLite: one function for each, and the table of them.

Those on maps, such as convolution, are in ``map_operators.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from effdet.deployment.tflite.convert import CHANNELS_FIRST, CHANNELS_LAST, Converter, Value, attributes
from effdet.deployment.tflite.graph import Tensor
from effdet.deployment.tflite.map_operators import (
    pool_writer,
    write_conv,
    write_mean,
    write_pad,
    write_reduction,
    write_resize,
)

_FUSED_BOUNDS: dict[tuple[float | None, ...], str] = {
    (0.0, None): "RELU",
    (0.0, 6.0): "RELU6",
    (-1.0, 1.0): "RELU_N1_TO_1",
}


def _clip(to: Converter, node: Any) -> None:
    low, high = to.constant(node, 1), to.constant(node, 2)
    bounds = tuple(None if bound is None else float(bound) for bound in (low, high))
    fused = _FUSED_BOUNDS.get(bounds)
    if fused:
        return _activation(fused)(to, node)
    value = to.value(node.input[0])
    for bound, kind in ((bounds[0], "MAXIMUM"), (bounds[1], "MINIMUM")):
        if bound is not None:
            inputs: list[Value | Tensor] = [value, to.graph.constant(np.array(bound, np.float32))]
            tensor = to.add(kind, inputs, value.tensor.shape, to.graph.options("MaximumMinimum"))
            value = Value(tensor, value.channels_last)
    to.set(node, value)


def _activation(kind: str) -> Callable[[Converter, Any], None]:
    """Relu and Clip → part of the operator before, or RELU, RELU6 and so on."""

    def write(to: Converter, node: Any) -> None:
        to.set(node, to.fuse(node.input[0], kind) or to.unary(to.value(node.input[0]), kind))

    return write


def _unary(kind: str, options: str | None = None) -> Callable[[Converter, Any], None]:
    def write(to: Converter, node: Any) -> None:
        made = None if options is None else to.graph.options(options)
        to.set(node, to.unary(to.value(node.input[0]), kind, made))

    return write


def _binary(kind: str, options: str) -> Callable[[Converter, Any], None]:
    def write(to: Converter, node: Any) -> None:
        to.elementwise(node, kind, to.graph.options(options))

    return write


def _leaky_relu(to: Converter, node: Any) -> None:
    options = to.graph.options("LeakyRelu", alpha=attributes(node).get("alpha", 0.01))
    to.set(node, to.unary(to.value(node.input[0]), "LEAKY_RELU", options))


def _hard_sigmoid(to: Converter, node: Any) -> None:
    """HardSigmoid: max(0, min(1, α·x + β))."""
    values, x = attributes(node), to.value(node.input[0])
    scaled = _with_number(to, x, "MUL", "Mul", values.get("alpha", 0.2))
    moved = _with_number(to, scaled, "ADD", "Add", values.get("beta", 0.5))
    to.set(node, to.unary(moved, "RELU_0_TO_1"))


def _softplus(to: Converter, x: Value) -> Value:
    """ln(1 + eˣ) = max(x, 0) + ln(1 + e^−|x|), which cannot overflow."""
    falling = to.unary(to.unary(to.unary(x, "ABS"), "NEG"), "EXP")
    logarithm = to.unary(_with_number(to, falling, "ADD", "Add", 1.0), "LOG")
    tensors = [to.unary(x, "RELU"), logarithm]
    return Value(to.add("ADD", tensors, x.tensor.shape, to.graph.options("Add")), x.channels_last)


def _mish(to: Converter, node: Any) -> None:
    """Mish: x · tanh(ln(1 + eˣ))."""
    x = to.value(node.input[0])
    factors = [x, to.unary(_softplus(to, x), "TANH")]
    to.set(node, to.add("MUL", factors, x.tensor.shape, to.graph.options("Mul")), x.channels_last)


def _with_number(to: Converter, x: Value, kind: str, options: str, number: float) -> Value:
    inputs: list[Value | Tensor] = [x, to.graph.constant(np.array(number, np.float32))]
    return Value(to.add(kind, inputs, x.tensor.shape, to.graph.options(options)), x.channels_last)


def _batch_norm(to: Converter, node: Any) -> None:
    """A BN that no convolution could take: x · factor + shift for each channel."""
    x = to.channels_last(node.input[0])
    scale, shift, mean, variance = (to.required(node, position) for position in (1, 2, 3, 4))
    factor = scale / np.sqrt(variance + attributes(node).get("epsilon", 1e-5))
    shape, options = x.tensor.shape, to.graph.options
    scaled = to.add("MUL", [x.tensor, to.graph.constant(factor.astype(np.float32))], shape, options("Mul"))
    moved = [scaled, to.graph.constant((shift - mean * factor).astype(np.float32))]
    to.set(node, to.add("ADD", moved, shape, options("Add")), channels_last=True)


def _concat(to: Converter, node: Any) -> None:
    values = to.together(node.input)
    axis = values[0].axis(attributes(node)["axis"])
    shape = list(values[0].tensor.shape)
    shape[axis] = sum(value.tensor.shape[axis] for value in values)
    to.set(
        node,
        to.add("CONCATENATION", values, shape, to.graph.options("Concatenation", axis=axis)),
        values[0].channels_last,
    )


def _split(to: Converter, node: Any) -> None:
    """Split → one STRIDED_SLICE for each part."""
    x, axis = to.value(node.input[0]), attributes(node).get("axis", 0)
    side, sizes = x.shape[axis], to.constant(node, 1)
    if sizes is None:
        step = -(-side // len(node.output))
        sizes = np.diff([*range(0, side, step), side])
    start = 0
    for name, size in zip(node.output, sizes.tolist(), strict=True):
        to.values[name] = _slice_of(to, x, {axis: (start, start + size, 1)})
        start += size


def _slice(to: Converter, node: Any) -> None:
    starts, ends = to.required(node, 1), to.required(node, 2)
    axes, steps = to.constant(node, 3), to.constant(node, 4)
    x = to.value(node.input[0])
    places = list(range(len(starts)) if axes is None else axes.tolist())
    strides = [1] * len(places) if steps is None else steps.tolist()
    ranges = {}
    for axis, start, end, step in zip(places, starts.tolist(), ends.tolist(), strides, strict=True):
        ranges[axis] = slice(start, end, step).indices(x.shape[axis])
    to.set(node, _slice_of(to, x, ranges))


def _slice_of(to: Converter, x: Value, ranges: dict[int, tuple[int, int, int]]) -> Value:
    """Return a part of a tensor; ``ranges`` has (start, end, step) for axes of the ONNX tensor."""
    rank = len(x.shape)
    begin, end, step = np.zeros(rank, np.int32), np.array(x.tensor.shape, np.int32), np.ones(rank, np.int32)
    for axis, values in ranges.items():
        begin[x.axis(axis)], end[x.axis(axis)], step[x.axis(axis)] = values
    if (step < 1).any():
        raise ValueError(
            f"Slice must go forwards in a .tflite file, got a step of {step.min()}; export to another format"
        )
    shape = [len(range(*bounds)) for bounds in zip(begin, end, step, strict=True)]
    inputs = [x.tensor, *(to.graph.constant(values) for values in (begin, end, step))]
    return Value(to.add("STRIDED_SLICE", inputs, shape, to.graph.options("StridedSlice")), x.channels_last)


def _transpose(to: Converter, node: Any) -> None:
    """Transpose: nothing to compute where it only undoes or makes the order (B, H, W, C)."""
    x, order = to.value(node.input[0]), tuple(attributes(node)["perm"])
    if x.channels_last and order == CHANNELS_LAST:
        return to.set(node, Value(x.tensor))
    if not x.channels_last and order == CHANNELS_FIRST:
        return to.set(node, Value(x.tensor, channels_last=True))
    tensor = to.onnx_order(node.input[0]).tensor
    to.set(node, to._reorder(tensor, order))


def _reshape(to: Converter, node: Any) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze → RESHAPE of the ONNX tensor's own order."""
    shape = _new_shape(to, node, to.value(node.input[0]).shape)
    to.set(node, to.reshape(to.onnx_order(node.input[0]).tensor, shape))


def _new_shape(to: Converter, node: Any, shape: Sequence[int]) -> list[int]:
    if node.op_type == "Flatten":
        axis = attributes(node).get("axis", 1)
        return [int(np.prod(shape[:axis])), int(np.prod(shape[axis:]))]
    if node.op_type == "Reshape":
        given = to.required(node, 1)
        copy_zeros = not attributes(node).get("allowzero", 0)
        sides = [shape[i] if side == 0 and copy_zeros else int(side) for i, side in enumerate(given.tolist())]
        rest = int(np.prod(shape)) // -int(np.prod(sides)) if -1 in sides else 0
        return [rest if side == -1 else side for side in sides]
    if node.op_type == "Unsqueeze":
        given = to.required(node, 1)
        axes = sorted(int(axis) % (len(shape) + len(given)) for axis in given.tolist())
        sides = list(shape)
        for axis in axes:
            sides.insert(axis, 1)
        return sides
    listed = to.constant(node, 1)
    dropped = range(len(shape)) if listed is None else [axis % len(shape) for axis in listed.tolist()]
    return [side for axis, side in enumerate(shape) if axis not in dropped or side != 1]


def _identity(to: Converter, node: Any) -> None:
    if node.input[0] in to.constants:
        to.constants[node.output[0]] = to.constants[node.input[0]]
    else:
        to.values[node.output[0]] = to.values[node.input[0]]
        to.uses[node.input[0]] += to.uses[node.output[0]]


OPERATORS: dict[str, Callable[[Converter, Any], None]] = {
    "Abs": _unary("ABS", "Abs"),
    "Add": _binary("ADD", "Add"),
    "AveragePool": pool_writer("AVERAGE_POOL_2D"),
    "BatchNormalization": _batch_norm,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": write_conv,
    "Div": _binary("DIV", "Div"),
    "Elu": _unary("ELU"),
    "Exp": _unary("EXP", "Exp"),
    "Flatten": _reshape,
    "GlobalAveragePool": write_mean,
    "GlobalMaxPool": lambda to, node: write_reduction(to, node, "REDUCE_MAX"),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary("HARD_SWISH", "HardSwish"),
    "Identity": _identity,
    "LeakyRelu": _leaky_relu,
    "Log": _unary("LOG"),
    "Max": _binary("MAXIMUM", "MaximumMinimum"),
    "MaxPool": pool_writer("MAX_POOL_2D"),
    "Min": _binary("MINIMUM", "MaximumMinimum"),
    "Mish": _mish,
    "Mul": _binary("MUL", "Mul"),
    "Neg": _unary("NEG", "Neg"),
    "Pad": write_pad,
    "ReduceMax": lambda to, node: write_reduction(to, node, "REDUCE_MAX"),
    "ReduceMean": write_mean,
    "Relu": _activation("RELU"),
    "Reshape": _reshape,
    "Resize": write_resize,
    "Sigmoid": _unary("LOGISTIC"),
    "Slice": _slice,
    "Softplus": lambda to, node: to.set(node, _softplus(to, to.value(node.input[0]))),
    "Split": _split,
    "Sqrt": _unary("SQRT"),
    "Squeeze": _reshape,
    "Sub": _binary("SUB", "Sub"),
    "Tanh": _unary("TANH"),
    "Transpose": _transpose,
    "Unsqueeze": _reshape,
}


def as_tensor(to: Converter, name: str) -> Tensor:
    """Return the tensor of an output of the ONNX graph, with its own order of axes."""
    return to.onnx_order(name).tensor
