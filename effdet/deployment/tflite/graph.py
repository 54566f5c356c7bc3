"""Build, read and write TFLite models as the object tree of LiteRT's schema (``ModelT``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effdet.deployment.runtimes import require

IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every file
SIGNATURE = "serving_default"
_ALIGNMENT = 16  # bytes; runtimes read weights where they lie in the file
_SCHEMA_VERSION = 3

_TYPES = {"float32": "FLOAT32", "float16": "FLOAT16", "int32": "INT32", "int8": "INT8", "uint8": "UINT8"}


def schema() -> Any:
    """Return the module with the classes of the TFLite schema.

    Raises:
        ImportError: If LiteRT is not installed; the message says how to install it.
    """
    require("ai_edge_litert")
    return require("ai_edge_litert.schema_py_generated")


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph under construction."""

    index: int
    shape: tuple[int, ...]


class Graph:
    """The one subgraph of a model; operators are appended in the order in which they run.

    Args:
        model: A ``ModelT`` to go on with; None: a new one.
    """

    def __init__(self, model: Any = None) -> None:
        self.schema = schema()
        self.model = model or self._empty_model()
        self.subgraph = self.model.subgraphs[0]
        self._constants: dict[tuple[Any, ...], Tensor] = {}
        self._names_in_use = {_text(tensor.name) for tensor in self.subgraph.tensors}

    def _empty_model(self) -> Any:
        model, subgraph = self.schema.ModelT(), self.schema.SubGraphT()
        model.version, model.description = _SCHEMA_VERSION, "effdet"
        subgraph.tensors, subgraph.operators, subgraph.inputs, subgraph.outputs = [], [], [], []
        model.subgraphs, model.operatorCodes, model.signatureDefs, model.metadata = [subgraph], [], [], []
        model.buffers = [self.schema.BufferT()]  # the first one is always empty
        return model

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32", quantisation: Any = None) -> Tensor:
        """Add a tensor whose values are computed."""
        tensor = self.schema.TensorT()
        if name in self._names_in_use:
            name = f"{name}.{len(self.subgraph.tensors)}"
        self._names_in_use.add(name)
        tensor.name, tensor.shape, tensor.quantization = name, [int(side) for side in shape], quantisation
        tensor.type, tensor.buffer = getattr(self.schema.TensorType, _TYPES[dtype]), 0
        self.subgraph.tensors.append(tensor)
        return Tensor(len(self.subgraph.tensors) - 1, tuple(tensor.shape))

    def constant(self, values: np.ndarray, name: str = "constant") -> Tensor:
        """Add a tensor with these values; equal ones are stored once."""
        values = np.ascontiguousarray(values)
        key = (values.dtype.str, values.shape, values.tobytes())
        if key not in self._constants:
            tensor = self.tensor(name, values.shape, values.dtype.name)
            self.subgraph.tensors[tensor.index].buffer = self.buffer(values.tobytes())
            self._constants[key] = tensor
        return self._constants[key]

    def buffer(self, data: bytes) -> int:
        """Add a buffer and return its index."""
        buffer = self.schema.BufferT()
        buffer.data = np.frombuffer(data, np.uint8)
        self.model.buffers.append(buffer)
        return len(self.model.buffers) - 1

    def operator(
        self,
        kind: str,
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        options: Any = None,
        *,
        version: int = 1,
        custom: tuple[str, bytes] | None = None,
    ) -> Any:
        """Append an operator.

        Args:
            kind: A name of the schema's ``BuiltinOperator``; "CUSTOM" together with ``custom``.
            inputs: What it reads.
            outputs: What it computes.
            options: An options object of the schema, such as ``Conv2DOptionsT``.
            version: The least version of the operator that can compute it.
            custom: Name and options of an operator that the schema does not know.
        """
        operator = self.schema.OperatorT()
        operator.opcodeIndex = self._code(kind, version, custom[0] if custom else None)
        operator.inputs, operator.outputs = [one.index for one in inputs], [one.index for one in outputs]
        if options is not None:
            name = type(options).__name__.removesuffix("T")
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(self.schema.BuiltinOptions, name)
        if custom:
            operator.customOptions = np.frombuffer(custom[1], np.uint8)
        self.subgraph.operators.append(operator)
        return operator

    def _code(self, kind: str, version: int, custom: str | None) -> int:
        """Return the index of an operator code, which is added where it is new."""
        value = getattr(self.schema.BuiltinOperator, kind)
        for index, code in enumerate(self.model.operatorCodes):
            if (code.builtinCode, code.customCode) == (value, custom):
                code.version = max(code.version, version)
                return index
        code = self.schema.OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode = value, min(value, 127)
        code.version, code.customCode = version, custom
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def options(self, name: str, **values: Any) -> Any:
        """Return an options object of the schema, such as ``Conv2DOptionsT``, with these fields."""
        result = getattr(self.schema, f"{name}OptionsT")()
        for key, value in values.items():
            setattr(result, key, value)
        return result

    def kind(self, operator: Any) -> str:
        """Return the name of an operator in the schema's ``BuiltinOperator``."""
        value = self.model.operatorCodes[operator.opcodeIndex].builtinCode
        names = vars(self.schema.BuiltinOperator).items()
        return next(name for name, number in names if number == value)

    def rename(self, tensor: Tensor, name: str) -> None:
        """Give a tensor another name, which no other has."""
        self._names_in_use.add(name)
        self.subgraph.tensors[tensor.index].name = name

    def named(self, names: Sequence[str]) -> list[Tensor]:
        """Return the outputs of the signature with these names."""
        found = {_text(entry.name): entry.tensorIndex for entry in self.model.signatureDefs[0].outputs}
        return [self.at(found[name]) for name in names]

    def at(self, index: int) -> Tensor:
        """Return the tensor with an index."""
        return Tensor(index, tuple(self.subgraph.tensors[index].shape))

    def set_signature(self, inputs: dict[str, Tensor], outputs: dict[str, Tensor]) -> None:
        """Make these tensors the inputs and outputs of the model."""
        self.subgraph.inputs = [tensor.index for tensor in inputs.values()]
        self.subgraph.outputs = [tensor.index for tensor in outputs.values()]
        signature = self.schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
        signature.inputs, signature.outputs = self._names(inputs), self._names(outputs)
        self.model.signatureDefs = [signature]

    def _names(self, tensors: dict[str, Tensor]) -> list[Any]:
        entries = []
        for name, tensor in tensors.items():
            entry = self.schema.TensorMapT()
            entry.name, entry.tensorIndex = name, tensor.index
            entries.append(entry)
        return entries

    def add_metadata(self, name: str, data: bytes) -> None:
        """Add a named buffer that runtimes ignore and other programs read."""
        entry = self.schema.MetadataT()
        entry.name, entry.buffer = name, self.buffer(data)
        self.model.metadata = [*(self.model.metadata or []), entry]


