"""Estimate the memory and the time of a training on this machine, from a few steps with small batches."""

from __future__ import annotations

import contextlib
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from effdet.config import Config
from effdet.data.findings import Finding
from effdet.detector.efficientdet import EfficientDet
from effdet.images.preprocessing import Preprocessing
from effdet.runs.architecture import architecture_of
from effdet.runs.build import build_loader, build_trainer
from effdet.runs.device import choose_device
from effdet.runs.process_state import huge_pages, process_state
from effdet.runs.resolve import resolve
from effdet.runs.workers import choose_workers
from effdet.training.distributed import World
from effdet.training.step import Trainer

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset
    from effdet.structures import Batch

BATCHES = (2, 4)  # images of the batches that are measured
SHORT_STEP = 5.0  # seconds; a step that is shorter is measured twice
LONG_STEP = 20.0  # seconds; after such a step no larger batch is measured
_GIB = 2**30


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What a training will need, if it runs alone on this machine."""

    device: str  # with the threads of a CPU
    batch_size: int
    steps_per_epoch: int
    epochs: int
    seconds_per_step: float
    seconds_per_evaluation: float  # without the computation of AP
    seconds: float  # of the whole training
    memory: int  # bytes of the training process, or of the GPU
    memory_there: int | None  # bytes that are free now, with those that this process has; None: not known
    measured_batches: tuple[int, ...]  # images of the batches that this follows from
    is_busy: bool = False  # more processes wanted to run than there are cores, so the time may be too long

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        batches = " and ".join(map(str, self.measured_batches))
        return (
            f"a training takes about {in_words(self.seconds)} and {self.memory / _GIB:.1f} GiB of memory on "
            f"{self.device}: {self.epochs} epochs of {self.steps_per_epoch:,} steps of {self.seconds_per_step:.2g} s, "
            f"by steps with {batches} of the {self.batch_size} images of a batch"
            + (", measured while other programs use this machine" if self.is_busy else "")
        )

    def findings(self) -> list[Finding]:
        """Return a warning if the memory will not suffice."""
        if self.memory_there is None or self.memory < self.memory_there:
            return []
        text = f"training needs {self.memory / _GIB:.1f} GiB of memory, and {self.memory_there / _GIB:.1f} GiB are free"
        advice = (
            "lower train.batch_size, or raise train.accumulate, or set train.gradient_checkpointing=true or a smaller "
            "data.image_size"
        )
        return [Finding("warning", text, advice)]


def in_words(seconds: float) -> str:
    """Return a time as seconds, minutes, hours or days."""
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.0f} s"


def estimate_training(config: Config, train: Dataset, num_val: int) -> Estimate:
    """Measure a few steps on the images of a data set, with random weights, and say what a whole training will need.

    Time and memory of a step are taken to grow by the same amount with each image. The loader processes that the
    training will have are counted as if each had a core of its own.

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
    with huge_pages(), process_state(world.device, seed=config.run.seed, threads=config.run.threads):
        model = _random_model(config, train).to(world.device)
        trainer = build_trainer(config, model, world, steps_per_epoch=1)
        measured = list(_measure(config, trainer, train, world))
        return _extrapolate(config, measured, train, num_val, world)


@dataclass(frozen=True)
class _Measured:
    images: int
    step: float  # seconds
    loading: float  # seconds of one process
    inference: float  # seconds
    memory: int  # bytes, peak


def _random_model(config: Config, train: Dataset) -> EfficientDet:
    return EfficientDet(
        architecture_of(config.model),
        train.num_classes,
        image_size=config.data.image_size,
        class_names=train.class_names,
        category_ids=train.category_ids,
        preprocessing=Preprocessing(fit=config.data.resize.value),
    )


def _measure(config: Config, trainer: Trainer, train: Dataset, world: World) -> Iterator[_Measured]:
    for images in BATCHES:
        plain = replace(config.train, batch_size=images, accumulate=1)
        settings = replace(config, train=plain, data=replace(config.data, workers=0))
        _forget_peak(world.device)
        started = time.perf_counter()
        batch = next(build_loader(settings, trainer.model, train, world).epoch(0))
        loading = time.perf_counter() - started
        trainer.train_mode()
        if images == BATCHES[0]:
            _time(world.device, lambda batch=batch: trainer.step([batch], 0))
        step = _time(world.device, lambda batch=batch: trainer.step([batch], 1))
        if step < SHORT_STEP:  # the faster of two, as something else may have run meanwhile
            step = min(step, _time(world.device, lambda batch=batch: trainer.step([batch], 2)))
        memory = _peak(world.device)
        inference = _time(world.device, lambda batch=batch: _infer(trainer.model, batch))
        yield _Measured(images, step, loading, inference, memory)
        if step > LONG_STEP:
            return


def _time(device: torch.device, work: Any) -> float:
    started = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


@torch.no_grad()
def _infer(model: EfficientDet, batch: Batch) -> None:
    model.eval()
    device = next(model.parameters()).device
    model.network(model.normalise(batch.images.to(device), batch.content_sizes))


def _extrapolate(config: Config, measured: list[_Measured], train: Dataset, num_val: int, world: World) -> Estimate:
    assert config.train.epochs is not None
    assert config.eval.every is not None
    micro_batch = config.train.batch_size // config.train.accumulate
    computing = config.train.accumulate * _line(measured, "step", micro_batch)
    workers = choose_workers(config.data.workers, world.device)
    loading = config.train.batch_size * measured[-1].loading / measured[-1].images
    step = max(computing, loading / workers) if workers else computing + loading
    steps = math.ceil(len(train) / config.train.batch_size)
    evaluation = num_val * (measured[-1].inference + measured[-1].loading) / measured[-1].images
    epochs = config.train.epochs
    threads = f" (torch threads: {torch.get_num_threads()})" if world.device.type == "cpu" else ""
    return Estimate(
        device=f"{world.device}{threads}",
        batch_size=config.train.batch_size,
        steps_per_epoch=steps,
        epochs=epochs,
        seconds_per_step=step,
        seconds_per_evaluation=evaluation,
        seconds=epochs * steps * step + math.ceil(epochs / config.eval.every) * evaluation,
        memory=round(_line(measured, "memory", micro_batch)),
        memory_there=_memory_there(world.device),
        measured_batches=tuple(row.images for row in measured),
        is_busy=hasattr(os, "getloadavg") and os.getloadavg()[0] > (os.cpu_count() or 1) + 0.5,
    )


def _line(measured: list[_Measured], name: str, images: int) -> float:
    """Return the value that a number of images has on the line through what was measured; it never falls."""
    first, last = measured[0], measured[-1]
    low, high = float(getattr(first, name)), float(getattr(last, name))
    if first is last:
        return low * max(1.0, images / first.images)
    return low + max(0.0, high - low) / (last.images - first.images) * (images - first.images)


# --- memory --------------------------------------------------------------------------------------------------------


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew


def _peak(device: torch.device) -> int:
    """Return the peak of the GPU's memory, or of this process where the network runs on a CPU, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = _kibibytes("/proc/self/status", "VmHWM")
    if peak is not None:
        return peak * 1024
    import resource  # Windows has none

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _memory_there(device: torch.device) -> int | None:
    """Return the bytes that a training may use: what is free, and what this process has itself."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device)
    free, own = _kibibytes("/proc/meminfo", "MemAvailable"), _kibibytes("/proc/self/status", "VmRSS")
    return None if free is None or own is None else (free + own) * 1024


def _kibibytes(file: str, key: str) -> int | None:
    try:
        lines = Path(file).read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)
