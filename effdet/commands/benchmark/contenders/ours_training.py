"""Our side of ``train``: the step of the training loop, as ``effdet train`` does it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effdet.config import Optimizer, Precision
from effdet.models.efficientdet import EfficientDet
from effdet.structures import Batch, Target
from effdet.training.distributed import World
from effdet.training.ema import EMA
from effdet.training.log import RunLog
from effdet.training.loop import Settings, Trainer
from effdet.training.losses import DetectionLoss
from effdet.training.schedule import build_optimizer

LEARNING_RATE = 1e-5  # the weights stay where they are, and so does the work


class Train:
    """One optimizer step with all that belongs to it: targets, forward, loss, backward, clipping, update, average.

    Args:
        folder: What ``Prepare`` wrote.
        batch: Images of a step.
        boxes: For every image, boxes (M, 4) xyxy pixels of the network input.
        labels: For every image, classes (M,).
        precision: "fp32" or "bf16".
        channels_last: Memory layout of images and weights.
        optimizer: "sgd" or "adamw".
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
    ) -> None:
        model = EfficientDet.from_pretrained(Path(folder) / "weights.safetensors").train()
        if channels_last:
            model.network.to(memory_format=torch.channels_last)
        images = torch.from_numpy(np.load(Path(folder) / "inputs.npy")[:batch]).permute(0, 3, 1, 2)
        self.batch = _batch(images, boxes, labels)
        self.losses: dict[str, float] = {}
        self._folder = tempfile.TemporaryDirectory()
        self.trainer = Trainer(
            model,
            criterion=DetectionLoss(),
            optimizer=build_optimizer(model.network, Optimizer(optimizer)),
            ema=EMA(model, 0.9998),
            loader=_Batches([self.batch]),
            evaluate=lambda _: {"ap": 0.0},
            save_best=lambda _: None,
            log=RunLog(None),
            folder=Path(self._folder.name),
            world=World(torch.device("cpu")),
            settings=Settings(
                epochs=10**6,
                learning_rate=lambda _: LEARNING_RATE,
                precision=Precision(precision),
                channels_last=channels_last,
            ),
        )
        self.stopwatch = _Stopwatch()
        for part, owner, name in (
            ("forward", self.trainer, "network"),
            ("loss", self.trainer, "criterion"),
            ("clipping and update", self.trainer, "_update"),
        ):
            setattr(owner, name, self.stopwatch.around(getattr(owner, name), part))

    def step(self) -> dict[str, float]:
        """Do one step."""
        self.stopwatch.seconds.clear()
        self.losses = self.trainer._step([self.batch])
        return dict(self.stopwatch.seconds)

    def result(self) -> dict[str, float]:
        """Return the losses of the last step."""
        return self.losses


class _Stopwatch:
    """Adds up the seconds spent in functions; on a CPU a call returns when its work is done."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def around(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return the function, timed; its attributes stay within reach."""
        return _Timed(function, part, self)


class _Timed:
    def __init__(self, function: Any, part: str, stopwatch: _Stopwatch) -> None:
        self._function, self._part, self._stopwatch = function, part, stopwatch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        value = self._function(*args, **kwargs)
        seconds = self._stopwatch.seconds
        seconds[self._part] = seconds.get(self._part, 0.0) + time.perf_counter() - started
        return value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)


class _Batches:
    def __init__(self, batches: list[Batch]) -> None:
        self.batches, self.steps_per_epoch = batches, len(batches)

    def epoch(self, epoch: int, start_step: int = 0, *, plain: bool = False) -> Iterator[Batch]:
        """Yield the batches."""
        return iter(self.batches[start_step:])


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
        image_ids=torch.arange(count),
        targets=targets[:count],
    )


TASKS = {"train": Train}
