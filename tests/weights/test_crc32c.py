import random

import pytest

from effdet.weights.crc32c import crc32c, masked_crc32c


def by_the_bit(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"123456789", 0xE3069283),  # the check value of the CRC catalogue
        (bytes(32), 0x8A9136AA),  # RFC 3720, B.4, and the next three
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
        (b"", 0),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected


@pytest.mark.parametrize("length", [*range(1, 9), 63, 64, 65, 127, 128, 129, 191, 192, 1000, 4097])
def test_every_length_equals_the_definition(length):
    data = random.Random(length).randbytes(length)
    assert crc32c(data) == crc32c(bytearray(data)) == crc32c(memoryview(data)) == by_the_bit(data)


def test_mask_turns_and_adds():
    assert masked_crc32c(b"123456789") == (((0xE3069283 >> 15) | (0xE3069283 << 17)) + 0xA282EAD8) % 2**32
