"""How many processes read images for one process that runs a network."""

from __future__ import annotations

import os

import torch


def choose_workers(asked: int | None, device: torch.device, *, local_size: int = 1) -> int:
    """Return the number of loader processes: as asked for, or by the cores that this process may use.

    A CUDA device gets up to eight. On a CPU the network needs the cores itself, so that up to four, and at most half of
    the cores, are enough to keep it fed.

    Args:
        asked: The number that the user gave; None: chosen here.
        device: Where the network runs.
        local_size: Processes on this machine that each have loader processes of their own.

    Raises:
        ValueError: If the number is below 0.
    """
    if asked is not None:
        if asked < 0:
            raise ValueError(f"workers must be 0 or more, got {asked}")
        return asked
    cores = usable_cores() // local_size
    return max(1, min(8, cores) if device.type == "cuda" else min(4, cores // 2))


def usable_cores() -> int:
    """Return how many cores this process may use, by its affinity where the system has one."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
