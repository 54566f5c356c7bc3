"""Change bytes, texts and JSON values at random, as damage, mistakes and attacks do."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Sequence
from typing import Any

_NUMBERS = (0, 1, -1, 0.5, -0.0, 255, 2**31, 2**32, 2**53 + 1, 2**63, 2**64, -(2**63), 10**40, 10**400, 1e308, 1e-320)
_TEXTS = (
    *("", "a", "0", "-1", "1e999", "nan", "../../x", "/etc/passwd", "a\nb", "\0", "\ud800", "é" * 3, "x" * 3000),
    *("c:\\a\\b.jpg", "file:///etc/passwd", "\u202e", "None", "[]", "%s%s%n", "{0}", "~"),
)
_SPECIAL: tuple[Any, ...] = (
    float("inf"),
    float("-inf"),
    float("nan"),
    None,
    True,
    False,
    [],
    {},
    [[]],
    {"a": {"b": []}},
    [None] * 5,
)
_TOKENS = (
    *(b"\0", b"\xff" * 4, b"\xff\xff\xff\x7f", b"\x80" * 9 + b"\x01", b"\r", b"\n", b'"', b"[" * 50, b"{", b"}"),
    *(b",", b"-", b"1e999", b"NaN", b"\xef\xbb\xbf", b"\xff\xfe", b"<", b"&amp;", b"<!--", b"]]>", b"\xed\xa0\x80"),
    *(b"9" * 400, b"../", b"&a", b"*a", b"!!python/object:os.system", b"\x00\x00\x00\x00\x00\x00\x00\x01"),
)


def mutate_bytes(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Return the bytes with one to six random changes; pieces of ``others`` may be put in."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        _CHANGES[rng.randrange(len(_CHANGES))](changed, rng, others)
    return bytes(changed)


def _place(data: bytearray, rng: random.Random) -> int:
    """Return a place; every other time near the beginning or the end, where formats keep their structure."""
    if len(data) > 400 and rng.random() < 0.5:
        return rng.randrange(200) if rng.random() < 0.6 else len(data) - 1 - rng.randrange(200)
    return rng.randrange(len(data) + 1)


def _flip(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] ^= 1 << rng.randrange(8)


def _overwrite(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, rng)
    token = rng.choice(_TOKENS)
    data[place : place + len(token)] = token


def _insert(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, rng)
    data[place:place] = rng.choice(_TOKENS)


def _random_byte(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    if data:
        data[min(_place(data, rng), len(data) - 1)] = rng.randrange(256)


def _number(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice((0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, rng.randrange(2 ** (8 * width))))
    place = _place(data, rng)
    data[place : place + width] = value.to_bytes(width, rng.choice(("little", "big")))


def _cut(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    del data[_place(data, rng) :]


def _remove(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, rng)
    del data[place : place + rng.choice((1, 2, 4, 16, 100))]


def _repeat(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    place = _place(data, rng)
    data[place:place] = data[place : place + rng.choice((1, 4, 16, 100))] * rng.choice((1, 2, 20))


def _splice(data: bytearray, rng: random.Random, others: Sequence[bytes]) -> None:
    source = rng.choice(others) if others else bytes(data)
    start = rng.randrange(len(source) + 1)
    place = _place(data, rng)
    data[place : place + rng.choice((0, 50))] = source[start : start + rng.choice((4, 30, 300))]


_CHANGES = (_flip, _overwrite, _insert, _random_byte, _number, _cut, _remove, _repeat, _splice)


def mutate_json(value: Any, rng: random.Random) -> Any:
    """Return a JSON value with one to four parts replaced, removed, repeated or moved; it may be anything then."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _change_somewhere(value, rng)
    return value


def _change_somewhere(value: Any, rng: random.Random) -> Any:
    holder, inner = None, value
    while isinstance(inner, dict | list) and inner and (holder is None or rng.random() < 0.8):
        key = rng.choice(list(inner)) if isinstance(inner, dict) else rng.randrange(len(inner))
        holder, inner = (inner, key), inner[key]
    if holder is None:
        return strange_value(rng)
    container, key = holder
    kind = rng.randrange(6)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, dict):
        container[rng.choice(_TEXTS)] = container.pop(key)
    elif kind == 1 and isinstance(container, list):
        container.extend(copy.deepcopy(inner) for _ in range(rng.choice((1, 3))))
    elif kind == 2:
        container[key] = [inner]
    elif kind == 3:
        container[key] = str(inner)
    else:
        container[key] = strange_value(rng)
    return value


def strange_value(rng: random.Random) -> Any:
    """Return a value that few readers expect; a later change must not reach the lists that it is taken from."""
    return copy.deepcopy(rng.choice(rng.choice((_NUMBERS, _TEXTS, _SPECIAL))))


def dump_json(value: Any) -> bytes:
    """Return a value as JSON, also with what JSON has no words for (NaN, half surrogates)."""
    return json.dumps(value).encode()
