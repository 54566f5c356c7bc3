"""Read TensorFlow checkpoints (``model.index`` and ``model.data-00000-of-00001``) without TensorFlow.

The index is a sorted table. The empty key holds a header. Every other key is the name of a tensor, and its value holds
type, shape, file, offset, size and checksum. Header and values are protocol buffers, whose fields are read by number.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.weights.archives import ARCHIVES, unpacked
from effdet.weights.crc32c import masked_crc32c
from effdet.weights.limits import first_line, short
from effdet.weights.sstable import read_table, read_varint

# Numbers of tensorflow/core/framework/types.proto.
_DTYPES = {
    1: torch.float32,
    2: torch.float64,
    3: torch.int32,
    4: torch.uint8,
    5: torch.int16,
    6: torch.int8,
    8: torch.complex64,
    9: torch.int64,
    10: torch.bool,
    14: torch.bfloat16,
    18: torch.complex128,
    19: torch.float16,
}
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"  # only in object-based (Keras) checkpoints
_PART = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_MAX_INDEX = 1 << 26  # bytes; the largest published one has 0.1 million
_NAMED = 3  # files that a message names


@dataclass(frozen=True)
class _Entry:
    """Type, shape and place of a tensor, from the fields of ``BundleEntryProto``."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    offset: int
    size: int  # bytes
    crc: int
    is_sliced: bool


def read_checkpoint(path: str | Path) -> dict[str, Tensor]:
    """Read every numeric tensor of a checkpoint by the name of its variable.

    Args:
        path: The common prefix of the files (``folder/model.ckpt-300``), one of the files, a folder (its state file
            ``checkpoint`` names the newest), or a ``.tar.gz`` of such a folder, as in the published archives.

    Returns:
        Tensors by variable name. In an object-based checkpoint the object graph gives the names for its keys
        (``…/.ATTRIBUTES/VARIABLE_VALUE``); a key without a name is kept.

    Raises:
        FileNotFoundError: If there is no checkpoint, or one of its files is absent.
        ValueError: If a file is truncated or damaged, or a variable is saved in slices.
    """
    path = Path(path)
    with unpacked(path, is_part=_is_part) as place:
        try:
            return _read_files(find_prefix(place))
        except (FileNotFoundError, ValueError) as error:
            if place == path:
                raise
            text = str(error).replace(f"{place}/", "").replace(str(place), "it")
            raise ValueError(f"{path} holds no checkpoint that can be read: {text}") from error


def _read_files(prefix: Path) -> dict[str, Tensor]:
    num_shards, entries = _read_index(prefix)
    shards = _Shards(prefix, num_shards)
    shards.check_room(entries.values())
    names = shards.read_names(entries[_OBJECT_GRAPH]) if _OBJECT_GRAPH in entries else {}
    tensors: dict[str, Tensor] = {}
    for key in sorted(entries, key=lambda key: ".OPTIMIZER_SLOT" in key):  # the model's own variables come first
        name = names.get(key, key)
        if entries[key].dtype in _DTYPES:
            tensors[key if name in tensors else name] = shards.read(key, entries[key])
    return tensors


# -- finding the files -----------------------------------------------------------------------------------------------


def is_checkpoint(path: str | Path) -> bool:
    """Return whether a path looks like a TensorFlow checkpoint, judged by file names only."""
    path = Path(path)
    if path.is_dir():
        return any(path.glob("*.index"))
    return _PART.search(path.name) is not None or path.name.endswith(ARCHIVES) or Path(f"{path}.index").is_file()


def find_prefix(path: str | Path) -> Path:
    """Return the common prefix of a checkpoint's files.

    Raises:
        FileNotFoundError: If no index file is there.
        ValueError: If a folder holds several checkpoints and no state file that names one.
    """
    path = Path(path)
    prefix = _newest(path) if path.is_dir() else path
    prefix = prefix.with_name(_PART.sub("", prefix.name) or prefix.name)
    if not Path(f"{prefix}.index").is_file():
        raise FileNotFoundError(f"a TensorFlow checkpoint needs the file {prefix}.index beside its .data-… files")
    return prefix


