"""Choose the number format of a training on a CPU, for ``train.precision: auto``."""

from __future__ import annotations

import copy
import logging
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from effdet.config import AUTO_BATCH, Config, Precision
from effdet.kernels.processor import has_bf16
from effdet.runs.build import build_loader, build_trainer
from effdet.runs.device import choose_device
from effdet.runs.folder import config_of
from effdet.runs.process_state import process_state
from effdet.training.distributed import World

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset
    from effdet.detector.efficientdet import EfficientDet
    from effdet.structures import Batch
    from effdet.training.step import Trainer

logger = logging.getLogger(__name__)

LEAST_IMAGES = 2000  # of a run, over all epochs: a shorter one would hardly win back the time of the measurement
MOST_IMAGES = 4  # of the batch that is measured; more take longer, and the time of an image is the same
ROUNDS = 2  # measured steps in each format, in turns
GAIN = 1.1  # bf16 rounds, so it must be as many times faster


def with_precision(
    config: Config, model: EfficientDet, train: Dataset, world: World, resumed: Path | None = None
) -> Config:
    """Return the config with fp32 or bf16 in place of ``train.precision: auto``, if the network runs on a CPU.

    bf16 is chosen where the processor has instructions for it and steps of the training were faster in it, by a tenth
    or more. A run that is continued keeps what it began with; those of earlier versions were in fp32.

    Args:
        config: Resolved.
        model: What is trained; a copy of it is measured.
        train: Training images.
        world: The processes of the run; the main one measures.
        resumed: Folder of the run that is continued.

    Raises:
        ConfigError, ValueError, ImageError: As ``effdet.train``.
    """
    if config.train.precision is not Precision.auto or world.device.type != "cpu":
        return config
    chosen: Precision
    if resumed is not None:
        before = config_of(resumed).train.precision
        chosen = Precision.fp32 if before is Precision.auto else before
    else:
        chosen = world.broadcast(_choose(config, model, train) if world.is_main else Precision.fp32)
    return replace(config, train=replace(config.train, precision=chosen))


def comparable(config: Config) -> Config:
    """Return the config of one of several trainings that are compared, with fp32 in place of ``auto`` on a CPU.

    A measurement for each might choose bf16 for one and fp32 for another.
    """
    if config.train.precision is not Precision.auto or choose_device(config.run.device).type != "cpu":
        return config
    logger.info("train.precision=auto: fp32, as trainings are compared; train.precision=bf16 takes bf16 for all")
    return replace(config, train=replace(config.train, precision=Precision.fp32))


def _choose(config: Config, model: EfficientDet, train: Dataset) -> Precision:
    reason = _reason_for_fp32(config, len(train))
    if reason is not None:
        logger.info("train.precision=auto: fp32, as %s", reason)
        return Precision.fp32
    fp32, bf16 = seconds_of_steps(config, model, train)
    chosen = faster(fp32, bf16)
    logger.info(
        "train.precision=auto: %s; steps with %d images took %.3g s in fp32 and %.3g s in bf16",
        *(chosen.value, _images_of(config), fp32, bf16),
    )
    return chosen


def faster(fp32: float, bf16: float) -> Precision:
    """Return what to train in, from the seconds of steps."""
    return Precision.bf16 if fp32 > GAIN * bf16 else Precision.fp32


def _reason_for_fp32(config: Config, num_images: int) -> str | None:
    assert config.train.epochs is not None
    if not has_bf16():
        return "this processor has no instructions for bf16"
    if config.train.compile:
        return "train.compile=true"
    if config.train.epochs * num_images < LEAST_IMAGES:
        return f"a measurement does not pay in a run of fewer than {LEAST_IMAGES:,} images"
    return None


def seconds_of_steps(config: Config, model: EfficientDet, train: Dataset) -> tuple[float, float]:
    """Return the seconds of a training step in fp32 and in bf16: the faster of two each, after one that is not counted.

    The model, and the random numbers of this process, stay as they are.
    """
    world, images = World(torch.device("cpu")), _images_of(config)
    settings = replace(
        config,
        train=replace(config.train, batch_size=images, accumulate=1),
        data=replace(config.data, workers=0, multi_scale=None),
    )
    with process_state(world.device, seed=config.run.seed, threads=config.run.threads):
        batch = next(build_loader(settings, model, train, world).epoch(0))
        trainers = [_trainer(settings, copy.deepcopy(model), world, kind) for kind in (Precision.fp32, Precision.bf16)]
        rounds = [[_seconds(trainer, batch, number) for trainer in trainers] for number in range(ROUNDS + 1)]
    fp32, bf16 = zip(*rounds[1:], strict=True)
    return min(fp32), min(bf16)


def _images_of(config: Config) -> int:
    """Return the images of the batch that is measured; ``train.batch_size: auto`` is chosen later."""
    batch_size = config.train.batch_size
    return MOST_IMAGES if batch_size == AUTO_BATCH else min(batch_size, MOST_IMAGES)


def _trainer(config: Config, model: EfficientDet, world: World, precision: Precision) -> Trainer:
    config = replace(config, train=replace(config.train, precision=precision))
    trainer = build_trainer(config, model, world, steps_per_epoch=ROUNDS + 1)
    trainer.train_mode()
    return trainer


def _seconds(trainer: Trainer, batch: Batch, number: int) -> float:
    started = time.perf_counter()
    trainer.step([batch], number)
    return time.perf_counter() - started
