"""What each function of ``training.cpp`` takes, and the check of a call before it reaches C++, which checks nothing.

All maps of a call hold numbers of one type, float32 or bfloat16, which is passed as ``storage``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Numbers: TypeAlias = dict[str, float]  # the numbers of a call by the names of their arguments
Size: TypeAlias = Callable[[Numbers], float]

LANES = 8  # channels of the narrowest vector; a map has a multiple of it
KERNEL_SIZES = (3, 5)
ACTIVATION_CODES = (0, 1, 2)  # none, SiLU, ReLU6
STORAGE_CODES = {torch.float32: 0, torch.bfloat16: 1}
SIZES = ("images", "height", "width", "channels", "stride", "top", "left", "out_height", "out_width")


@dataclass(frozen=True)
class Array:
    """A dense tensor on the CPU."""

    name: str
    size: Size  # number of elements
    dtype: torch.dtype | None = torch.float32  # None: a map, which holds what all maps of the call hold
    optional: bool = False  # may be None
    c_type: Any = ctypes.c_void_p


@dataclass(frozen=True)
class Number:
    """A whole number or a float."""

    name: str
    c_type: Any = ctypes.c_int64


def _channels(n: Numbers) -> float:
    return n["channels"]


def _map(n: Numbers) -> float:
    return n.get("images", 1) * n.get("image_rows", n.get("rows", 1)) * n["channels"]


def _per_image(n: Numbers) -> float:
    return n["images"] * n["channels"]


def _moments(n: Numbers) -> float:
    return 2 * n["channels"] + 1


def _sums(n: Numbers) -> float:
    return 2 * n["channels"]


def _weight(n: Numbers) -> float:
    return n["kernel"] ** 2 * n["channels"]


def _input(n: Numbers) -> float:
    return n["images"] * n["height"] * n["width"] * n["channels"]


def _output(n: Numbers) -> float:
    return n["images"] * n["out_height"] * n["out_width"] * n["channels"]


def _map_of(name: str, size: Size, *, optional: bool = False) -> Array:
    return Array(name, size, None, optional)


def _vectors(*names: str, optional: bool = False) -> tuple[Array, ...]:
    """Return arguments of one float32 per channel."""
    return tuple(Array(name, _channels, optional=optional) for name in names)


Signature: TypeAlias = tuple[Array | Number, ...]

_MOMENTS = Array("moments", _moments, torch.float64)
_SUMS = Array("sums", _sums, torch.float64)
_ROWS: Signature = (Number("rows"), Number("channels"))
_IMAGE_ROWS: Signature = (Number("images"), Number("image_rows"), Number("channels"))
_EXTRA = Array("extra", _per_image, optional=True)
_STORAGE, _THREADS = Number("storage"), Number("threads")
_LAST: Signature = (_STORAGE, _THREADS)  # added to what a caller gives
_KERNEL: Signature = (Array("weight", _weight), Number("kernel"), Array("sizes", lambda n: len(SIZES), torch.int64))

SIGNATURES: dict[str, Signature] = {
    "bn_moments": (_map_of("x", _map), *_ROWS, _MOMENTS, *_LAST),
    "bn_prepare": (
        _MOMENTS,
        Number("channels"),
        *_vectors("weight", "bias", "running_mean", "running_var"),
        Number("momentum", ctypes.c_double),
        Number("eps", ctypes.c_double),
        Array("out", lambda n: 4 * n["channels"]),
    ),
    "bn_finish": (
        _SUMS,
        Number("count", ctypes.c_double),
        Number("channels"),
        Array("prepared", lambda n: 4 * n["channels"]),
        Array("out", lambda n: 5 * n["channels"]),
    ),
    "act_forward": (
        _map_of("x", _map),
        *_ROWS,
        *_vectors("scale", "shift"),
        Number("activation"),
        _map_of("y", _map),
        *_LAST,
    ),
    "act_pool": (
        _map_of("x", _map),
        *_IMAGE_ROWS,
        *_vectors("scale", "shift"),
        Number("activation"),
        Array("pooled", _per_image),
        *_LAST,
    ),
    "act_reduce": (
        _map_of("dy", _map),
        _map_of("x", _map),
        *_IMAGE_ROWS,
        _EXTRA,
        *_vectors("scale", "shift"),
        Number("activation"),
        *_vectors("mean"),
        _SUMS,
        *_LAST,
    ),
    "act_backward": (
        _map_of("dy", _map),
        _map_of("x", _map),
        *_IMAGE_ROWS,
        _EXTRA,
        *_vectors("scale", "shift"),
        Number("activation"),
        *_vectors("a", "b", "k"),
        _map_of("dx", _map),
        *_LAST,
    ),
    "depthwise_forward": (
        _map_of("x", _input),
        *_vectors("scale", "shift"),
        Number("activation"),
        *_KERNEL,
        _map_of("y", _output),
        Array("moments", _moments, torch.float64, optional=True),
        *_LAST,
    ),
    "depthwise_backward": (
        _map_of("dy", _output),
        _map_of("y", _output, optional=True),
        _EXTRA,
        *_vectors("out_scale", "out_shift", optional=True),
        Number("out_activation"),
        *_vectors("a", "b", "k", optional=True),
        _map_of("x", _input),
        *_vectors("scale", "shift", optional=True),
        Number("activation"),
        *_vectors("mean", optional=True),
        *_KERNEL,
        _map_of("dz", _input),
        Array("d_weight", _weight),
        _SUMS,
        *_LAST,
    ),
    "focal_background": (
        _map_of("x", lambda n: n["count"]),
        Number("count"),
        *(Number(name, ctypes.c_double) for name in ("gamma", "smoothing", "weight")),
        _map_of("gradient", lambda n: n["count"]),
        Array("total", lambda n: 1, torch.float64),
        *_LAST,
    ),
}


_GIVEN = {name: tuple(part for part in parts if part not in _LAST) for name, parts in SIGNATURES.items()}
_FIRST_MAP = {
    name: next(i for i, part in enumerate(parts) if isinstance(part, Array) and part.dtype is None)
    for name, parts in SIGNATURES.items()
    if _STORAGE in parts
}


def checked(function: str, arguments: Sequence[Tensor | float | None]) -> list[Any]:
    """Return what ctypes passes for the arguments of a call, all but the number of threads.

    Raises:
        TypeError: If there are too many arguments or too few, or one is no tensor, or no number.
        ValueError: If a tensor has another dtype, device or size, or gaps; or a number is out of its range.
    """
    signature = _GIVEN[function]
    if len(arguments) != len(signature):
        raise TypeError(f"{function} takes {len(signature)} arguments, got {len(arguments)}")
    numbers = _numbers(function, signature, arguments)
    held = _held_by_maps(function, arguments)
    passed = [
        value if isinstance(argument, Number) else _address(function, argument, value, numbers, held)
        for argument, value in zip(signature, arguments, strict=True)
    ]
    return [*passed, STORAGE_CODES[held]] if function in _FIRST_MAP else passed


def _held_by_maps(function: str, arguments: Sequence[Any]) -> torch.dtype:
    """Return the type of the numbers that the first map of a call holds; the others must hold it too."""
    first = arguments[_FIRST_MAP[function]] if function in _FIRST_MAP else None
    return first.dtype if isinstance(first, Tensor) and first.dtype in STORAGE_CODES else torch.float32


def _numbers(function: str, signature: Signature, arguments: Sequence[Any]) -> Numbers:
    numbers: Numbers = {}
    for argument, value in zip(signature, arguments, strict=True):
        if isinstance(argument, Number):
            if type(value) not in (int, float):
                raise TypeError(f"{argument.name} of {function} must be a number, got {type(value).__name__}")
            numbers[argument.name] = value
        elif argument.name == "sizes":
            numbers |= dict(zip(SIZES, value.tolist(), strict=True))
    _check_ranges(function, numbers)
    return numbers


def _check_ranges(function: str, n: Numbers) -> None:
    if n.get("channels", LANES) % LANES:
        raise ValueError(f"channels of {function} must be a multiple of {LANES}, got {n['channels']}")
    for name in ("activation", "out_activation"):
        if n.get(name, 0) not in ACTIVATION_CODES:
            raise ValueError(f"{name} of {function} must be one of {ACTIVATION_CODES}, got {n[name]}")
    if "kernel" in n:
        size, stride = n["kernel"], n["stride"]
        if size not in KERNEL_SIZES or stride not in (1, 2):
            raise ValueError(f"{function} must have a kernel of {KERNEL_SIZES} and stride 1 or 2, got {size}, {stride}")
        ends = [(n[f"out_{side}"] - 1) * stride + size - n[pad] for side, pad in (("height", "top"), ("width", "left"))]
        fits = 0 <= n["top"] <= size and 0 <= n["left"] <= size
        if not fits or ends[0] > n["height"] + size or ends[1] > n["width"] + size:
            raise ValueError(f"sizes of {function} must be those of a padded map, got {n}")


def _address(function: str, argument: Array, value: Any, numbers: Numbers, held: torch.dtype) -> int | None:
    """Return where the elements of a tensor lie, if it is what the function takes."""
    if value is None and argument.optional:
        return None
    if not isinstance(value, Tensor):
        raise TypeError(f"{argument.name} of {function} must be a tensor, got {type(value).__name__}")
    size, dtype = argument.size(numbers), argument.dtype or held
    if value.dtype is dtype and value.numel() == size and value.is_contiguous() and value.device.type == "cpu":
        return value.data_ptr()
    raise ValueError(
        f"{argument.name} of {function} must have {size:g} elements of {dtype}, without gaps, on the CPU; got "
        f"{tuple(value.shape)} of {value.dtype} with strides {value.stride()} on {value.device}"
    )
