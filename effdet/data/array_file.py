"""A file of arrays that processes map into their memory, so that all of them share one copy."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.atomic_write import replace_file

Array = NDArray[Any]

_MAGIC = b"effdet arrays 1\n"
_ALIGNMENT = 64  # bytes


class MappedArray(NamedTuple):
    """Where an array is in its file: all that another process needs to map it too."""

    path: str
    start: int  # in bytes
    dtype: str
    shape: tuple[int, ...]

    def open(self) -> Array:
        """Return the array, read-only; its file is read when its values are.

        Raises:
            OSError, ValueError: If the file is not there or too short.
        """
        if 0 in self.shape:
            return np.zeros(self.shape, self.dtype)
        return np.asarray(np.memmap(self.path, self.dtype, "r", self.start, self.shape))


def write_arrays(path: Path, content: Any, arrays: Mapping[str, Array]) -> None:
    """Write arrays, and a value that JSON can hold. The file appears whole or not at all; its folder is made.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    places, at = {}, 0
    for name, array in arrays.items():
        places[name] = (at, array.dtype.str, array.shape)
        at += -(-array.nbytes // _ALIGNMENT) * _ALIGNMENT
    header = json.dumps({"content": content, "arrays": places, "size": at}).encode()
    with replace_file(path) as file:
        file.write(_MAGIC + len(header).to_bytes(8, "little") + header)
        file.write(bytes(_first(len(header)) - len(_MAGIC) - 8 - len(header)))
        for array in arrays.values():
            file.write(np.ascontiguousarray(array).tobytes())
            file.write(bytes(-array.nbytes % _ALIGNMENT))


def _first(header_length: int) -> int:
    """Return where the arrays begin."""
    return -(-(len(_MAGIC) + 8 + header_length) // _ALIGNMENT) * _ALIGNMENT


def open_arrays(path: Path) -> tuple[Any, dict[str, Array]] | None:
    """Return what ``write_arrays`` has written, the arrays mapped; None if there is no such file or it is damaged."""
    try:
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) != _MAGIC:
                return None
            length = int.from_bytes(file.read(8), "little")
            if length > path.stat().st_size:
                return None
            header = json.loads(file.read(length))
        first = _first(length)
        if path.stat().st_size != first + header["size"]:
            return None
        places = header["arrays"].items()
        mapped = {
            name: MappedArray(str(path), first + start, dtype, tuple(shape)) for name, (start, dtype, shape) in places
        }
        return header["content"], {name: array.open() for name, array in mapped.items()}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def mapped_place(array: Array) -> MappedArray | None:
    """Return where an array from ``open_arrays`` is; None for any other array, also for a part of such a one."""
    base = array.base
    if not isinstance(base, np.memmap) or base.filename is None:
        return None
    is_whole = base.shape == array.shape and base.dtype == array.dtype and base.ctypes.data == array.ctypes.data
    return MappedArray(str(base.filename), base.offset, array.dtype.str, array.shape) if is_whole else None
