"""What a training step takes on this machine: time and memory of steps with small batches."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from effdet.config import Config
from effdet.detector.efficientdet import EfficientDet
from effdet.images.preprocessing import Preprocessing
from effdet.runs.architecture import architecture_of
from effdet.runs.build import build_loader, build_trainer
from effdet.runs.process_state import process_state
from effdet.training.distributed import World
from effdet.training.step import Trainer

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset
    from effdet.structures import Batch

BATCHES = (2, 4)  # images of the batches that are measured
SHORT_STEP = 5.0  # seconds; a step that is shorter is measured twice
LONG_STEP = 20.0  # seconds; after such a step no larger batch is measured


@dataclass(frozen=True)
class Measured:
    """What a training step with a small batch takes."""

    images: int
    step: float  # seconds
    loading: float  # seconds of one process
    inference: float  # seconds
    memory: int | None  # bytes, peak; None: the system does not tell, as Windows


def measure_training(config: Config, train: Dataset, world: World) -> list[Measured]:
    """Return what steps with two and with four images take; without the second where the first is slow or all memory.

    Args:
        config: Resolved, except for ``train.batch_size``, which does not matter.
        train: Images to learn.
        world: Its device is measured.

    Raises:
        ConfigError, ValueError, ImageError: As ``estimate_training``.
        RuntimeError: If the device has too little memory for two images.
    """
    config = replace(config, train=replace(config.train, batch_size=BATCHES[0], accumulate=1))
    alone = World(world.device)
    measured: list[Measured] = []
    with process_state(world.device, seed=config.run.seed, threads=config.run.threads):
        trainer = build_trainer(config, random_model(config, train).to(world.device), alone, steps_per_epoch=1)
        try:
            measured.extend(_measure_steps(config, trainer, train, alone))
        except torch.OutOfMemoryError:
            if not measured:
                raise
    if world.device.type == "cuda":
        torch.cuda.empty_cache()
    return measured


def random_model(config: Config, train: Dataset) -> EfficientDet:
    """Return the model of a resolved config with random weights, on the CPU."""
    return EfficientDet(
        architecture_of(config.model),
        train.num_classes,
        image_size=config.data.image_size,
        class_names=train.class_names,
        category_ids=train.category_ids,
        preprocessing=Preprocessing(fit=config.data.resize.value),
        value_range=config.data.value_range,
    )


def _measure_steps(config: Config, trainer: Trainer, train: Dataset, world: World) -> Iterator[Measured]:
    for images in BATCHES:
        plain = replace(config.train, batch_size=images, accumulate=1)
        largest = None if config.data.multi_scale is None else (config.data.multi_scale[1],) * 2
        settings = replace(config, train=plain, data=replace(config.data, workers=0, multi_scale=largest))
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
        yield Measured(images, step, loading, inference, memory)
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


def value_at(measured: Sequence[Measured], name: str, images: int) -> float:
    """Return the value that a number of images has on the line through what was measured; it never falls."""
    first, last = measured[0], measured[-1]
    low, high = float(getattr(first, name)), float(getattr(last, name))
    if first is last:
        return low * max(1.0, images / first.images)
    return low + max(0.0, high - low) / (last.images - first.images) * (images - first.images)


def memory_at(measured: Sequence[Measured], images: int) -> float | None:
    """Return the bytes that a step with a number of images takes; None: not known."""
    return None if measured[0].memory is None else value_at(measured, "memory", images)


# --- memory --------------------------------------------------------------------------------------------------------


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # Linux: the peak begins anew


def _peak(device: torch.device) -> int | None:
    """Return the peak of the GPU's memory, or of this process where the network runs on a CPU, in bytes."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    peak = _kibibytes("/proc/self/status", "VmHWM")
    if peak is not None:
        return peak * 1024
    try:
        import resource
    except ImportError:  # on Windows
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_there_on(device: torch.device) -> int | None:
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
