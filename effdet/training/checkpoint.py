"""Checkpoints of plain types, written atomically and verified when they are read."""

from __future__ import annotations

import itertools
import zipfile
import zlib
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdet.atomic_write import replace_file
from effdet.images.faults import printable
from effdet.weights.limits import check_size, short
from effdet.weights.pickles import check_proportions, load_plain

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to a file. If writing fails or is interrupted, an older file is unchanged.

    Raises:
        WriteError: If the file cannot be written, for instance because the disk is full; an older file stays whole.
    """
    with replace_file(path) as file:
        torch.save({"format": FORMAT, **state}, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into host memory without running any code from it.

    The file is a zip archive with a CRC-32 of each of its parts. PyTorch does not check these, so this function does:
    it finds even one changed bit in a weight.

    Raises:
        FileNotFoundError: If the file does not exist.
        ValueError: If it is damaged or no checkpoint.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    check_size(path)
    try:
        check_proportions(path)
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
        state = None if damaged else load_plain(path)
    except (OSError, ValueError, RuntimeError, EOFError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise ValueError(
            f"{path} must be a checkpoint of a run, but cannot be read: it is damaged or another file; "
            f"{advise_new_run(path)}"
        ) from error
    if damaged:
        part = printable(damaged)
        raise ValueError(f"{path} is damaged: the checksum of its part {part} is wrong; {advise_new_run(path)}")
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path} must be a training checkpoint of format {FORMAT}, got {short(found)}")
    return state


def advise_new_run(path: Path) -> str:
    """Return the advice for a run that cannot resume from a checkpoint, as a part of a message."""
    best = path.with_name("best.safetensors")
    return f"start a new run{f' from its best model: model.weights={best}' if best.is_file() else ''}"


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, also the buffers that a ``state_dict`` leaves out."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


def load_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy the result of ``tensors_of`` into a module of the same build.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    check_tensors(module, tensors)
    with torch.no_grad():
        for name, tensor in tensors_of(module).items():
            tensor.copy_(tensors[name])


def check_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Raise an error if ``load_tensors`` cannot copy the tensors.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors_of(module).items()}
    wrong = sorted(set(shapes.items()) ^ {(name, tuple(tensor.shape)) for name, tensor in tensors.items()})
    if wrong:
        names = sorted({name for name, _ in wrong})
        raise ValueError(
            f"the checkpoint must fit the model, but {len(names)} tensors differ in name or shape, the first is "
            f"{names[0]}; keep the model and its number of classes"
        )
