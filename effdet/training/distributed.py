"""One run on several processes, as ``torchrun`` starts them; with one process everything here is the identity."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_size: int = 1  # processes on this machine

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, on every one of them."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, rows: list[T]) -> list[T]:
        """Return the rows of all processes, by rank, on the main one; elsewhere an empty list."""
        if self.size == 1:
            return rows
        parts: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(rows, parts)
        return [row for part in parts or [] for row in part]

    def broadcast(self, value: T) -> T:
        """Return the main process's value on every process."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, device=self.device)
        return box[0]

    def copy_buffers(self, module: nn.Module) -> None:
        """Give every process the main one's buffers, the BN statistics among them."""
        if self.size > 1:
            for buffer in module.buffers():
                dist.broadcast(buffer, src=0)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network so that its gradients are the mean over all processes."""
        if self.size == 1:
            return network
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)


@contextlib.contextmanager
def join_world(device: str = "auto") -> Iterator[World]:
    """Join the processes that ``torchrun`` started, by gloo on CPU and NCCL on CUDA; alone otherwise.

    Args:
        device: "auto" (CUDA if there is one, else CPU), "cpu", "cuda" or "cuda:N".

    Raises:
        ValueError: If the device is unknown or not there.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = choose_device(device, local_rank=int(os.environ.get("LOCAL_RANK", 0)) if size > 1 else None)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(chosen)
        return
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield World(chosen, rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", size)))
    finally:
        dist.destroy_process_group()


def choose_device(name: str, *, local_rank: int | None = None) -> torch.device:
    """Return the device that a name means on this machine; process ``local_rank`` takes the CUDA device of that number.

    Raises:
        ValueError: If the device is unknown or not there.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(f"run.device must be auto, cpu, cuda or cuda:N, got '{name}'") from error
    if device.type == "cuda":
        if not torch.cuda.is_available():
            raise ValueError(f"run.device is '{name}', but torch finds no CUDA device here; use run.device=cpu")
        device = torch.device("cuda", local_rank if local_rank is not None else device.index or 0)
    return device
