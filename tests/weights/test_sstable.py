import pytest

from effdet.weights.crc32c import masked_crc32c
from effdet.weights.sstable import read_table, read_varint, unpack_snappy

MAGIC = 0xDB4775248B80FB57.to_bytes(8, "little")


def block(entries, *, compression=0, pack=lambda data: data):
    """Return a block with its trailer; entries are (shared bytes, rest of the key, value), all below 128 bytes."""
    body = b"".join(bytes([shared, len(own), len(value)]) + own + value for shared, own, value in entries)
    packed = pack(body + (0).to_bytes(4, "little") + (1).to_bytes(4, "little")) + bytes([compression])
    return packed + masked_crc32c(packed).to_bytes(4, "little")


def table(*blocks):
    """Return a table of blocks below 128 bytes each, so that every number fits one byte."""
    data, handles = b"", []
    for made in blocks:
        handles.append(bytes([len(data), len(made) - 5]))
        data += made
    index = block([(0, bytes([number]), handle) for number, handle in enumerate(handles)])
    footer = b"\0\0" + bytes([len(data), len(index) - 5])
    return data + index + footer.ljust(40, b"\0") + MAGIC


FIRST = [(0, b"", b"head"), (0, b"net/kernel", b"1"), (4, b"bias", b"2")]


def snappy_literal(data):
    return bytes([len(data), (len(data) - 1) << 2]) + data


def test_keys_are_rebuilt_from_their_neighbours():
    assert read_table(table(block(FIRST))) == {b"": b"head", b"net/kernel": b"1", b"net/bias": b"2"}


def test_blocks_follow_each_other():
    made = table(block(FIRST[:1]), block([(0, b"a", b"1")]), block([(0, b"b", b"")]))
    assert read_table(made) == {b"": b"head", b"a": b"1", b"b": b""}


def test_compressed_block_is_unpacked():
    packed = block(FIRST, compression=1, pack=snappy_literal)
    assert read_table(table(packed)) == read_table(table(block(FIRST)))


@pytest.mark.parametrize(
    ("data", "value"), [(b"\x00", 0), (b"\x7f", 127), (b"\xac\x02", 300), (b"\x80\x80\x04", 1 << 16)]
)
def test_varint(data, value):
    assert read_varint(b"?" + data, 1) == (value, len(data) + 1)


@pytest.mark.parametrize(
    ("packed", "plain"),
    [
        (b"\x00", b""),
        (b"\x03\x08abc", b"abc"),
        (b"\x0b\x08abc\x11\x03", b"abcabcabcab"),  # 8 bytes from 3 back: one-byte distance, overlapping
        (b"\x08\x0cabcd\x0e\x04\x00", b"abcdabcd"),  # 4 bytes from 4 back: two-byte distance
        (b"\x08\x0cabcd\x0f\x04\x00\x00\x00", b"abcdabcd"),  # four-byte distance
        (b"\x46\xf0\x45" + b"x" * 70, b"x" * 70),  # length of a literal in a byte of its own
    ],
)
def test_snappy_elements(packed, plain):
    assert unpack_snappy(packed) == plain


@pytest.mark.parametrize(
    ("packed", "message"),
    [(b"\x05\x08abc", "must unpack to 5 bytes, got 3"), (b"\x05\x0e\x04\x00", "in front of its beginning")],
)
def test_damaged_snappy_is_refused(packed, message):
    with pytest.raises(ValueError, match=message):
        unpack_snappy(packed)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda made: made[:-1], "does not end like a table"),
        (lambda made: b"X" + made[1:], "checksum of a block of the table is wrong"),
        (lambda made: b"", "truncated, or of another kind"),
        (lambda made: made[-60:], "reaches beyond its end|checksum of a block"),
    ],
)
def test_damaged_table_is_refused(damage, message):
    with pytest.raises(ValueError, match=message):
        read_table(damage(table(block(FIRST))))


def test_unknown_compression_is_refused():
    with pytest.raises(ValueError, match="compressed in an unknown way, 4"):
        read_table(table(block(FIRST, compression=4)))
