"""This project's own files: one ``.safetensors`` with the weights and everything needed to use them again."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

FORMAT = "effdet-1"


def save_native(path: str | Path, state: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write weights and their description (plain JSON values) atomically.

    Raises:
        ValueError: If the name does not end in ``.safetensors``.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"weights are saved as .safetensors, got '{path}'; nearest valid: '{path}.safetensors'")
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {key: value.detach().cpu().contiguous() for key, value in state.items()}
    data = safetensors.torch.save(tensors, metadata={"format": FORMAT, "description": json.dumps(dict(description))})
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_native(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return weights and description of a file written by ``save_native``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"weights {path} do not exist")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is not a readable .safetensors file: {error}") from error
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path} was not written by save_pretrained: its format is {metadata.get('format')!r}")
    return state, json.loads(metadata["description"])
