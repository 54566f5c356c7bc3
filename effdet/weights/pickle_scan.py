"""Look at a pickle before PyTorch's restricted unpickler builds it; refuse what takes memory or time without end.

That unpickler runs no code, but a kilobyte can ask it for a buffer of any size, or for a key whose hash takes 2^40
steps: a pair of a pair of a pair, each twice the same object. The scan follows the instructions without building
anything and knows of each value only how much it holds. It knows the instructions that PyTorch knows, and ends at any
other one, as PyTorch does.
"""

from __future__ import annotations

import re
from typing import Any

MAX_PICKLE = 1 << 25  # bytes of instructions; those of the largest published model take 0.3 million
_MAX_DEPTH = 100  # containers in one another
_MAX_BUFFER = 1 << 20  # bytes or numbers that an instruction may ask for, instead of bringing them along
_MAX_KEY = 1000  # values in the name of a storage

_ALLOCATES = re.compile(r"builtins\.bytearray|torch\.(?:\w+\.)*\w*(?:Storage|Tensor)")  # called with a size

_MARK, _STOP = b"("[0], b"."[0]
_ARGUMENT_BYTES = {  # of instructions that push a plain value or nothing
    **dict.fromkeys(b"N\x88\x89", 0),  # None, True, False
    **dict.fromkeys(b"G", 8),  # float
}
_NUMBERS = {b"J"[0]: 4, b"K"[0]: 1, b"M"[0]: 2}
_NEW = frozenset(b")]}\x8f")  # empty tuple, list, dict, set
_TUPLES = {0x85: 1, 0x86: 2, 0x87: 3}


class _Group:
    """A tuple, list, dict or object: how many values it holds, counted each time, and how deep."""

    __slots__ = ("depth", "largest", "size")

    def __init__(self) -> None:
        self.size, self.depth, self.largest = 1, 1, 0

    def add(self, items: list[Any]) -> _Group:
        for item in items:
            if isinstance(item, _Group):
                self.size += item.size
                self.depth = max(self.depth, 1 + item.depth)
            else:
                self.size += 1
                if isinstance(item, int):
                    self.largest = max(self.largest, item)
        return self


class _EndOfPickleError(Exception):
    """The pickle ends here, or goes on in a way that PyTorch refuses."""


def check_pickle(data: bytes, start: int = 0) -> int:
    """Follow the instructions of a pickle.

    Args:
        data: The pickle, and perhaps more behind it.
        start: Where it begins.

    Returns:
        Where it ends, or where PyTorch will stop.

    Raises:
        ValueError: If it would take memory or time out of proportion; the message continues "FILE …".
    """
    scan = _Scan(data, start)
    try:
        while True:
            scan.step()
    except (
        _EndOfPickleError,
        IndexError,
        KeyError,
        UnicodeDecodeError,
    ):  # PyTorch stops at the same place, and says why
        return scan.position


class _Scan:
    def __init__(self, data: bytes, start: int) -> None:
        self.data, self.position = data, start
        self.limit = 100_000 + 10 * len(data)  # values that one object may hold
        self.stack: list[Any] = []
        self.outer: list[list[Any]] = []  # stacks below a mark
        self.memo: dict[int, Any] = {}

    def step(self) -> None:
        """Follow one instruction."""
        code = self.data[self.position]
        self.position += 1
        if code in _ARGUMENT_BYTES:
            self.position += _ARGUMENT_BYTES[code]
            self.stack.append(None)
        elif code in _NUMBERS:
            self.stack.append(self._number(_NUMBERS[code]))
        elif code in _NEW:
            self.stack.append(_Group())
        elif code in _TUPLES:
            self._group(_TUPLES[code])
        elif code == _MARK:
            self.outer.append(self.stack)
            self.stack = []
        elif code == _STOP:
            raise _EndOfPickleError
        else:
            follow = _RARER.get(code)
            if follow is None:
                raise _EndOfPickleError
            follow(self)

    def _number(self, width: int) -> int:
        self.position += width
        return int.from_bytes(self.data[self.position - width : self.position], "little")

    def _skip(self, width: int) -> None:
        length = self._number(width)
        self.position += length
        self.stack.append(None)

    def long(self) -> None:
        self.stack.append(self._number(self._number(1)))

    def text(self) -> None:
        self._skip(4)

    def short_text(self) -> None:
        self._skip(1)

    def protocol(self) -> None:
        self.position += 1

    def name(self) -> None:
        """Push the name of something to call."""
        parts = []
        for _ in range(2):
            end = self.data.find(b"\n", self.position)
            if end < 0:
                raise _EndOfPickleError
            parts.append(self.data[self.position : end].decode())
            self.position = end + 1
        self.stack.append(".".join(parts))

    def get(self) -> None:
        self.stack.append(self.memo[self._number(1)])

    def get_far(self) -> None:
        self.stack.append(self.memo[self._number(4)])

    def put(self) -> None:
        self.memo[self._number(1)] = self.stack[-1]

    def put_far(self) -> None:
        self.memo[self._number(4)] = self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise _EndOfPickleError
        items = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return items

    def _pop_mark(self) -> list[Any]:
        items, self.stack = self.stack, self.outer.pop()
        return items

    def _push(self, group: _Group) -> None:
        self._check(group)
        self.stack.append(group)

    def _check(self, group: _Group) -> None:
        if group.size > self.limit or group.depth > _MAX_DEPTH:
            raise ValueError(
                f"its values are nested {group.depth} deep and stand for {group.size:,} or more, which "
                "no file of weights needs"
            )

    def _group(self, count: int) -> None:
        self._push(_Group().add(self._pop(count)))

    def tuple_from_mark(self) -> None:
        self._push(_Group().add(self._pop_mark()))

    def _extend(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if isinstance(target, _Group):
            self._check(target.add(items))

    def append(self) -> None:
        self._extend(self._pop(1))

    def set_item(self) -> None:
        self._extend(self._pop(2))

    def extend_from_mark(self) -> None:
        self._extend(self._pop_mark())

    def call(self) -> None:
        """Replace a name and the arguments of a call by a result that holds as much."""
        function, arguments = self._pop(2)
        if not isinstance(function, str):
            raise ValueError("it calls what is no function; it is damaged")
        largest = arguments.largest if isinstance(arguments, _Group) else 0
        if largest > _MAX_BUFFER and _ALLOCATES.fullmatch(function):
            raise ValueError(f"it asks '{function}' for {largest:,} values that it does not hold")
        self._push(_Group().add([arguments]))

    def storage(self) -> None:
        """Replace the description of a storage by the storage."""
        (described,) = self._pop(1)
        if isinstance(described, _Group) and described.size > _MAX_KEY:
            raise ValueError("the name of one of its storages is too long; it is damaged")
        self.stack.append(None)


_RARER = {
    b"\x8a"[0]: _Scan.long,
    b"X"[0]: _Scan.text,
    b"U"[0]: _Scan.short_text,
    b"\x80"[0]: _Scan.protocol,
    b"c"[0]: _Scan.name,
    b"h"[0]: _Scan.get,
    b"j"[0]: _Scan.get_far,
    b"q"[0]: _Scan.put,
    b"r"[0]: _Scan.put_far,
    b"t"[0]: _Scan.tuple_from_mark,
    b"a"[0]: _Scan.append,
    b"s"[0]: _Scan.set_item,
    b"e"[0]: _Scan.extend_from_mark,
    b"u"[0]: _Scan.extend_from_mark,
    b"b"[0]: _Scan.append,  # gives an object its state
    b"R"[0]: _Scan.call,
    b"\x81"[0]: _Scan.call,
    b"Q"[0]: _Scan.storage,
}
