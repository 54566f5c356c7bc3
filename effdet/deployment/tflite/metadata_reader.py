"""Read TFLite metadata: how the input is normalised, and where the labels are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from effdet.deployment.tflite.metadata import IDENTIFIER, NORMALIZATION


@dataclass(frozen=True)
class Metadata:
    """What a file says about its input and its classes; empty where it does not."""

    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    label_file: str | None = None


def read_metadata(data: bytes | None) -> Metadata:
    """Return what the metadata buffer of a file says.

    Raises:
        ValueError, struct.error, IndexError: If it is damaged.
    """
    if data is None:
        return Metadata()
    if data[4:8] != IDENTIFIER:
        raise ValueError(f"the TFLite metadata must have the identifier {IDENTIFIER.decode()}, got {data[4:8]!r}")
    subgraphs = _root(data).tables(3)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    label_file = None
    for subgraph in subgraphs:
        for unit in (unit for tensor in subgraph.tables(2) for unit in tensor.tables(4)):
            if unit.byte(0) == NORMALIZATION:
                options = unit.table(1)
                mean, std = options.floats(0), options.floats(1)
        for file in (file for tensor in subgraph.tables(3) for file in tensor.tables(6)):
            label_file = label_file or file.text(0)
    return Metadata(mean, std, label_file)


class _Table:
    """A table of a flatbuffer, whose fields are read by their slot."""

    def __init__(self, data: bytes, position: int) -> None:
        from flatbuffers.table import Table

        if not 0 <= position < len(data):
            raise ValueError("an offset leads out of the TFLite metadata")
        self._data, self._table = data, Table(data, position)

    def _place(self, slot: int) -> int | None:
        offset = self._table.Offset(4 + 2 * slot)
        return self._table.Pos + offset if offset else None

    def byte(self, slot: int) -> int:
        place = self._place(slot)
        return 0 if place is None else self._data[place]

    def text(self, slot: int) -> str | None:
        place = self._place(slot)
        return None if place is None else bytes(self._table.String(place)).decode("utf-8", "replace")

    def table(self, slot: int) -> _Table:
        place = self._place(slot)
        if place is None:
            raise ValueError("a part of the TFLite metadata is missing")
        return _Table(self._data, self._table.Indirect(place))

    def tables(self, slot: int) -> list[_Table]:
        return [_Table(self._data, self._table.Indirect(place)) for place in self._places(slot)]

    def floats(self, slot: int) -> tuple[float, ...]:
        from flatbuffers.number_types import Float32Flags

        return tuple(float(self._table.Get(Float32Flags, place)) for place in self._places(slot))

    def _places(self, slot: int) -> Iterator[int]:
        """Yield where the elements of a vector lie, each of four bytes."""
        if self._place(slot) is None:
            return
        offset: Any = self._table.Offset(4 + 2 * slot)
        start, length = self._table.Vector(offset), self._table.VectorLen(offset)
        if start + 4 * length > len(self._data):
            raise ValueError("a list in the TFLite metadata is longer than its buffer")
        for index in range(length):
            yield start + 4 * index


def _root(data: bytes) -> _Table:
    return _Table(data, int.from_bytes(data[:4], "little"))
