"""Compute one optimizer step: from micro-batches to new weights and their moving average."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effdet.config import Precision
from effdet.structures import Batch, Predictions
from effdet.training.dense_targets import AnyAssignment
from effdet.training.distillation import Teacher
from effdet.training.distributed import World
from effdet.training.ema import EMA
from effdet.training.freezing import train_mode
from effdet.training.losses import DetectionLoss
from effdet.training.schedule import bn_momentum, set_learning_rate

AUTOCAST = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}
LOSSES = ("class_loss", "box_loss")


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """How a step is computed; units and meaning as in ``effdet.config.TrainConfig``."""

    learning_rate: Callable[[int], float]  # of a step, counted from 0
    clip_norm: float = 10.0
    precision: Precision = Precision.fp32
    channels_last: bool = True
    compile: bool = False
    seed: int = 0


@dataclass(frozen=True)
class StepResult:
    """Result of a step."""

    losses: dict[str, float]  # weighted and normalised, of this process
    stop: bool  # whether any process wanted to stop when the step began


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is not finite; the weights are still those of the step before."""

    def __init__(self, what: str, batches: Sequence[Batch]) -> None:
        super().__init__(what)
        self.batches = batches  # the batches that caused it


class Trainer:
    """Trains a detector, one optimizer step at a time.

    Every random number is a function of (seed, step, process), because torch's generator gets a new seed at every step.
    A run that resumes from a checkpoint therefore gives the same result as one that was not interrupted.

    N of the losses counts the positive anchors of the whole step, over its micro-batches and all processes. So the
    gradient is the same as that of one process with one large batch. If assignment or scores depend on the predictions,
    N is known only after the last micro-batch. Then losses and gradient are computed with the number of boxes in its
    place, and multiplied by the quotient of the two.

    Args:
        model: Detector with ``network``, ``normalise`` and ``anchors``, on its device.
        criterion: Loss of a batch.
        optimizer: Optimizer of the parameters that are not frozen.
        ema: Average of the model.
        world: The processes of the run.
        frozen: Modules that stay in eval mode.
        teacher: A larger detector whose predictions are learned too.
        settings: Numbers and switches.
    """

    def __init__(
        self,
        model: Any,
        *,
        criterion: DetectionLoss,
        optimizer: Optimizer,
        ema: EMA[Any],
        world: World,
        frozen: Sequence[nn.Module] = (),
        teacher: Teacher | None = None,
        settings: StepSettings,
    ) -> None:
        self.model, self.criterion, self.optimizer, self.ema = model, criterion, optimizer, ema
        self.world, self.frozen, self.teacher, self.settings = world, frozen, teacher, settings
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision is Precision.fp16)
        self._bn_momentum: float | None = None
        self.network = world.wrap(model.network)
        if settings.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]

    def train_mode(self) -> None:
        """Put the model into training mode, except its frozen modules."""
        train_mode(self.model, self.frozen)

    def step(self, micro_batches: Sequence[Batch], number: int, *, stop: bool = False) -> StepResult:
        """Do one optimizer step.

        Args:
            micro_batches: Batches whose gradients are added.
            number: Number of the step, counted from 0.
            stop: Whether this process was asked to stop; all processes exchange this value.

        Raises:
            NonFiniteError: If a loss or the gradient is not finite.
        """
        seed_everything(self.settings.seed, number, self.world.rank)
        set_learning_rate(self.optimizer, self.settings.learning_rate(number))
        self._set_bn_momentum(bn_momentum(number))

        batches = [self._to_device(batch) for batch in micro_batches]
        anchors = [self.model.anchors(tuple(batch.images.shape[-2:]), self.world.device) for batch in batches]
        assignments = self._assign(batches, anchors)
        normaliser, num_stops = self._agree(batches, assignments, stop)

        self.optimizer.zero_grad(set_to_none=True)
        losses, total_scores = [], []
        for index, parts in enumerate(zip(batches, anchors, assignments, strict=True)):
            with self._synchronise(last=index == len(batches) - 1):
                loss, total_score = self._backward(*parts, normaliser)
            losses.append(loss)
            total_scores.append(total_score)
        if self.criterion.needs_predictions:
            losses = self._normalise_again(losses, total_scores, normaliser)
        norm = self.clip_gradient()
        result = self._read(losses, norm, num_stops, micro_batches)
        self.update_weights()
        self.ema.update(self.model)
        return result

    def _set_bn_momentum(self, momentum: float) -> None:
        if momentum != self._bn_momentum:  # to walk through all modules takes a millisecond
            self.model.network.set_bn_momentum(momentum)
            self._bn_momentum = momentum

    def clip_gradient(self) -> Tensor:
        """Clip the gradient of all parameters together, and return its norm before clipping: ()."""
        self.scaler.unscale_(self.optimizer)
        return nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)

    def update_weights(self) -> None:
        """Update the weights with the gradient; the gradient scaler of fp16 skips one that is not finite."""
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _to_device(self, batch: Batch) -> Batch:
        """Return the batch with its images on the device; ``assign`` copies all boxes at once."""
        return replace(batch, images=batch.images.to(self.world.device, non_blocking=True))

    def _assign(self, batches: Sequence[Batch], anchors: Sequence[Tensor]) -> list[AnyAssignment | None]:
        """Return the assignment of each micro-batch; None where it needs predictions."""
        if self.criterion.needs_predictions:
            return [None] * len(batches)
        return [self.criterion.assign(a, batch.targets) for a, batch in zip(anchors, batches, strict=True)]

    def _backward(
        self, batch: Batch, anchors: Tensor, assignment: AnyAssignment | None, normaliser: Tensor
    ) -> tuple[Tensor, Tensor | int]:
        """Add the gradient of one micro-batch; return its losses, (2,), and its share of N."""
        images = self.model.normalise(batch.images, batch.content_sizes)
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = AUTOCAST[self.settings.precision]
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            predictions: Predictions = self.network(images)
            taught = None if self.teacher is None else self.teacher.predict(batch)
        if assignment is None:
            assignment = self.criterion.assign(anchors, batch.targets, predictions)
        losses = self.criterion(predictions, anchors, batch.targets, assignment=assignment, normaliser=normaliser)
        parts = torch.stack([losses[name] for name in LOSSES])
        if self.teacher is not None and taught is not None:
            added = self.teacher.losses(predictions, taught, anchors, criterion=self.criterion, normaliser=normaliser)
            parts = parts + torch.stack([added[name] for name in LOSSES])
        self.scaler.scale(parts.sum()).backward()
        return parts.detach(), assignment.total_score

    def _agree(
        self, batches: Sequence[Batch], assignments: Sequence[AnyAssignment | None], stop: bool
    ) -> tuple[Tensor, Tensor]:
        """Return N of this step, () float32, and the number of processes that want to stop, () int64.

        DDP takes the mean over k processes, hence N = (Σ positives + 1) / k. Where there is no assignment yet, the
        number of boxes takes the place of the positive anchors.
        """
        counts = torch.zeros(2, dtype=torch.int64, device=self.world.device)
        for batch, assignment in zip(batches, assignments, strict=True):
            counts[0] += _num_boxes(batch) if assignment is None else assignment.num_positives
        counts[1] += stop
        positives, num_stops = self.world.sum(counts).unbind()
        return (positives + 1) / self.world.size, num_stops

    def _normalise_again(
        self, losses: Sequence[Tensor], total_scores: Sequence[Tensor | int], before: Tensor
    ) -> list[Tensor]:
        """Divide the gradient and the losses by N of the step instead of ``before``; return the losses."""
        total = torch.zeros((), device=self.world.device)
        for part in total_scores:
            total += part
        factor = before * self.world.size / (self.world.sum(total) + 1)
        torch._foreach_mul_([p.grad for p in self.parameters if p.grad is not None], factor)
        return [part * factor for part in losses]

    def _synchronise(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Let processes exchange gradients only in the last micro-batch of a step."""
        if last or self.world.size == 1:
            return contextlib.nullcontext()
        return self.network.no_sync()  # type: ignore[operator]

    def _read(
        self, losses: Sequence[Tensor], norm: Tensor, num_stops: Tensor, micro_batches: Sequence[Batch]
    ) -> StepResult:
        """Copy the numbers of the step to the host in one transfer, and check them before the weights change."""
        total = torch.zeros_like(losses[0])
        for part in losses:
            total += part
        numbers = torch.cat([total, norm.float().reshape(1), num_stops.float().reshape(1), *losses]).tolist()
        sums, (norm_value, stops), parts = numbers[:2], numbers[2:4], np.reshape(numbers[4:], (-1, 2))
        for batch, values in zip(micro_batches, parts, strict=True):
            if not np.isfinite(values).all():
                raise NonFiniteError(f"loss is {values.sum()}", [batch])
        if not self.scaler.is_enabled() and not np.isfinite(norm_value):  # the scaler itself skips such a step
            raise NonFiniteError(f"gradient norm is {norm_value}", micro_batches)
        return StepResult(dict(zip(LOSSES, sums, strict=True)), stop=stops > 0)


def _num_boxes(batch: Batch) -> int:
    return sum(len(target.boxes) for target in batch.targets)


def seed_everything(seed: int, step: int, rank: int = 0) -> None:
    """Make torch's random numbers, on every device, a function of (seed, step, rank)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))
