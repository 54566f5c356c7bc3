"""Read CSV files chunk by chunk, so that ten million rows are never held as texts at once."""

from __future__ import annotations

import codecs
import csv
import math
import re
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dependencies import note
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.arrow_table import Texts, read_plain_table
from effdet.data.formats.text_files import head
from effdet.data.formats.values import number, side

Array = NDArray[Any]

_CHUNK = 50_000  # rows
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d*")
_BLOCK = 1 << 24  # bytes


def first_row(path: Path) -> list[str]:
    """Return the values of the first row that is not empty; none if the file is not CSV."""
    text = head(path)
    line = next((line for line in text.splitlines() if line.strip()), "")
    try:
        return next(csv.reader([line], delimiter=delimiter_of(line)), []) if "\0" not in line else []
    except csv.Error:
        return []


def delimiter_of(line: str) -> str:
    """Return what separates the values of a line: the most frequent of comma, semicolon and tab."""
    return max(",;\t", key=line.count)


def read_chunks(path: Path, findings: FindingList) -> Iterator[list[list[str]]]:
    """Yield the rows of a CSV file, in any encoding that ``read_text`` knows, many at a time; empty ones are left out.

    Raises:
        DataError: If the file cannot be read, or is not CSV.
    """
    encoding = _encoding(path, findings)
    try:
        with path.open(encoding=encoding, errors="replace" if encoding == "cp1252" else "strict", newline="") as file:
            delimiter = delimiter_of(file.readline())
            file.seek(0)
            rows = csv.reader(file, delimiter=delimiter)
            while chunk := list(islice(rows, _CHUNK)):
                yield [row for row in chunk if len(row) > 1 or (row and row[0].strip())]
    except (csv.Error, UnicodeError) as error:
        raise DataError(f"{path}: is not a CSV table: {error}") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def plain_pieces(
    path: Path, *, texts: Sequence[str], numbers: Sequence[str]
) -> Iterator[tuple[dict[str, Texts], dict[str, Array]]] | None:
    """Return the pieces of a table in UTF-8, as ``read_plain_table`` does; None if it must be read row by row.

    Raises:
        DataError: If the file cannot be read, or is not text.
    """
    if not _encoding(path, FindingList()).startswith("utf-8"):
        return None
    return read_plain_table(path, delimiter_of(head(path).partition("\n")[0]), texts=texts, numbers=numbers)


def _encoding(path: Path, findings: FindingList) -> str:
    note(path)
    if not path.is_file():
        raise DataError(f"annotation file {path} {'is no file' if path.exists() else 'does not exist'}")
    try:
        with path.open("rb") as file:
            begin = file.read(4)
            for mark, name in (
                (codecs.BOM_UTF8, "utf-8-sig"),
                (codecs.BOM_UTF16_LE, "utf-16"),
                (codecs.BOM_UTF16_BE, "utf-16"),
            ):
                if begin.startswith(mark):
                    return name
            file.seek(0)
            return _utf8_or_windows(file, path, findings)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error


def _utf8_or_windows(file: Any, path: Path, findings: FindingList) -> str:
    decoder = codecs.getincrementaldecoder("utf-8")()
    encoding = "utf-8"
    while block := file.read(_BLOCK):
        if b"\0" in block:
            raise DataError(f"{path}: must be a CSV table, but it holds bytes that are not text")
        if encoding == "utf-8" and not block.isascii():
            try:
                decoder.decode(block)
            except UnicodeDecodeError:
                findings.add("note", "files are not UTF-8", path.name, "they are read as Windows-1252")
                encoding = "cp1252"
    return encoding


def to_numbers(texts: Sequence[str]) -> tuple[Array, Array]:
    """Return texts as float64, and which of them are numbers; empty ones are NaN and no number.

    A comma inside of a value is a decimal comma, as spreadsheets write it in much of the world.
    """
    try:
        values = np.fromiter(map(float, texts), np.float64, len(texts))
        if "_" not in "".join(texts):  # which Python would leave out of a number
            return values, np.ones(len(texts), dtype=bool)
    except ValueError:
        pass
    numbers = [number(_with_point(text.strip())) for text in texts]
    known = np.array([value is not None for value in numbers], dtype=bool)
    return np.array([math.nan if value is None else value for value in numbers], dtype=np.float64), known


def _with_point(text: str) -> str:
    return text.replace(",", ".") if _DECIMAL_COMMA.fullmatch(text) else text


def to_sides(texts: Sequence[str]) -> Array:
    """Return texts as widths or heights in pixels, 0 for what is none."""
    side_of = {text: side(text.strip()) for text in set(texts)}
    return np.fromiter(map(side_of.__getitem__, texts), np.int64, len(texts))


def to_columns(rows: Sequence[list[str]], width: int) -> list[tuple[str, ...]]:
    """Return the first columns of rows; values that are not there are empty."""
    if min(map(len, rows), default=width) < width:
        rows = [row if len(row) >= width else row + [""] * (width - len(row)) for row in rows]
    return list(zip(*rows, strict=False))[:width] if rows else [()] * width
