"""Read the long lists of a JSON file piece by piece, so that gigabytes of it are never held as Python objects."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

from effdet.data.dependencies import note

PIECE = 1 << 24  # bytes

_BETWEEN_OBJECTS = re.compile(rb"\}\s*,\s*\{")
_SPACE = re.compile(rb"\s*")
_SPACE_IN_TEXT = re.compile(r"\s*")
_SPAN = 1 << 16  # bytes at the end of a piece in which its last object begins
_LARGEST_VALUE = 1 << 26  # bytes of a value that is not read in pieces

Parser = Callable[[bytes], Any]


class NotInPiecesError(Exception):
    """The file is not JSON, or of a form that must be read as a whole."""


def read_in_pieces(path: Path, parsers: Mapping[str, Parser]) -> Iterator[tuple[str, Any]]:
    """Yield (key, what its parser returned) for each piece of the lists of objects in the object that a file holds.

    A piece is cut where one object ends and the next begins. If its parser accepts it, the cut is right: at a place
    deeper inside, or inside of a text, the brackets or quotes of the piece would not be balanced.

    Args:
        path: The file.
        parsers: By the key of a list, what gets the objects of a piece: JSON with commas between them, and no brackets
            around. It raises ValueError for what is not a sequence of whole objects.

    Raises:
        NotInPiecesError: If the file must be read as a whole, which will tell what is wrong with it.
        OSError: If it cannot be read.
    """
    note(path)
    with path.open("rb") as file:
        window = _Window(file)
        window.skip(b"{")
        seen: set[str] = set()
        while True:
            key = window.read_value()
            window.skip(b":")
            if not isinstance(key, str) or key in seen:
                raise NotInPiecesError(f"key {key!r}")
            seen.add(key)
            if key in parsers and window.next_byte() == b"[":
                for piece in window.read_list(parsers[key]):
                    yield key, piece
            else:
                window.read_value()
            if window.next_byte() == b"}":
                window.skip(b"}")
                window.require_end()
                return
            window.skip(b",")


class _Window:
    """The part of a file around the place where it is being read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.data = b""
        self.at = 0
        self.is_last = False  # the window reaches to the end of the file

    def fill(self, size: int) -> None:
        """Make the window reach ``size`` bytes on, where the file does."""
        missing = size - (len(self.data) - self.at)
        if missing > 0 and not self.is_last:
            more = self.file.read(missing)
            self.is_last = len(more) < missing
            self.data, self.at = self.data[self.at :] + more, 0

    def next_byte(self) -> bytes:
        """Return the next byte that is no space; empty at the end of the file."""
        while True:
            self.fill(1)
            found = _SPACE.match(self.data, self.at)
            self.at = found.end() if found else self.at
            if self.at < len(self.data) or self.is_last:
                return self.data[self.at : self.at + 1]

    def skip(self, expected: bytes) -> None:
        if self.next_byte() != expected:
            raise NotInPiecesError(f"no {expected!r}")
        self.at += 1

    def require_end(self) -> None:
        if self.next_byte():
            raise NotInPiecesError("more than one value")

    def read_value(self) -> Any:
        """Return one value, which fits into memory."""
        self.next_byte()
        size = 1 << 12
        while True:
            self.fill(size)
            try:
                text = codecs.getincrementaldecoder("utf-8")().decode(self.data[self.at : self.at + size])
                value, end = json.JSONDecoder().raw_decode(text)
                if end < len(text):  # else a number could go on
                    self.at += len(text[:end].encode())
                    return value
            except (ValueError, RecursionError):
                pass
            if size >= _LARGEST_VALUE or (self.is_last and size >= len(self.data) - self.at):
                raise NotInPiecesError("a value that is damaged or large")
            size *= 8

    def read_list(self, parse: Parser) -> Iterator[Any]:
        """Yield what the parser makes of each piece of a list of objects."""
        self.skip(b"[")
        if self.next_byte() == b"]":
            self.at += 1
            return
        while True:
            self.fill(PIECE)
            piece, self.at, is_end = self._cut(parse)
            yield piece
            if is_end:
                return

    def _cut(self, parse: Parser) -> tuple[Any, int, bool]:
        """Return a piece, the place behind it and its comma or bracket, and whether the list ends there."""
        tail = max(self.at, len(self.data) - _SPAN)
        between = next(reversed([*_BETWEEN_OBJECTS.finditer(self.data, tail)]), None)
        try:
            if between is not None:
                return parse(self.data[self.at : between.start() + 1]), between.end() - 1, False
        except ValueError:  # the list ends before, or this is a place deeper inside
            pass
        end, after, is_end = self._walk()
        try:
            return parse(self.data[self.at : end]), after, is_end
        except ValueError as error:
            raise NotInPiecesError(str(error)) from error

    def _walk(self) -> tuple[int, int, bool]:
        """Go from object to object to the last whole one; return its end, and the rest as ``_cut``."""
        try:
            text = codecs.getincrementaldecoder("utf-8")().decode(self.data[self.at :])
        except UnicodeDecodeError as error:
            raise NotInPiecesError("no UTF-8") from error
        decoder, end, place, next_sign = json.JSONDecoder(), 0, 0, ","
        while next_sign == ",":
            try:
                _, stop = decoder.raw_decode(text, place)
            except (ValueError, RecursionError):  # the window ends inside of it
                break
            sign = _SPACE_IN_TEXT.match(text, stop).end()  # type: ignore[union-attr]
            if sign == len(text):
                break
            end, next_sign = stop, text[sign]
            place = _SPACE_IN_TEXT.match(text, sign + 1).end()  # type: ignore[union-attr]
        if not end or next_sign not in ",]":
            raise NotInPiecesError("a list with an object that is damaged or large")
        count = len(text[:end].encode())
        return self.at + count, self.at + len(text[:place].encode()), next_sign == "]"
