"""Many texts in two arrays, so that a million of them are not a million Python objects."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray


class TextColumn(Sequence[str]):
    """A read-only sequence of texts, held as one UTF-8 blob and the places where the texts begin.

    Forked processes share it: reading a text writes to no memory that holds the others.

    Args:
        blob: (bytes,) uint8, all texts one after the other.
        offsets: (len + 1,) int64; text i is ``blob[offsets[i]:offsets[i + 1]]``.
    """

    def __init__(self, blob: NDArray[np.uint8], offsets: NDArray[np.int64]) -> None:
        self.blob = blob
        self.offsets = offsets

    @classmethod
    def from_texts(cls, texts: Iterable[str]) -> TextColumn:
        """Return a column of these texts.

        Raises:
            UnicodeEncodeError: If a text has no UTF-8 form (half of a surrogate pair).
        """
        encoded = [text.encode() for text in texts]
        offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), dtype=np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> TextColumn: ...
    def __getitem__(self, index: int | slice) -> str | TextColumn:
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]  # raises IndexError, and counts negative numbers from the end
        return self.blob[self.offsets[place] : self.offsets[place + 1]].tobytes().decode()

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TextColumn):
            return NotImplemented
        return np.array_equal(self.blob, other.blob) and np.array_equal(self.offsets, other.offsets)

    __hash__ = None  # type: ignore[assignment]

    def take(self, indices: NDArray[np.int64]) -> TextColumn:
        """Return the texts with these numbers as a column."""
        lengths = np.diff(self.offsets)[indices]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        bytes_before = np.repeat(self.offsets[:-1][indices] - offsets[:-1], lengths)
        return TextColumn(self.blob[bytes_before + np.arange(offsets[-1])], offsets)

    def __iter__(self) -> Iterator[str]:
        data, places = self.blob.tobytes(), self.offsets.tolist()
        if data.isascii():
            text = data.decode()
            return (text[start:end] for start, end in itertools.pairwise(places))
        return (data[start:end].decode() for start, end in itertools.pairwise(places))

    def tolist(self) -> list[Any]:
        """Return the texts as a list, as arrays do."""
        return list(self)
