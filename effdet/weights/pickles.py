"""Tensors out of PyTorch's pickled files (``.pth``, ``.pt``, ``.pth.tar``, ``.ckpt``), with nothing in them executed.

Training checkpoints carry more than tensors: the command line as ``argparse.Namespace``, metrics as NumPy scalars,
paths. PyTorch's restricted unpickler reads the file; where it meets one of these harmless kinds it makes an empty
stand-in instead, so not even NumPy's own constructors run on bytes of the file. Any other kind is refused by name.
"""

from __future__ import annotations

import io
import os
import pickle
import re
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from torch import Tensor

from effdet.weights.limits import check_size, check_tensors, first_line, short
from effdet.weights.pickle_scan import MAX_PICKLE, check_pickle

_SMALL = 1 << 28  # bytes that a file of any size may unpack to
_LARGEST_RATIO = 8  # unpacked to packed size; torch.save does not pack, but others may pack its files again
_PICKLES_OF_OLD_FILES = 5


class SavedState(NamedTuple):
    """The weights in a pickled file."""

    tensors: dict[str, Tensor]
    arch: str  # model name that the file gives itself; empty if none
    part: str  # key of the file that held the weights, as "state_dict_ema"; empty if the file is a plain state dict
    is_run: bool = False  # last.ckpt of a run of this project
    description: Any = None  # of the model, if such a file has one, not checked; earlier versions wrote none


# Where projects keep weights inside a checkpoint; averaged ones come first.
_AVERAGED = ("state_dict_ema", "ema_state_dict", "model_ema", "ema")
_WEIGHTS = (*_AVERAGED, "state_dict", "model_state_dict", "model", "weights", "net")
_INNER = ("state_dict", "module", "model", "shadow_params")  # one level further down, as in {"ema": {"state_dict": …}}


def read_state(path: str | Path) -> SavedState:
    """Read the weights of a plain state dict or of a training checkpoint; averaged weights come before plain ones.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged, holds objects other than tensors and plain values, or holds no weights.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist")
    check_size(path)
    content = load_plain(path)
    tensors, part = _find_weights(content)
    check_tensors(tensors, str(path), size=path.stat().st_size)
    if not tensors:
        keys = (
            ", ".join(short(key) for key in list(content)[:5])
            if isinstance(content, Mapping)
            else type(content).__name__
        )
        raise ValueError(f"{path} must hold a state dict, plain or under one of {', '.join(_WEIGHTS)}; it holds {keys}")
    if part and {"format", "progress", "ema"} <= set(content):
        network = {name: tensor for name, tensor in tensors.items() if name.startswith("network.")}
        return SavedState(network, "", part, is_run=True, description=content.get("description") or None)
    return SavedState(tensors, _find_arch(content) if part else "", part)


# -- reading ---------------------------------------------------------------------------------------------------------


class _StandIn:
    """Takes the place of a harmless object; keeps its attributes, does nothing else."""

    def __new__(cls, *arguments: object) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *arguments: object) -> None: ...

    def __setstate__(self, state: object) -> None:
        if isinstance(state, Mapping):
            self.__dict__.update({str(key): value for key, value in state.items()})


class _DictStandIn:
    """Takes the place of a kind of dict; becomes a plain one, which the unpickler then fills."""

    def __new__(cls, *arguments: object) -> dict[str, object]:  # type: ignore[misc]
        return {}


_NUMPY_KINDS = ("Bool", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt64", "Float16", "Float32", "Float64", "Str")
_HARMLESS = (
    "argparse.Namespace",
    "types.SimpleNamespace",
    "numpy.core.multiarray.scalar",  # NumPy 1
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray.scalar",  # NumPy 2
    "numpy._core.multiarray._reconstruct",
    "numpy.dtype",
    "numpy.ndarray",
    *(f"numpy.dtypes.{kind}DType" for kind in _NUMPY_KINDS),
    *(
        f"pathlib{module}.{kind}"
        for module in ("", "._local")
        for kind in ("PosixPath", "WindowsPath", "PurePosixPath")
    ),
    "datetime.datetime",
    "datetime.timedelta",
    "builtins.list",  # makers of missing values in a defaultdict
    "builtins.dict",
    "builtins.int",
    "builtins.float",
)
_HARMLESS_DICTS = (
    "collections.defaultdict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
    "lightning.pytorch.utilities.parsing.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "lightning.fabric.utilities.data.AttributeDict",
)


def load_plain(path: Path) -> Any:
    """Return what a file of ``torch.save`` holds, tensors on the CPU, with nothing in it executed.

    Raises:
        ValueError: If it is damaged, wants to build other things than tensors and plain values, or would take memory or
            time out of proportion to its size.
    """
    allowed = [(_StandIn, name) for name in _HARMLESS] + [(_DictStandIn, name) for name in _HARMLESS_DICTS]
    try:
        # An open file, because by its name torch would take it for another format.
        with path.open("rb") as file, torch.serialization.safe_globals(allowed):  # type: ignore[arg-type]
            _check_proportions(file)
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path} {_refusal(str(error))}") from error
    except _OutOfProportionError as error:
        raise ValueError(f"{path} was not loaded: {error}") from error
    except Exception as error:  # the unpickler meets damage in many ways: EOFError, KeyError, RuntimeError, …
        raise ValueError(f"{path} is not a readable file of weights: {first_line(error)}") from error


def load_plain_bytes(content: bytes) -> Any:
    """Return what ``torch.save`` wrote into these bytes; see ``load_plain``.

    Raises:
        ValueError: If it is damaged, or holds more than tensors and plain values; without a name of a file.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive, len(content))
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # as in load_plain
        raise ValueError(first_line(error)) from error


