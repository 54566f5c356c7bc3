"""The checksum CRC-32C (Castagnoli) of TensorFlow's files, fast enough for whole checkpoints in NumPy alone.

A CRC is linear over bits: for two pieces of data A and B, ``r(A·B) = shift(r(A), |B|) ⊕ r(B)``. Here r is the register,
which starts at 0, and ``shift(r, n)`` is its value after n more zero bytes. So the data is cut into short lanes, the
registers of all lanes are computed at once, and neighbouring lanes are joined pair by pair.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_POLYNOMIAL = 0x82F63B78  # bits reversed
_LANE_WORDS = 16  # four bytes each

_Words = NDArray[np.uint32]


def crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the CRC-32C of the bytes, a number of 32 bits."""
    if len(data) < 4:
        return _crc_of_a_few(bytes(data))
    padding = -len(data) % (4 * _LANE_WORDS)
    padded = np.zeros(len(data) + padding, np.uint8)  # zeros in front leave a register of 0 as it is
    padded[padding:] = np.frombuffer(data, np.uint8)
    padded[padding : padding + 4] ^= 0xFF  # the same as a register that starts with ones
    lanes = np.ascontiguousarray(padded.view("<u4").reshape(-1, _LANE_WORDS).T)  # (words of a lane, lanes)

    register: _Words = np.zeros(lanes.shape[1], np.uint32)
    for words in lanes:
        register = _shift(register ^ words, exponent=2)
    return ~int(_join(register)) & 0xFFFFFFFF


def masked_crc32c(data: bytes | bytearray | memoryview) -> int:
    """Return the checksum as TensorFlow and LevelDB store it: turned by 15 bits, plus a constant."""
    crc = crc32c(data)
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _join(register: _Words) -> np.uint32:
    """Return the register after all lanes, given that after each alone."""
    exponent = (4 * _LANE_WORDS).bit_length() - 1  # a lane is 2^exponent bytes long
    while len(register) > 1:
        if len(register) % 2:
            register = np.concatenate([np.zeros(1, np.uint32), register])
        register = _shift(register[::2], exponent=exponent) ^ register[1::2]
        exponent += 1
    return register[0]


def _shift(register: _Words, *, exponent: int) -> _Words:
    """Return each register after 2^exponent more zero bytes."""
    table = _table(exponent)
    return (
        table[0][register & 0xFF]
        ^ table[1][register >> 8 & 0xFF]
        ^ table[2][register >> 16 & 0xFF]
        ^ table[3][register >> 24]
    )


@lru_cache(maxsize=40)
def _table(exponent: int) -> _Words:
    """Return (4, 256): the shift by 2^exponent bytes of each value of each byte of a register."""
    if exponent == 0:
        values = np.arange(256, dtype=np.uint32)
        lowest = values.copy()
        for _ in range(8):
            lowest = np.where(lowest & 1, lowest >> 1 ^ np.uint32(_POLYNOMIAL), lowest >> 1)
        return np.stack([lowest, values, values << 8, values << 16])  # the other bytes just move down
    half = _table(exponent - 1)
    return _shift(half, exponent=exponent - 1)


def _crc_of_a_few(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register = int(_table(0)[0][(register ^ byte) & 0xFF]) ^ register >> 8
    return register ^ 0xFFFFFFFF
