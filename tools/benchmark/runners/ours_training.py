"""Our side of ``train``: a step of the trainer that ``effdet train`` builds."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmark.runners.ours_data import endless
from benchmark.runners.stopwatch import Stopwatch
from effdet.config import Config, DataConfig, Optimizer, Precision, RunConfig, TrainConfig
from effdet.data.formats import find_dataset
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.build import build_loader, build_trainer
from effdet.runs.resolve import resolve
from effdet.structures import Batch, Target
from effdet.training.distributed import World

LEARNING_RATE = 1e-5  # so small that the weights, and with them the measurement, hardly change


class Train:
    """One whole optimizer step: targets, forward, loss, backward, clipping, update, moving average.

    Args:
        folder: What ``Prepare`` wrote.
        batch: Images of a step.
        boxes: For every image, boxes (M, 4) xyxy pixels of the network input.
        labels: For every image, classes (M,).
        precision: "fp32" or "bf16".
        channels_last: Memory layout of images and weights.
        optimizer: "sgd" or "adamw".
        with_loader: Get a new batch for every step from a loader process, instead of using one batch again.
    """

    def __init__(
        self,
        *,
        folder: str,
        batch: int,
        boxes: list[list[list[float]]],
        labels: list[list[int]],
        precision: str = "fp32",
        channels_last: bool = True,
        optimizer: str = "sgd",
        with_loader: bool = False,
    ) -> None:
        model = EfficientDet.from_pretrained(Path(folder) / "weights.safetensors").train()
        dataset = find_dataset(folder, "train")
        model.class_names, model.category_ids = dataset.class_names, dataset.category_ids
        self._folder = tempfile.TemporaryDirectory()
        config = Config(
            data=DataConfig(root=folder, image_size=model.image_size, workers=1),
            train=TrainConfig(
                epochs=1000,
                batch_size=batch,
                lr=LEARNING_RATE,
                optimizer=Optimizer(optimizer),
                precision=Precision(precision),
                channels_last=channels_last,
            ),
            run=RunConfig(dir=self._folder.name, name="benchmark", device="cpu"),
        )
        world = World(torch.device("cpu"))
        config = resolve(config, dataset)
        loader = build_loader(config, model, dataset, world)
        self.trainer = build_trainer(config, model, world, steps_per_epoch=loader.steps_per_epoch)
        self.trainer.train_mode()
        self.losses: dict[str, float] = {}
        self.num_steps = 0
        self.batches: Iterator[Batch] = endless(loader)
        if not with_loader:
            images = torch.from_numpy(np.load(Path(folder) / "inputs.npy")[:batch]).permute(0, 3, 1, 2)
            self.batches = itertools.repeat(_batch(images, boxes, labels))
        self.stopwatch = Stopwatch()
        for part, owner, name in (
            ("forward", self.trainer, "network"),
            ("loss", self.trainer, "criterion"),
            ("clipping and update", self.trainer, "clip_gradient"),
            ("clipping and update", self.trainer, "update_weights"),
        ):
            setattr(owner, name, self.stopwatch.around(getattr(owner, name), part))

    def step(self) -> dict[str, float]:
        """Do one step."""
        self.stopwatch.seconds.clear()
        batch = self.stopwatch.around(next, "wait for the batch")(self.batches)
        losses = self.trainer.step([batch], self.num_steps).losses
        self.losses = self.losses or losses
        self.num_steps += 1
        return dict(self.stopwatch.seconds)

    def result(self) -> dict[str, float]:
        """Return the losses of the first step: of the weights that both programs start with."""
        return self.losses


def _batch(images: torch.Tensor, boxes: list[list[list[float]]], labels: list[list[int]]) -> Batch:
    count, size = len(images), tuple(images.shape[-2:])
    targets = [
        Target(torch.tensor(rows, dtype=torch.float32).reshape(-1, 4), torch.tensor(classes, dtype=torch.int64))
        for rows, classes in zip(boxes, labels, strict=True)
    ]
    return Batch(
        images=images,
        content_sizes=torch.tensor([size] * count),
        scales=torch.ones(count),
        original_sizes=torch.tensor([size] * count),
        image_ids=tuple(range(count)),
        targets=targets[:count],
    )


TASKS = {"train": Train}