def _newest(folder: Path) -> Path:
    state = folder / "checkpoint"
    if state.is_file():
        named = re.search(r'^model_checkpoint_path:\s*"(.+)"', state.read_text(encoding="utf-8"), re.MULTILINE)
        prefix = (
            folder / Path(named[1].replace("\\", "/")).name if named else folder
        )  # it may be a path of another machine
        if Path(f"{prefix}.index").is_file():
            return prefix
    found = sorted(folder.glob("*.index"))
    if not found:
        raise FileNotFoundError(f"{folder} holds no TensorFlow checkpoint: no file ends in .index")
    if len(found) > 1:
        names = ", ".join(file.stem for file in found)
        raise ValueError(f"{folder} holds several checkpoints ({names}); give the path of one, as '{found[-1]}'")
    return found[0]


def _is_part(name: str) -> bool:
    """Return whether a file belongs to a checkpoint; the others of an archive are not needed."""
    return name == "checkpoint" or _PART.search(name) is not None


# -- the index -------------------------------------------------------------------------------------------------------


def _read_index(prefix: Path) -> tuple[int, dict[str, _Entry]]:
    """Return the number of data files, and the entry of each tensor by key."""
    index = Path(f"{prefix}.index")
    try:
        if index.stat().st_size > _MAX_INDEX:
            raise ValueError(f"it must have {_MAX_INDEX:,} bytes or less, got {index.stat().st_size:,}")
        table = read_table(index.read_bytes())
        header = _fields(table.pop(b"", b""))
        if header.get(2, [0])[0]:
            raise ValueError("its numbers are stored big-endian, which is not supported")
        entries = {key.decode(errors="replace"): _parse_entry(value) for key, value in table.items()}
        num_shards = _number(header, 1, default=1)
    except (ValueError, IndexError, TypeError) as error:  # a number where there should be a message, or the reverse
        raise ValueError(f"{index} cannot be read: {first_line(error)}") from error
    sliced = [name for name, entry in entries.items() if entry.is_sliced]
    if sliced:
        raise ValueError(
            f"{index}: variable {short(sliced[0])} is saved in slices; save it whole with TensorFlow first"
        )
    outside = next((name for name, entry in entries.items() if entry.shard >= num_shards), None)
    if outside is not None:
        raise ValueError(
            f"{index}: {short(outside)} lies in data file {entries[outside].shard} of {num_shards}; the index is "
            "damaged"
        )
    return num_shards, entries


def _parse_entry(message: bytes) -> _Entry:
    fields = _fields(message)
    dimensions = _fields(fields[2][0]).get(2, []) if 2 in fields else []
    return _Entry(
        dtype=_number(fields, 1),
        shape=tuple(_number(_fields(dimension), 1) for dimension in dimensions),
        shard=_number(fields, 3),
        offset=_number(fields, 4),
        size=_number(fields, 5),
        crc=_number(fields, 6),
        is_sliced=7 in fields,
    )


def _number(fields: dict[int, list[Any]], place: int, default: int = 0) -> int:
    value = fields.get(place, [default])[0]
    if not isinstance(value, int):
        raise TypeError(f"field {place} of a protocol buffer must be a number, got {len(value)} bytes")
    return value


def _fields(message: bytes) -> dict[int, list[Any]]:
    """Return the values of a protocol buffer by field number; nested messages and strings as bytes."""
    fields: dict[int, list[Any]] = {}
    position = 0
    while position < len(message):
        tag, position = read_varint(message, position)
        number, kind = tag >> 3, tag & 7
        value: int | bytes
        if kind == 0:
            value, position = read_varint(message, position)
        elif kind == 2:
            length, position = read_varint(message, position)
            value, position = message[position : position + length], position + length
        elif kind in (1, 5):
            width = 8 if kind == 1 else 4
            value, position = int.from_bytes(message[position : position + width], "little"), position + width
        else:
            raise ValueError(f"a protocol buffer has a field of the unknown kind {kind}")
        fields.setdefault(number, []).append(value)
    return fields