class _OutOfProportionError(ValueError):
    """A file would take much more memory or time than its size lets expect."""


def check_proportions(path: Path) -> None:
    """Check that a file of ``torch.save`` would not take much more memory or time than its size lets expect.

    Raises:
        ValueError: If it would, or is a damaged archive.
    """
    try:
        with path.open("rb") as file:
            _check_proportions(file)
    except _OutOfProportionError as error:
        raise ValueError(f"{path} was not loaded: {error}") from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error, EOFError) as error:
        raise ValueError(f"{path} is not a readable file of weights: {first_line(error)}") from error


def _check_proportions(file: BinaryIO) -> None:
    """Look at the instructions of a file before they are followed, and go back to its beginning.

    Raises:
        _OutOfProportionError: If they would take much more than the file's size.
        zipfile.BadZipFile: If the file is a damaged archive.
    """
    is_archive = file.read(4) == b"PK\x03\x04"
    file.seek(0)
    if is_archive:
        with zipfile.ZipFile(file) as archive:
            _check_members(archive, os.fstat(file.fileno()).st_size)
    else:  # before torch 1.6: five pickles and then the numbers
        _check_pickles(file.read(MAX_PICKLE), _PICKLES_OF_OLD_FILES)
    file.seek(0)


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    unpacked = sum(entry.file_size for entry in archive.infolist())
    if unpacked > max(_SMALL, _LARGEST_RATIO * size):
        raise _OutOfProportionError(f"{size:,} bytes of it would unpack to {unpacked:,}, which no file of weights does")
    for entry in archive.infolist():
        if entry.filename.endswith("/data.pkl"):
            if entry.file_size > MAX_PICKLE:
                raise _OutOfProportionError(
                    f"the list of its tensors must have {MAX_PICKLE:,} bytes or less, got {entry.file_size:,}"
                )
            _check_pickles(archive.read(entry), 1)


def _check_pickles(data: bytes, count: int) -> None:
    position = 0
    try:
        for _ in range(count):
            position = check_pickle(data, position)
    except ValueError as error:
        raise _OutOfProportionError(str(error)) from error


def _refusal(message: str) -> str:
    found = re.search(r"GLOBAL (\S+) (?:was not an allowed|whose module)", message)
    if found:
        return (
            f"was not loaded: it wants to run or build '{found[1]}', which could do anything; weights must be tensors "
            "and plain values, so save the model's state_dict() alone"
        )
    reason = re.search(r"WeightsUnpickler error: (.+)", message)
    return f"is not a readable file of weights: {reason[1] if reason else message.splitlines()[0]}"


# -- finding the weights ---------------------------------------------------------------------------------------------


def _find_weights(content: Any) -> tuple[dict[str, Tensor], str]:
    """Return the weights and the key that held them; the key is empty for a plain state dict."""
    for key in _WEIGHTS if isinstance(content, Mapping) else ():
        part = content.get(key)
        inner = [part.get(name) for name in _INNER] if isinstance(part, Mapping) else []
        for candidate in (part, *inner):
            if _tensors(candidate):
                return _tensors(candidate), key
    return _tensors(content), ""


def _tensors(part: Any) -> dict[str, Tensor]:
    """Return the tensors of a dict by name; none if it is not a state dict."""
    if not isinstance(part, Mapping):
        return {}
    return {str(name): value.detach() for name, value in part.items() if isinstance(value, Tensor)}


def _find_arch(content: Mapping[str, Any]) -> str:
    """Return the name by which the model was made: the option ``model`` of the command line, or the entry ``arch``."""
    for key in ("args", "hyper_parameters", "config", "cfg"):
        options = content.get(key)
        values = options if isinstance(options, Mapping) else getattr(options, "__dict__", {})
        for option in ("model", "model_name", "arch", "architecture"):
            if isinstance(values.get(option), str):
                return str(values[option])
    arch = content.get("arch", "")
    return arch if isinstance(arch, str) else ""
