"""Read TensorFlow checkpoints (``model.index`` and ``model.data-00000-of-00001``) without TensorFlow.

The index is a sorted table. The empty key holds a header. Every other key is the name of a tensor, and its value holds
type, shape, file, offset, size and checksum. Header and values are protocol buffers, whose fields are read by number.
"""

from __future__ import annotations

import math
import re
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from effdet.weights.crc32c import masked_crc32c
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
_ARCHIVES = (".tar.gz", ".tgz", ".tar")


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
    with _unpacked(Path(path)) as place:
        prefix = find_prefix(place)
        num_shards, entries = _read_index(prefix)
        shards = _Shards(prefix, num_shards)
        names = _variable_names(shards.read_string(entries[_OBJECT_GRAPH])) if _OBJECT_GRAPH in entries else {}
        tensors: dict[str, Tensor] = {}
        for key in sorted(
            entries, key=lambda key: ".OPTIMIZER_SLOT" in key
        ):  # the names of the model's own variables come first
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
    is_part = re.search(r"\.(index|meta|data-\d{5}-of-\d{5})$", path.name) is not None
    return is_part or path.name.endswith(_ARCHIVES) or Path(f"{path}.index").is_file()


def find_prefix(path: str | Path) -> Path:
    """Return the common prefix of a checkpoint's files.

    Raises:
        FileNotFoundError: If no index file is there.
        ValueError: If a folder holds several checkpoints and no state file that names one.
    """
    path = Path(path)
    prefix = _newest(path) if path.is_dir() else path
    prefix = prefix.with_name(re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", prefix.name))
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


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """Unpack an archive to a temporary folder and yield the checkpoint's path in it; yield any other path unchanged."""
    if not (path.is_file() and path.name.endswith(_ARCHIVES)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            with tarfile.open(path) as archive:
                for member in archive:
                    source = archive.extractfile(member) if member.isfile() else None
                    if source is not None and re.search(r"(^|/)[^./][^/]*$", member.name):
                        (Path(folder) / Path(member.name).name).write_bytes(source.read())
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ValueError(f"{path} is not a readable archive: {error}") from error
        yield Path(folder)


# -- the index -------------------------------------------------------------------------------------------------------


def _read_index(prefix: Path) -> tuple[int, dict[str, _Entry]]:
    """Return the number of data files, and the entry of each tensor by key."""
    index = Path(f"{prefix}.index")
    try:
        table = read_table(index.read_bytes())
        header = _fields(table.pop(b"", b""))
        if header.get(2, [0])[0]:
            raise ValueError("its numbers are stored big-endian, which is not supported")
        entries = {key.decode(errors="replace"): _parse_entry(value) for key, value in table.items()}
    except (ValueError, IndexError) as error:
        raise ValueError(f"{index} cannot be read: {error}") from error
    sliced = [name for name, entry in entries.items() if entry.is_sliced]
    if sliced:
        raise ValueError(f"{index}: variable {sliced[0]} is saved in slices; save it whole with TensorFlow first")
    return header.get(1, [1])[0], entries


def _parse_entry(message: bytes) -> _Entry:
    fields = _fields(message)
    dimensions = _fields(fields[2][0]).get(2, []) if 2 in fields else []
    return _Entry(
        dtype=fields.get(1, [0])[0],
        shape=tuple(_fields(dimension).get(1, [0])[0] for dimension in dimensions),
        shard=fields.get(3, [0])[0],
        offset=fields.get(4, [0])[0],
        size=fields.get(5, [0])[0],
        crc=fields.get(6, [0])[0],
        is_sliced=7 in fields,
    )


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
                names[attribute[3][0].decode()] = attribute[2][0].decode()
    return names


# -- the data files --------------------------------------------------------------------------------------------------


class _Shards:
    """The data files of a checkpoint."""

    def __init__(self, prefix: Path, count: int) -> None:
        self.paths = [Path(f"{prefix}.data-{shard:05d}-of-{count:05d}") for shard in range(count)]
        absent = [path.name for path in self.paths if not path.is_file()]
        if absent:
            raise FileNotFoundError(f"{prefix} lacks {', '.join(absent)}; put it beside the .index file")

    def read(self, name: str, entry: _Entry) -> Tensor:
        """Return one tensor."""
        dtype = _DTYPES[entry.dtype]
        if entry.size != math.prod(entry.shape) * dtype.itemsize:
            raise ValueError(
                f"tensor {name} of shape {entry.shape} cannot have {entry.size} bytes: the index is damaged"
            )
        data = self._read_bytes(name, entry)
        if masked_crc32c(data) != entry.crc:
            raise ValueError(f"{self.paths[entry.shard]}: the checksum of {name} is wrong; copy the file again")
        return (
            torch.frombuffer(data, dtype=dtype).reshape(entry.shape) if data else torch.empty(entry.shape, dtype=dtype)
        )

    def read_string(self, entry: _Entry) -> bytes:
        """Return a tensor that is one string: its length, a checksum of the length, its bytes."""
        data = self._read_bytes(_OBJECT_GRAPH, entry)
        length, position = read_varint(bytes(data[:10]), 0)
        if masked_crc32c(length.to_bytes(4, "little") + data[position:]) != entry.crc:
            raise ValueError(
                f"{self.paths[entry.shard]}: the checksum of the object graph is wrong; copy the file again"
            )
        return bytes(data[position + 4 :])

    def _read_bytes(self, name: str, entry: _Entry) -> bytearray:
        path = self.paths[entry.shard]
        data = bytearray(entry.size)
        with path.open("rb") as file:
            file.seek(entry.offset)
            count = file.readinto(data)
        if count < entry.size:
            missing = f"{path.stat().st_size} bytes long, {name} ends at {entry.offset + entry.size}"
            raise ValueError(f"{path} is truncated: it is {missing}; copy it again")
        return data
