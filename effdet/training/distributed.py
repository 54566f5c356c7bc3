"""Run on several processes that ``torchrun`` has started; with one process every function here changes nothing.

There are two ways to wait. In training steps all processes do the same work, so a collective operation that takes more
than ten minutes means that one of them has stopped working. But only the main process reads the data set and computes
scores, which may take hours. Before such a result is sent, all processes call ``Peers.meet``, which waits as long as
every process sends signs of life.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from effdet.training.interrupt import Interrupted
from effdet.training.peers import PeerError, Peers, stop_with_parent

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)


@dataclass(frozen=True)
class World:
    """The processes of a run, seen from one of them."""

    device: torch.device
    rank: int = 0
    size: int = 1
    local_size: int = 1  # processes on this machine
    peers: Peers | None = field(default=None, compare=False, repr=False)  # None: there is only one process

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and prints."""
        return self.rank == 0

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum over all processes, on every one of them."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
        return values

    def gather(self, rows: list[T]) -> list[T]:
        """Return the rows of all processes, ordered by rank, on the main process; on the others an empty list.

        There is no time limit for a process that is still working: it is waited for as long as it sends signs of life.
        """
        if self.peers is None:
            return rows
        self.peers.meet()
        parts: list[Any] | None = [None] * self.size if self.is_main else None
        dist.gather_object(rows, parts)
        return [row for part in parts or [] for row in part]

    def broadcast(self, value: T) -> T:
        """Return the main process's value on every process.

        There is no time limit for the main process: it is waited for as long as it sends signs of life.
        """
        if self.peers is None:
            return value
        self.peers.meet()
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
        _match_strides(network)
        ids = [self.device.index] if self.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=ids)


@contextlib.contextmanager
def join_world(device: torch.device | str, *, timeout: timedelta = TIMEOUT) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, with gloo on CPU and NCCL on CUDA. Otherwise the world has size 1.

    A process that leaves the block with an error sends the reason to the others, which then raise ``PeerError``.

    Args:
        device: Device on which this process computes.
        timeout: How long a process may send no sign of life before the others raise an error.

    Raises:
        PeerError: If another process has failed, has ended or does not respond.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0))
    chosen = torch.device(device)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    if size == 1:
        yield World(chosen)
        return
    stop_with_parent()
    store, rank, size = next(dist.rendezvous("env://", timeout=TIMEOUT))  # type: ignore[attr-defined]
    own_keys = dist.PrefixStore("effdet", store)  # type: ignore[attr-defined]
    peers = Peers(own_keys, rank, size, timeout.total_seconds())
    backend = "nccl" if chosen.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=timeout)
    try:
        with peers.watched(), _said_in_one_sentence(peers):
            yield World(chosen, rank, size, int(os.environ.get("LOCAL_WORLD_SIZE", size)), peers)
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _said_in_one_sentence(peers: Peers) -> Iterator[None]:
    """Tell the other processes why this one ends, and raise ``PeerError`` if it ends because of another."""
    try:
        yield
    except PeerError:
        raise
    except KeyboardInterrupt as stop:
        peers.announce_stop()
        failure = peers.failure() if isinstance(stop, Interrupted) else None
        if failure is not None:  # then the signal came from torchrun, which ends the others
            raise PeerError(failure) from stop
        raise
    except Exception as error:
        if is_connection_error(error):
            raise PeerError(peers.explain_loss()) from error
        peers.announce_failure(str(error).strip() or type(error).__name__)
        raise


def is_connection_error(error: BaseException) -> bool:
    """Return whether an error means that the connection between the processes is lost."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _match_strides(network: nn.Module) -> None:
    """Let gradients have the strides of their parameters, also along axes of length 1, where strides mean nothing.

    Convolutions give them others there, and ``DistributedDataParallel`` warns that this is slow, although it is not.
    """
    for parameter in network.parameters():
        if parameter.requires_grad and 1 in parameter.shape:
            parameter.register_hook(functools.partial(_with_strides, parameter.stride()))


def _with_strides(strides: tuple[int, ...], gradient: Tensor) -> Tensor:
    """Return a gradient whose strides along axes of length 1 are the given ones."""
    own = zip(gradient.shape, strides, gradient.stride(), strict=True)
    wanted = tuple(given if size == 1 else stride for size, given, stride in own)
    return gradient if gradient.stride() == wanted else gradient.as_strided(gradient.shape, wanted)