def _variable_names(graph: bytes) -> dict[str, str]:
    """Return the variable name for each key: ``TrackableObjectGraph`` → nodes (1) → attributes (2) → 2 and 3."""
    names = {}
    for node in _fields(graph).get(1, []):
        for attribute in map(_fields, _fields(node).get(2, [])):
            if attribute.get(2, [b""])[0] and 3 in attribute:
                names[attribute[3][0].decode(errors="replace")] = attribute[2][0].decode(errors="replace")
    return names


# -- the data files --------------------------------------------------------------------------------------------------


class _Shards:
    """The data files of a checkpoint."""

    def __init__(self, prefix: Path, count: int) -> None:
        self.prefix, self.count = prefix, count

    def path(self, shard: int) -> Path:
        """Return one of the files."""
        return Path(f"{self.prefix}.data-{shard:05d}-of-{self.count:05d}")

    def check_room(self, entries: Iterable[_Entry]) -> None:
        """Check that the files which tensors lie in are there, and hold as many bytes as all their tensors.

        Raises:
            FileNotFoundError: If one is absent.
            ValueError: If the tensors of a file claim more bytes than it has.
        """
        claimed: dict[int, int] = {}
        for entry in entries:
            claimed[entry.shard] = claimed.get(entry.shard, 0) + entry.size
        absent = [self.path(shard).name for shard in sorted(claimed) if not self.path(shard).is_file()]
        if absent:
            more = f" and {len(absent) - _NAMED} more" if len(absent) > _NAMED else ""
            raise FileNotFoundError(
                f"{self.prefix} lacks {', '.join(absent[:_NAMED])}{more}; put it beside the .index file"
            )
        for shard, size in claimed.items():
            there = self.path(shard).stat().st_size
            if size > there:
                raise ValueError(
                    f"{self.path(shard)} is truncated, or its index is damaged: it is {there:,} bytes long, and its "
                    f"tensors claim {size:,}; copy both again"
                )

    def read_names(self, entry: _Entry) -> dict[str, str]:
        """Return the variable name for each key, from the object graph."""
        try:
            return _variable_names(self.read_string(entry))
        except (IndexError, TypeError, AttributeError) as error:
            raise ValueError(f"{self.path(entry.shard)}: its object graph is damaged; copy the file again") from error

    def read(self, name: str, entry: _Entry) -> Tensor:
        """Return one tensor."""
        dtype = _DTYPES[entry.dtype]
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise ValueError(
                f"tensor {short(name)} of shape {short(entry.shape)} cannot have {entry.size} bytes: the index is "
                "damaged"
            )
        data = self._read_bytes(name, entry)
        if masked_crc32c(data) != entry.crc:
            raise ValueError(f"{self.path(entry.shard)}: the checksum of {short(name)} is wrong; copy the file again")
        try:
            return (
                torch.frombuffer(data, dtype=dtype).reshape(entry.shape)
                if data
                else torch.empty(entry.shape, dtype=dtype)
            )
        except (RuntimeError, OverflowError, TypeError) as error:  # a side of 2^63 beside one of 0
            raise ValueError(
                f"{self.prefix}: tensor {short(name)} cannot have the shape {short(entry.shape)}"
            ) from error

    def read_string(self, entry: _Entry) -> bytes:
        """Return a tensor that is one string: its length, a checksum of the length, its bytes."""
        data = self._read_bytes(_OBJECT_GRAPH, entry)
        length, position = read_varint(bytes(data[:10]), 0)
        if masked_crc32c(length.to_bytes(4, "little") + data[position:]) != entry.crc:
            raise ValueError(
                f"{self.path(entry.shard)}: the checksum of the object graph is wrong; copy the file again"
            )
        return bytes(data[position + 4 :])

    def _read_bytes(self, name: str, entry: _Entry) -> bytearray:
        path = self.path(entry.shard)
        data = bytearray(entry.size)
        with path.open("rb") as file:
            file.seek(entry.offset)
            count = file.readinto(data)
        if count < entry.size:
            missing = f"{path.stat().st_size} bytes long, {short(name)} ends at {entry.offset + entry.size}"
            raise ValueError(f"{path} is truncated: it is {missing}; copy it again")
        return data
