"""The short fine-tuning of a proposal: some steps on one part of the training images, and the AP on the other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from effdet.config import Config
from effdet.data.dataset import Dataset
from effdet.data.loader import TrainLoader
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.build import build_loader, build_trainer
from effdet.runs.evaluate import evaluate_dataset
from effdet.runs.process_state import process_state
from effdet.runs.training_tiles import validation_views
from effdet.structures import Batch
from effdet.training.distributed import World
from effdet.training.interrupt import Interrupted, StopRequest
from effdet.training.loop import Progress, train_epoch


def split_off(dataset: Dataset, share: float) -> tuple[Dataset, Dataset]:
    """Return a data set in two parts, drawn at random but always the same: to fine-tune on, and to measure AP on.

    Args:
        dataset: The training images.
        share: Share of the images in the second part.

    Raises:
        ValueError: If one of the parts would be empty.
    """
    count = round(share * len(dataset))
    if not 0 < count < len(dataset):
        raise ValueError(
            f"held_out must leave images to fine-tune on and hold some out, got {share} of {len(dataset)} images"
        )
    order = np.random.default_rng(0).permutation(len(dataset))
    return dataset.without(order[:count]), dataset.without(order[count:])


def fine_tune(model: EfficientDet, config: Config, images: Dataset, steps: int) -> EfficientDet:
    """Train a model for some steps, and return the moving average of its weights.

    The learning rate rises to its peak in the first tenth of the steps, and falls to 0 along half a cosine.

    Args:
        model: On its device; its weights change.
        config: Resolved; its sections ``data``, ``train`` and ``run`` are used.
        images: Training images.
        steps: Optimizer steps.

    Raises:
        FloatingPointError: If a loss or gradient is not finite.
        Interrupted: On a signal to stop.
    """
    world, stop = World(model.device), StopRequest()
    short = replace(config, train=replace(config.train, epochs=1, warmup_epochs=0.1))
    with process_state(model.device, seed=config.run.seed, threads=config.run.threads), stop.listening():
        loader = build_loader(short, model, images, world)
        trainer = build_trainer(short, model, world, steps_per_epoch=steps)
        finished = train_epoch(
            trainer,
            _batches(loader, steps * config.train.accumulate),
            Progress(),
            accumulate=config.train.accumulate,
            stop=stop,
            after_step=lambda report: None,
        )
    if not finished:
        raise Interrupted
    average: EfficientDet = trainer.ema.model
    return average


def measure_ap(model: EfficientDet, config: Config, images: Dataset) -> float:
    """Return the COCO AP of a model on some images."""
    views, workers = validation_views(config.data), config.data.workers
    return evaluate_dataset(model, images, batch_size=config.eval.batch_size, workers=workers, views=views).ap


def _batches(loader: TrainLoader, count: int) -> Iterator[Batch]:
    """Yield that many batches, from as many epochs as it takes."""
    for start in range(0, count, loader.steps_per_epoch):
        batches = loader.epoch(start // loader.steps_per_epoch)
        for _ in range(min(loader.steps_per_epoch, count - start)):
            yield next(batches)