def pack(model: Any) -> bytes:
    """Return a model as the bytes of a file, with every buffer at a multiple of 16 bytes."""
    import flatbuffers

    size = sum(len(buffer.data) for buffer in model.buffers if buffer.data is not None)
    builder = flatbuffers.Builder(size + (1 << 20))
    buffers = model.buffers
    model.buffers = [_AlignedBuffer(buffer.data) for buffer in buffers]
    builder.Finish(model.Pack(builder), file_identifier=IDENTIFIER)
    model.buffers = buffers
    return bytes(builder.Output())


def unpack(data: bytes) -> Any:
    """Return the ``ModelT`` of a file that this package or ai-edge-quantizer has written.

    The quantiser writes large buffers behind the flatbuffer; they are brought back into it.
    """
    model = schema().ModelT.InitFromPackedBuf(data, 0)
    for buffer in model.buffers:
        if buffer.offset > 1:
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
        buffer.offset = buffer.size = 0
    for code in model.operatorCodes:
        code.customCode = None if code.customCode is None else _text(code.customCode)
    for tensor in model.subgraphs[0].tensors:
        tensor.name = _text(tensor.name)
    return model


def _text(name: str | bytes) -> str:
    return name.decode() if isinstance(name, bytes) else name


class _AlignedBuffer:
    """A ``BufferT`` whose data begins at a multiple of ``_ALIGNMENT`` bytes, as the schema asks for."""

    def __init__(self, data: Any) -> None:
        self.data = None if data is None else np.asarray(data, np.uint8)

    def Pack(self, builder: Any) -> int:  # noqa: N802 - the name that ModelT.Pack calls
        """Append the buffer to a builder."""
        made = schema()
        place = None
        if self.data is not None and len(self.data):
            builder.StartVector(1, len(self.data), _ALIGNMENT)
            builder.head = builder.head - len(self.data)
            builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
            place = builder.EndVector()
        made.BufferStart(builder)
        if place is not None:
            made.BufferAddData(builder, place)
        return int(made.BufferEnd(builder))
