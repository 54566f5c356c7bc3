"""Convert an ONNX graph of a detector to TFLite: (B, C, H, W) maps become (B, H, W, C) without a transpose."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from effdet.deployment.runtimes import require
from effdet.deployment.tflite.graph import Graph, Tensor

CHANNELS_LAST = (0, 2, 3, 1)
CHANNELS_FIRST = (0, 3, 1, 2)


@dataclass(frozen=True)
class Value:
    """What stands for a tensor of the ONNX graph.

    Attributes:
        tensor: The tensor in the TFLite graph.
        channels_last: Whether it has the four axes of the ONNX tensor in the order ``CHANNELS_LAST``.
    """

    tensor: Tensor
    channels_last: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the ONNX tensor."""
        shape = self.tensor.shape
        return tuple(shape[axis] for axis in CHANNELS_FIRST) if self.channels_last else shape

    def axis(self, axis: int) -> int:
        """Return where an axis of the ONNX tensor lies in the TFLite tensor."""
        axis %= len(self.shape)
        return CHANNELS_LAST.index(axis) if self.channels_last else axis


class Converter:
    """Writes the nodes of an ONNX graph into a TFLite graph; ``operators.py`` has a function for each kind of node.

    Args:
        onnx_graph: The ``onnx.GraphProto``, with one image and a fixed size.
    """

    def __init__(self, onnx_graph: Any) -> None:
        self.graph = Graph()
        self.onnx_graph = onnx_graph
        to_array = require("onnx").numpy_helper.to_array
        self.constants: dict[str, np.ndarray] = {tensor.name: to_array(tensor) for tensor in onnx_graph.initializer}
        self.values: dict[str, Value] = {}
        self.uses = Counter(name for node in onnx_graph.node for name in node.input)
        self.uses.update(output.name for output in onnx_graph.output)
        self._makers: dict[int, Any] = {}  # operator that computes a tensor, by the tensor's index

    def run(self, input_value: Value, kinds: dict[str, Callable[[Converter, Any], None]]) -> None:
        """Write all nodes.

        Args:
            input_value: What stands for the input of the ONNX graph.
            kinds: The function that writes a node, for each operator.

        Raises:
            ValueError: If there is no function for a node; the message names its operator.
        """
        self.values[self.onnx_graph.input[0].name] = input_value
        for node in self.onnx_graph.node:
            if node.op_type not in kinds:
                raise ValueError(
                    f"a .tflite file must be made of known operators, got the ONNX operator {node.op_type} "
                    f"('{node.name}'); export this model to another format"
                )
            kinds[node.op_type](self, node)

    def value(self, name: str) -> Value:
        """Return what stands for an ONNX tensor; a constant becomes a tensor with its own order of axes."""
        if name in self.constants:
            return Value(self.graph.constant(_as_stored(self.constants[name]), name))
        return self.values[name]

    def constant(self, node: Any, position: int) -> np.ndarray | None:
        """Return the values of an input that must be constant; None where the node does not have it.

        Raises:
            ValueError: If it is computed.
        """
        if position >= len(node.input) or not node.input[position]:
            return None
        name = node.input[position]
        if name not in self.constants:
            raise ValueError(
                f"input {position} of {node.op_type} ('{node.name}') must be constant in a .tflite file, got a "
                "computed one; export this model to another format"
            )
        return self.constants[name]

    def required(self, node: Any, position: int) -> np.ndarray:
        """Return the values of an input that must be there and constant."""
        values = self.constant(node, position)
        if values is None:
            raise ValueError(f"{node.op_type} ('{node.name}') must have an input {position}; the ONNX graph is damaged")
        return values

    def channels_last(self, name: str) -> Value:
        """Return an ONNX tensor (B, C, H, W) as (B, H, W, C)."""
        value = self.value(name)
        if value.channels_last:
            return value
        return Value(self._reorder(value.tensor, CHANNELS_LAST), channels_last=True)

    def onnx_order(self, name: str) -> Value:
        """Return an ONNX tensor with its own order of axes."""
        value = self.value(name)
        return Value(self._reorder(value.tensor, CHANNELS_FIRST)) if value.channels_last else value

    def together(self, names: Sequence[str]) -> list[Value]:
        """Return ONNX tensors that are to be joined element by element, all with the same order of axes.

        Constants follow the computed ones; among these, (B, H, W, C) wins.
        """
        computed = [self.values[name] for name in names if name not in self.constants]
        if not any(value.channels_last for value in computed):
            return [self.value(name) for name in names]
        return [self._constant_last(name) if name in self.constants else self.channels_last(name) for name in names]

    def _constant_last(self, name: str) -> Value:
        values = _as_stored(self.constants[name])
        if values.size > 1:
            values = values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(CHANNELS_LAST)
        return Value(self.graph.constant(values, name), channels_last=values.ndim == 4)

    def _reorder(self, tensor: Tensor, order: tuple[int, ...]) -> Tensor:
        """Return a tensor with its axes in another order; where no value moves, a reshape does it."""
        shape = [tensor.shape[axis] for axis in order]
        if [axis for axis in order if tensor.shape[axis] > 1] == [
            axis for axis in range(len(order)) if tensor.shape[axis] > 1
        ]:
            return self.reshape(tensor, shape)
        result = self.graph.tensor("transposed", shape)
        order_tensor = self.graph.constant(np.array(order, np.int32))
        self.graph.operator("TRANSPOSE", [tensor, order_tensor], [result], self.graph.options("Transpose"))
        return result

    def reshape(self, tensor: Tensor, shape: Sequence[int], name: str = "reshaped") -> Tensor:
        """Return a tensor with another shape."""
        result = self.graph.tensor(name, shape)
        wanted = np.array(shape, np.int32)
        options = self.graph.options("Reshape", newShape=wanted.tolist())
        self.graph.operator("RESHAPE", [tensor, self.graph.constant(wanted)], [result], options)
        return result

    def add(
        self,
        kind: str,
        inputs: Sequence[Value | Tensor],
        shape: Sequence[int],
        options: Any = None,
        *,
        name: str = "",
        version: int = 1,
    ) -> Tensor:
        """Append an operator with one result; returns that."""
        tensors = [one.tensor if isinstance(one, Value) else one for one in inputs]
        result = self.graph.tensor(name or kind.lower(), shape)
        self._makers[result.index] = self.graph.operator(kind, tensors, [result], options, version=version)
        return result

    def fuse(self, name: str, activation: str) -> Value | None:
        """Let the operator that computes an ONNX tensor apply an activation, if it can and nothing else reads it."""
        if name not in self.values or self.uses[name] > 1:
            return None
        maker = self._makers.get(self.values[name].tensor.index)
        options = getattr(maker, "builtinOptions", None)
        if getattr(options, "fusedActivationFunction", None) != 0:
            return None
        options.fusedActivationFunction = getattr(self.graph.schema.ActivationFunctionType, activation)  # type: ignore[union-attr]
        return self.values[name]

    def set(self, node: Any, result: Tensor | Value, channels_last: bool = False) -> None:
        """Let a tensor stand for the first output of a node."""
        value = result if isinstance(result, Value) else Value(result, channels_last)
        self.values[node.output[0]] = value
        self.graph.rename(value.tensor, node.output[0])

    def elementwise(self, node: Any, kind: str, options: Any = None) -> None:
        """Write a node whose inputs are broadcast against each other."""
        values = self.together(node.input)
        shape = np.broadcast_shapes(*(value.tensor.shape for value in values))
        self.set(node, self.add(kind, values, shape, options), any(value.channels_last for value in values))

    def unary(self, value: Value, kind: str, options: Any = None) -> Value:
        """Return a function of every element."""
        return replace(value, tensor=self.add(kind, [value], value.tensor.shape, options))


def attributes(node: Any) -> dict[str, Any]:
    """Return the attributes of an ONNX node; texts as ``str``."""
    values = {one.name: require("onnx").helper.get_attribute_value(one) for one in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _as_stored(values: np.ndarray) -> np.ndarray:
    """Return constants in a type that TFLite operators take: float32 or int32."""
    return values.astype(np.float32 if values.dtype.kind == "f" else np.int32)
