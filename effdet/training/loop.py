"""Train for one epoch, from any of its steps on."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from effdet.structures import Batch
from effdet.training.distributed import World
from effdet.training.interrupt import StopRequest
from effdet.training.step import LOSSES, Trainer


class Loader(Protocol):
    """Training batches as a pure function of epoch and step, so that training can start at any step."""

    steps_per_epoch: int  # micro-batches

    def epoch(self, epoch: int, start_step: int = 0, *, plain: bool = False) -> Iterator[Batch]:
        """Yield the micro-batches of an epoch from ``start_step`` on; ``plain``: without mosaic and mixup."""
        ...


@dataclass
class Progress:
    """Progress of a run: all that a checkpoint needs besides weights and optimizer."""

    step: int = 0  # optimizer steps done
    history: list[dict[str, float]] = field(default_factory=list)  # one row per finished epoch
    best: float = -math.inf  # AP
    sums: dict[str, float] = field(default_factory=dict)  # of the unfinished epoch

    @property
    def epoch(self) -> int:
        """Number of the unfinished epoch, counted from 0."""
        return len(self.history)

    def add(self, losses: dict[str, float], *, images: int, seconds: float) -> None:
        """Count one more step of the unfinished epoch."""
        self.step += 1
        values = {**losses, "loss": sum(losses.values()), "steps": 1.0, "images": float(images), "seconds": seconds}
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def epoch_means(self, world: World) -> dict[str, float]:
        """Return the mean losses of the unfinished epoch over all processes, and its images per second."""
        names, steps = ("loss", *LOSSES), max(1.0, self.sums.get("steps", 0.0))
        sums = sum_numbers([self.sums.get(name, 0.0) / steps for name in names], world)
        means = [value / world.size for value in sums]
        speed = self.sums.get("images", 0.0) / max(self.sums.get("seconds", 0.0), 1e-9)
        return {**dict(zip(names, means, strict=True)), "images_per_second": speed}


@dataclass(frozen=True)
class StepReport:
    """Numbers about one finished step."""

    step: int  # optimizer steps done
    epoch: int  # counted from 1
    lr: float
    loss: float
    images_per_second: float
    unreadable: tuple[str, ...]  # files that another image replaced


def train_epoch(
    trainer: Trainer,
    batches: Iterator[Batch],
    progress: Progress,
    *,
    accumulate: int,
    stop: StopRequest,
    after_step: Callable[[StepReport], None],
) -> bool:
    """Do the remaining steps of an epoch.

    Args:
        trainer: Computes the steps.
        batches: The remaining micro-batches.
        progress: Updated after each step.
        accumulate: Number of micro-batches in a step; the last step may have fewer.
        stop: Whether the run shall stop.
        after_step: Called after each step.

    Returns:
        True if the epoch was finished; False if this or another process was asked to stop, after a whole step.

    Raises:
        NonFiniteError: If a loss or the gradient is not finite.
    """
    trainer.train_mode()
    started = time.monotonic()
    while True:
        micro_batches = _fetch(batches, accumulate, stop)
        if not micro_batches:
            return micro_batches is not None
        result = trainer.step(micro_batches, progress.step, stop=stop.made)
        stop.agreed = result.stop
        now = time.monotonic()
        seconds, started = now - started, now
        images = trainer.world.size * sum(len(batch.targets) for batch in micro_batches)
        progress.add(result.losses, images=images, seconds=seconds)
        report = StepReport(
            step=progress.step,
            epoch=progress.epoch + 1,
            lr=trainer.optimizer.param_groups[0]["lr"],
            loss=sum(result.losses.values()),
            images_per_second=images / max(seconds, 1e-9),
            unreadable=tuple(name for batch in micro_batches for name in batch.unreadable),
        )
        after_step(report)
        if stop.agreed or (stop.made and trainer.world.size == 1):
            return False


def sum_numbers(values: Sequence[float], world: World) -> list[float]:
    """Return the sums over all processes of some numbers."""
    if world.size == 1:
        return list(values)
    return world.sum(torch.tensor(values, dtype=torch.float64, device=world.device)).tolist()


def _fetch(batches: Iterator[Batch], count: int, stop: StopRequest) -> list[Batch] | None:
    """Return the micro-batches of the next step: an empty list at the end of the epoch, None if the run is to stop."""
    try:
        return list(itertools.islice(batches, count))
    except RuntimeError:
        if stop.wait(seconds=2):  # the signal that stops the run has also ended the loader processes
            return None
        raise
