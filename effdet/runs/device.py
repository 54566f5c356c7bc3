"""The device that a name means on this machine."""

from __future__ import annotations

import os

import torch

from effdet.config import ConfigError, Precision


def choose_device(name: str, *, option: str = "run.device") -> torch.device:
    """Return the device of a name.

    Under ``torchrun``, "auto" and "cuda" mean the CUDA device with this process's number on its machine.

    Args:
        name: "auto" (CUDA if there is one, else the CPU), "cpu", "cuda", "cuda:N" or "mps".
        option: What the user calls the setting, for messages.

    Raises:
        ValueError: If the device is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ValueError(f"{option} must be auto, cpu, cuda, cuda:N or mps, got '{name}'")
    advice = f"use {option}{'=' if '.' in option else ' '}cpu, or auto"
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = _local_rank() if _is_one_of_many() else device.index or 0
        if index >= count:
            raise ValueError(f"{option} is '{name}', but torch finds {count or 'no'} CUDA device(s) here; {advice}")
        return torch.device("cuda", index)
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ValueError(f"{option} is '{name}', but torch finds no MPS device here; {advice}")
    return torch.device(device.type)


def choose_precision(asked: Precision, device: torch.device) -> Precision:
    """Return the number format of the forward and backward pass on a device.

    On a CPU ``auto`` is fp32 here; a training has put what ``with_precision`` chose in its place.

    Raises:
        ConfigError: If the device cannot compute in it.
    """
    if asked is Precision.fp16 and device.type != "cuda":
        raise ConfigError(f"train.precision fp16 needs run.device cuda, got {device.type}; use bf16 or fp32")
    if asked is not Precision.auto:
        return asked
    has_bf16 = device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)
    return Precision.bf16 if has_bf16 else Precision.fp32


def _is_one_of_many() -> bool:
    return int(os.environ.get("WORLD_SIZE", 1)) > 1


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", 0))
