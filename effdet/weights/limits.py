"""What every reader of weights demands of tensors and of texts, whoever wrote the file."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MAX_FILE = 1 << 33  # bytes of a file of weights; the largest published one has 0.3 GB
MAX_TEXT = 1 << 24  # bytes of a description or a config.json
_MAX_DIMENSIONS = 8
_SMALL = 1 << 28  # bytes that the tensors of a file of any size may have
_LARGEST_RATIO = 8  # bytes of all tensors to bytes of the file; tensors that share numbers exceed 1


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, not too long; the name of its kind where it has none."""
    lines = str(error).strip().splitlines()
    line = lines[0] if lines else type(error).__name__
    return line if len(line) <= 300 else f"{line[:299]}…"


class _Short(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxstring, self.maxother, self.maxlong = 2, 60, 60, 40

    def repr_int(self, value: int, level: int) -> str:
        return super().repr_int(value, level) if abs(value) < 10**100 else f"a number of {value.bit_length()} bits"


def short(value: Any) -> str:
    """Return a value for a message, on one line and not too long, however deep it is nested; a text without quotes."""
    text = value if isinstance(value, str) else _Short().repr(value)
    text = "".join(letter if letter.isprintable() else "?" for letter in text[:200])
    return text if len(text) <= 80 else f"{text[:79]}…"


def check_size(path: Path) -> None:
    """Check that a file of weights can be one, judged by its size; a file with holes may claim any.

    Raises:
        ValueError: If it is larger than any file of weights.
    """
    size = path.stat().st_size
    if size > MAX_FILE:
        raise ValueError(f"{path} must have {MAX_FILE:,} bytes or less to be a file of weights, got {size:,}")


def check_tensors(tensors: Mapping[str, Tensor], where: str, *, size: int) -> None:
    """Check that tensors are plain arrays of numbers, together not much larger than their file.

    Args:
        tensors: By name.
        where: What a message calls the file.
        size: Its bytes.

    Raises:
        ValueError: If they are not.
    """
    for name, tensor in tensors.items():
        if not _is_plain(tensor):
            raise ValueError(
                f"{where}: {short(name)} must be a dense array of numbers in memory, got {_kind(tensor)}; save the "
                "model's state_dict() with plain tensors"
            )
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    if total > max(_SMALL, _LARGEST_RATIO * size):
        raise ValueError(
            f"{where} has {size:,} bytes, but its tensors claim {total:,}: many of them show the same few numbers; it "
            "is damaged, or was made to fill the memory"
        )


def _is_plain(tensor: Tensor) -> bool:
    is_dense = _layout(tensor) == "strided" and not tensor.is_quantized and not tensor.is_nested
    return is_dense and tensor.device.type == "cpu" and tensor.ndim <= _MAX_DIMENSIONS


def _layout(tensor: Tensor) -> str:
    return str(tensor.layout).removeprefix("torch.")


def _kind(tensor: Tensor) -> str:
    if tensor.is_nested:
        return "a nested tensor"
    if tensor.is_quantized:
        return "a quantised tensor"
    if _layout(tensor) != "strided":
        return f"a tensor of the layout {_layout(tensor)}"
    if tensor.device.type != "cpu":
        return f"a tensor of the device {tensor.device.type}"
    return f"one of {tensor.ndim} dimensions"


def parse_json(text: str | bytes, what: str, *, most: int = MAX_TEXT) -> Any:
    """Return what a JSON text holds.

    Args:
        text: The text.
        what: What a message calls it.
        most: Bytes or letters that it may have.

    Raises:
        ValueError: If it is not JSON, nested too deeply, or has numbers of thousands of digits.
    """
    if len(text) > most:
        raise ValueError(f"{what} must have {most:,} bytes or less, got {len(text):,}")
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError(f"{what} must be JSON, but its lists and objects are nested too deeply") from error
    except ValueError as error:
        raise ValueError(f"{what} must be JSON: {first_line(error)}; it is damaged") from error
