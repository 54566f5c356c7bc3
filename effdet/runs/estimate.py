"""Estimate the memory and the time of a training on this machine, from a few steps with small batches."""

from __future__ import annotations

import math
import os
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

from effdet.config import Config
from effdet.data.findings import Finding
from effdet.runs.auto_batch import with_batch_size
from effdet.runs.auto_precision import with_precision
from effdet.runs.device import choose_device, choose_precision
from effdet.runs.process_state import huge_pages
from effdet.runs.resolve import resolve
from effdet.runs.step_costs import Measured, measure_training, memory_at, memory_there_on, random_model, value_at
from effdet.runs.training_tiles import num_items
from effdet.runs.workers import choose_workers
from effdet.training.distributed import World

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset

_GIB = 2**30


LESS_MEMORY = (
    "lower train.batch_size, or raise train.accumulate, or set train.gradient_checkpointing=true or a smaller "
    "data.image_size"
)


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a training will need, if it runs alone on this machine."""

    device: str  # with the threads of a CPU
    precision: str  # "fp32", "bf16" or "fp16"; what ``train.precision: auto`` chooses here
    batch_size: int
    steps_per_epoch: int
    epochs: int
    seconds_per_step: float
    seconds_per_evaluation: float  # without the computation of AP
    seconds: float  # of the whole training
    memory: int | None  # bytes of the training process, or of the GPU; None: not known
    memory_there: int | None  # bytes that are free now, with those that this process has; None: not known
    measured_batches: tuple[int, ...]  # images of the batches that this follows from
    is_busy: bool = False  # more processes wanted to run than there are cores, so the time may be too long

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        batches = " and ".join(map(str, self.measured_batches))
        memory = "" if self.memory is None else f" and {self.memory / _GIB:.1f} GiB of memory"
        return (
            f"a training takes about {in_words(self.seconds)}{memory} on "
            f"{self.device} in {self.precision}: {self.epochs} epochs of {self.steps_per_epoch:,} steps of "
            f"{self.seconds_per_step:.2g} s, by steps with {batches} of the {self.batch_size} images of a batch"
            + (", measured while other programs use this machine" if self.is_busy else "")
        )

    def findings(self) -> list[Finding]:
        """Return a warning if the memory will not suffice."""
        if self.memory is None or self.memory_there is None or self.memory < self.memory_there:
            return []
        text = f"training needs {self.memory / _GIB:.1f} GiB of memory, and {self.memory_there / _GIB:.1f} GiB are free"
        return [Finding("warning", text, LESS_MEMORY)]


def in_words(seconds: float) -> str:
    """Return a time as seconds, minutes, hours or days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def estimate_training(config: Config, train: Dataset, num_val: int) -> Estimate:
    """Measure a few steps on the images of a data set, with random weights, and say what a whole training will need.

    ``auto`` in ``train.precision`` and ``train.batch_size`` is chosen as in a training. Time and memory of a step are
    taken to grow by the same amount with each image. The loader processes that the training will have are counted as if
    each had a core of its own.

    Args:
        config: What will be trained, on one process.
        train: Images to learn.
        num_val: Number of images that an evaluation looks at.

    Raises:
        ConfigError, ValueError: As ``train``.
        ImageError: If no image can be read.
    """
    config = resolve(replace(config, model=replace(config.model, num_classes=None)), train)
    world = World(choose_device(config.run.device))
    with huge_pages():
        config = with_precision(config, random_model(config, train).to(world.device), train, world)
        config = with_batch_size(config, train, world)
        measured = measure_training(config, train, world)
    return _extrapolate(config, measured, train, num_val, world)


def _extrapolate(config: Config, measured: list[Measured], train: Dataset, num_val: int, world: World) -> Estimate:
    assert config.train.epochs is not None
    assert config.eval.every is not None
    micro_batch = config.train.batch_size // config.train.accumulate
    computing = config.train.accumulate * value_at(measured, "step", micro_batch)
    workers = choose_workers(config.data.workers, world.device)
    loading = config.train.batch_size * measured[-1].loading / measured[-1].images
    step = max(computing, loading / workers) if workers else computing + loading
    steps = math.ceil(num_items(config.data, train) / config.train.batch_size)
    evaluation = num_val * (measured[-1].inference + measured[-1].loading) / measured[-1].images
    epochs = config.train.epochs
    memory = memory_at(measured, micro_batch)
    threads = f" (torch threads: {torch.get_num_threads()})" if world.device.type == "cpu" else ""
    return Estimate(
        device=f"{world.device}{threads}",
        precision=choose_precision(config.train.precision, world.device).value,
        batch_size=config.train.batch_size,
        steps_per_epoch=steps,
        epochs=epochs,
        seconds_per_step=step,
        seconds_per_evaluation=evaluation,
        seconds=epochs * steps * step + math.ceil(epochs / config.eval.every) * evaluation,
        memory=None if memory is None else round(memory),
        memory_there=memory_there_on(world.device),
        measured_batches=tuple(row.images for row in measured),
        is_busy=hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) + 0.5,
    )
