"""Checkpoints that survive a kill at any moment and hold only plain types."""

from __future__ import annotations

import itertools
import os
import pickle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

FORMAT = 1


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write tensors and plain values to a file, whole or not at all.

    The data goes to a file beside it and is on the disk before that takes the name, so the name always belongs to a
    complete checkpoint, the old one or the new one.
    """
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        torch.save({"format": FORMAT, **state}, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    if os.name == "posix":  # the rename itself reaches the disk with the folder
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint into host memory without running any code from it.

    Raises:
        FileNotFoundError: If there is none.
        ValueError: If it is damaged or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"checkpoint {path} does not exist")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise ValueError(
            f"{path} must be a checkpoint of a run, but cannot be read: it is damaged or another file"
        ) from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        found = state.get("format") if isinstance(state, dict) else type(state).__name__
        raise ValueError(f"{path} must be a training checkpoint of format {FORMAT}, got {found}")
    return state


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """Return all parameters and buffers by name, with the buffers that a ``state_dict`` leaves out."""
    named = itertools.chain(module.named_parameters(), module.named_buffers())
    return {name: tensor.detach() for name, tensor in named}


@torch.no_grad()
def load_tensors(module: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Copy the result of ``tensors_of`` into a module of the same build.

    Raises:
        ValueError: If a tensor is missing, unknown or of another shape.
    """
    own = tensors_of(module)
    shapes = {name: tuple(tensor.shape) for name, tensor in own.items()}
    wrong = sorted(set(shapes.items()) ^ {(name, tuple(tensor.shape)) for name, tensor in tensors.items()})
    if wrong:
        names = sorted({name for name, _ in wrong})
        raise ValueError(
            f"the checkpoint must fit the model, but {len(names)} tensors differ in name or shape, the first is "
            f"{names[0]}; keep the model and its number of classes"
        )
    for name, tensor in own.items():
        tensor.copy_(tensors[name])
