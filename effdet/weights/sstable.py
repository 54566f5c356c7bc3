"""Sorted tables of byte strings (LevelDB's ``.sst``), in which TensorFlow keeps the index of a checkpoint.

A table is a row of blocks, an index block with the place of each, and a footer with the place of the index block. In a
block every key stores only what differs from the key before it.
"""

from __future__ import annotations

from collections.abc import Iterator

from effdet.weights.crc32c import masked_crc32c

_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER_BYTES = 48  # two block handles, padding, magic
_PLAIN, _SNAPPY = 0, 1
_MAX_KEY = 4096  # bytes; keys are names of variables
_MAX_BLOCK = 1 << 24  # bytes; TensorFlow's have 256 kB


def read_table(table: bytes) -> dict[bytes, bytes]:
    """Return the values of a table by key, in the order of the keys.

    Raises:
        ValueError: If it is not a table, or a block is damaged.
    """
    footer = table[-_FOOTER_BYTES:]
    if len(footer) < _FOOTER_BYTES or footer[-8:] != _MAGIC:
        raise ValueError("it does not end like a table of TensorFlow; it is truncated, or of another kind")
    try:
        _, _, position = read_handle(footer, 0)  # a block about the blocks, which is empty
        offset, size, _ = read_handle(footer, position)
        entries: dict[bytes, bytes] = {}
        left = len(table)  # no block is there twice
        for _, handle in _entries(_read_block(table, offset, size)):
            offset, size, _ = read_handle(handle, 0)
            left -= size
            if left < 0:
                raise ValueError("the blocks of the table have more bytes than the table")
            entries.update(_entries(_read_block(table, offset, size)))
    except IndexError as error:
        raise ValueError("a block of the table ends too early") from error
    return entries


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return a number stored in groups of seven bits, lowest first, and the position after it.

    Raises:
        IndexError: If the data ends before the number does.
        ValueError: If it has more than 64 bits.
    """
    number, shift = 0, 0
    while True:
        if shift > 63:
            raise ValueError("a number in it has more than 64 bits")
        byte = data[position]
        number |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return number, position


def read_handle(data: bytes, position: int) -> tuple[int, int, int]:
    """Return the offset and the size of a block, and the position after the two."""
    offset, position = read_varint(data, position)
    size, position = read_varint(data, position)
    return offset, size, position


def _read_block(table: bytes, offset: int, size: int) -> bytes:
    stored = table[offset : offset + size + 5]  # the block, one byte for its compression, four for its checksum
    if len(stored) < size + 5:
        raise ValueError("a block of the table reaches beyond its end")
    if masked_crc32c(stored[: size + 1]) != int.from_bytes(stored[size + 1 :], "little"):
        raise ValueError("the checksum of a block of the table is wrong; copy the file again")
    block, compression = stored[:size], stored[size]
    if compression not in (_PLAIN, _SNAPPY):
        raise ValueError(f"a block of the table is compressed in an unknown way, {compression}")
    return unpack_snappy(block) if compression == _SNAPPY else block


def _entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    num_restarts = int.from_bytes(block[-4:], "little")  # places where a key is whole, for searching
    end = len(block) - 4 * (num_restarts + 1)
    key, position = b"", 0
    while position < end:
        shared, position = read_varint(block, position)
        own, position = read_varint(block, position)
        length, position = read_varint(block, position)
        if shared > len(key) or own > _MAX_KEY - shared or position + own + length > end:
            raise ValueError("a key or a value in a block of the table is longer than it can be")
        key = key[:shared] + block[position : position + own]
        position += own
        yield key, block[position : position + length]
        position += length


def unpack_snappy(data: bytes) -> bytes:
    """Return what was packed by Snappy (the raw format, without frames).

    Raises:
        ValueError: If the length is not the one that the data states.
    """
    length, position = read_varint(data, 0)
    out = bytearray()
    if length > _MAX_BLOCK:
        raise ValueError(f"a Snappy block must unpack to {_MAX_BLOCK:,} bytes or less, got {length:,}")
    while position < len(data) and len(out) <= length:
        tag = data[position]
        position += 1
        if tag & 3 == 0:  # bytes as they are
            count, position = _literal_length(data, tag >> 2, position)
            out += data[position : position + count]
            position += count
        else:  # bytes that stood further in front
            count, distance, position = _copy(data, tag, position)
            _append_copy(out, count, distance)
    if len(out) != length:
        raise ValueError(f"a Snappy block must unpack to {length} bytes, got {len(out)}")
    return bytes(out)


def _literal_length(data: bytes, code: int, position: int) -> tuple[int, int]:
    if code < 60:
        return code + 1, position
    extra = code - 59  # bytes that hold the length
    return int.from_bytes(data[position : position + extra], "little") + 1, position + extra


def _copy(data: bytes, tag: int, position: int) -> tuple[int, int, int]:
    """Return how many bytes to repeat, from how far back, and the position after the element."""
    if tag & 3 == 1:
        return (tag >> 2 & 7) + 4, (tag >> 5) << 8 | data[position], position + 1
    width = 2 if tag & 3 == 2 else 4
    return (tag >> 2) + 1, int.from_bytes(data[position : position + width], "little"), position + width


def _append_copy(out: bytearray, count: int, distance: int) -> None:
    if not 0 < distance <= len(out):
        raise ValueError("a Snappy block refers to bytes in front of its beginning")
    start = len(out) - distance
    while count:
        part = out[start : start + min(count, distance)]  # a copy may overlap what it writes
        out += part
        count -= len(part)
