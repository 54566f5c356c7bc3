"""The training loop: exact, resumable at every optimizer step, the same on one process or many."""

from __future__ import annotations

import contextlib
import copy
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from effdet.config import Precision
from effdet.structures import Batch, Predictions
from effdet.training.checkpoint import check_tensors, load_tensors, save_checkpoint, tensors_of
from effdet.training.distributed import World
from effdet.training.ema import EMA
from effdet.training.freezing import train_mode
from effdet.training.interrupt import Interrupted, StopRequest
from effdet.training.losses import DetectionLoss
from effdet.training.resume import check_same_data, check_state, check_steps, load_optimizer
from effdet.training.schedule import bn_momentum, set_learning_rate
from effdet.training.targets import Assignment, assign

logger = logging.getLogger(__name__)

AUTOCAST = {Precision.fp32: torch.float32, Precision.bf16: torch.bfloat16, Precision.fp16: torch.float16}
LOSSES = ("class_loss", "box_loss")


class Loader(Protocol):
    """Training batches as a pure function of epoch and position: the loop can start anywhere."""

    steps_per_epoch: int  # micro-batches

    def epoch(self, epoch: int, start_step: int = 0, *, plain: bool = False) -> Iterator[Batch]:
        """Yield the micro-batches of an epoch from ``start_step`` on; ``plain``: without mosaic and mixup."""
        ...


class Log(Protocol):
    """What the loop tells while it trains."""

    total_steps: int

    def step(self, step: int, *, epoch: int, lr: float, loss: float, images_per_second: float) -> None:
        """Show that ``step`` optimizer steps are done; ``epoch`` counts from 1."""
        ...

    def epoch(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Take the rows of all epochs so far; the last is new."""
        ...

    def write_table(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Take the rows of all epochs so far; none is new."""
        ...


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How the loop runs; units and meaning as in ``effdet.config.TrainConfig``."""

    epochs: int
    learning_rate: Callable[[int], float]  # of a step, counted from 0
    accumulate: int = 1  # micro-batches per step
    plain_epochs: int = 0
    clip_norm: float = 10.0
    precision: Precision = Precision.fp32
    channels_last: bool = True
    compile: bool = False
    evaluate_every: int = 1  # epochs
    checkpoint_minutes: float = 5.0
    seed: int = 0
    num_images: int = 0  # of the training data, which a resumed run must find unchanged
    fingerprints: Mapping[str, Any] = field(default_factory=dict)  # of the train and the val split, likewise


@dataclass
class Progress:
    """Where a run stands; everything but weights and optimiser that it needs to go on."""

    step: int = 0  # optimizer steps done
    history: list[dict[str, float]] = field(default_factory=list)  # one row per finished epoch
    best: float = -math.inf  # AP
    sums: dict[str, float] = field(default_factory=dict)  # of the unfinished epoch


class Trainer:
    """Trains a detector; ``run`` does it all.

    Every random number is a function of (seed, step, process): torch's generator is seeded anew at every step, and the
    loader knows its place. A run that continues from a checkpoint therefore repeats exactly what it would have done.

    N of the losses counts the positive anchors of the whole step, over its micro-batches and all processes, so that
    k processes or micro-batches compute the gradient of one.

    Args:
        model: Detector with ``network``, ``normalise`` and ``anchors``, on its device.
        criterion: Loss of a batch.
        optimizer: Of the parameters that learn.
        ema: Average of the model, which is evaluated.
        loader: Micro-batches of this process.
        evaluate: Scores a model on all processes: its result, the same on each, has ``ap``.
        save_best: Called on the main process with a model that scored better than all before.
        log: Of the main process; silent elsewhere.
        folder: Run folder, for checkpoints.
        world: The processes of the run.
        frozen: Modules that stay in eval mode.
        settings: Numbers and switches.
    """

    def __init__(
        self,
        model: Any,
        *,
        criterion: DetectionLoss,
        optimizer: Optimizer,
        ema: EMA[Any],
        loader: Loader,
        evaluate: Callable[[Any], Mapping[str, float]],
        save_best: Callable[[Any], None],
        log: Log,
        folder: Path,
        world: World,
        frozen: Sequence[nn.Module] = (),
        settings: Settings,
    ) -> None:
        self.model, self.criterion, self.optimizer, self.ema = model, criterion, optimizer, ema
        self.loader, self.evaluate, self.save_best = loader, evaluate, save_best
        self.log, self.folder, self.world, self.frozen, self.settings = log, folder, world, frozen, settings
        self.progress = Progress()
        self.log.total_steps = self.total_steps
        self.parameters = [p for group in optimizer.param_groups for p in group["params"]]
        self.scaler = torch.amp.GradScaler(world.device.type, enabled=settings.precision is Precision.fp16)
        self.network = world.wrap(model.network)
        if settings.compile:
            self.network = torch.compile(self.network)  # type: ignore[assignment]
        self._stop = StopRequest()
        self._unreadable: set[str] = set()
        self._last_checkpoint = time.monotonic()

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps of one epoch; the last may have fewer micro-batches."""
        return math.ceil(self.loader.steps_per_epoch / self.settings.accumulate)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.settings.epochs * self.steps_per_epoch

    # ------------------------------------------------------------------ the run

    def run(self) -> Progress:
        """Train to the end, from wherever ``load_state_dict`` has left the run.

        Raises:
            FloatingPointError: If a loss or gradient is not finite; the batch is saved in the run folder.
            Interrupted: On Ctrl-C or SIGTERM, at the end of the step, with the checkpoint written.
        """
        with self._stop.listening():
            self.save_checkpoint()
            if self.progress.history:
                self.log.write_table(self.progress.history)  # without rows of epochs that are to be repeated
            while len(self.progress.history) < self.settings.epochs:
                self._train_epoch(len(self.progress.history))
                self._finish_epoch()
                self.save_checkpoint()
        return self.progress

    def _train_epoch(self, epoch: int) -> None:
        train_mode(self.model, self.frozen)
        first = self.progress.step - epoch * self.steps_per_epoch
        if first == self.steps_per_epoch:
            return  # only the evaluation of this epoch is left
        plain = epoch >= self.settings.epochs - self.settings.plain_epochs
        batches = self.loader.epoch(epoch, first * self.settings.accumulate, plain=plain)
        started = time.monotonic()
        while micro_batches := self._fetch(batches):
            losses = self._step(micro_batches)
            now = time.monotonic()
            self._count(losses, micro_batches, seconds=now - started)
            started = now
            if self._stop.made:
                self._interrupt()
            if now - self._last_checkpoint >= 60 * self.settings.checkpoint_minutes:
                self.save_checkpoint()

    def _fetch(self, batches: Iterator[Batch]) -> list[Batch]:
        """Return the micro-batches of the next step; none at the end of the epoch."""
        try:
            return list(itertools.islice(batches, self.settings.accumulate))
        except RuntimeError:
            if self._stop.made:  # the signal that stops the run has ended the loader processes already
                self._interrupt()
            raise

    def _interrupt(self) -> NoReturn:
        self.save_checkpoint()
        raise Interrupted

    def _step(self, micro_batches: list[Batch]) -> dict[str, float]:
        """Do one optimizer step and return its losses on this process."""
        settings, step = self.settings, self.progress.step
        seed_everything(settings.seed, step, self.world.rank)
        set_learning_rate(self.optimizer, settings.learning_rate(step))
        self.model.network.set_bn_momentum(bn_momentum(step))

        micro_batches = [batch.to(self.world.device) for batch in micro_batches]
        anchors = [self.model.anchors(tuple(batch.images.shape[-2:]), self.world.device) for batch in micro_batches]
        assignments = [
            assign(a, batch.targets, positive_iou=self.criterion.positive_iou)
            for a, batch in zip(anchors, micro_batches, strict=True)
        ]
        normaliser = self._agree(sum(assignment.num_positives for assignment in assignments))

        self.optimizer.zero_grad(set_to_none=True)
        totals = torch.zeros(len(LOSSES), device=self.world.device)
        for index, parts in enumerate(zip(micro_batches, anchors, assignments, strict=True)):
            with self._synchronise(last=index == len(micro_batches) - 1):
                totals += self._backward(*parts, normaliser)
        self._update(micro_batches)
        self.ema.update(self.model)
        self.progress.step += 1
        return dict(zip(LOSSES, totals.tolist(), strict=True))

    def _backward(self, batch: Batch, anchors: Tensor, assignment: Assignment, normaliser: Tensor) -> Tensor:
        """Add the gradient of one micro-batch and return its losses: (2,)."""
        images = self.model.normalise(batch.images, batch.content_sizes)
        if self.settings.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        dtype = AUTOCAST[self.settings.precision]
        with torch.autocast(images.device.type, dtype=dtype, enabled=dtype is not torch.float32):
            predictions: Predictions = self.network(images)
        losses = self.criterion(predictions, anchors, batch.targets, assignment=assignment, normaliser=normaliser)
        parts = torch.stack([losses[name] for name in LOSSES])
        if not torch.isfinite(parts).all():
            self._fail(f"loss is {parts.sum().item()}", [batch])
        self.scaler.scale(parts.sum()).backward()
        return parts.detach()

    def _update(self, micro_batches: list[Batch]) -> None:
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.settings.clip_norm)
        if not self.scaler.is_enabled() and not torch.isfinite(norm):  # the scaler itself skips such a step
            self._fail(f"gradient norm is {norm.item()}", micro_batches)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _agree(self, num_positives: int) -> Tensor:
        """Return N of this step, and let all processes stop at the same step if one of them shall.

        DDP takes the mean over k processes, hence N = (Σ positives + 1) / k.
        """
        counts = torch.tensor([num_positives, self._stop.made], dtype=torch.float64, device=self.world.device)
        positives, stop = self.world.sum(counts).unbind()
        if self.world.size > 1:
            self._stop.made = bool(stop > 0)
        return ((positives + 1) / self.world.size).float()

    def _synchronise(self, *, last: bool) -> contextlib.AbstractContextManager[Any]:
        """Let processes exchange gradients only in the last micro-batch of a step."""
        if last or self.world.size == 1:
            return contextlib.nullcontext()
        return self.network.no_sync()  # type: ignore[operator]

    def _fail(self, what: str, batches: list[Batch]) -> NoReturn:
        """Save the batches and stop the run; the weights are those of the last good step."""
        path = self.folder / f"non_finite_batch_rank{self.world.rank}.pt"
        save_checkpoint(path, {"step": self.progress.step, "batches": [_plain(batch) for batch in batches]})
        ids = [i for batch in batches for i in batch.image_ids]
        raise FloatingPointError(
            f"{what} at step {self.progress.step} on the images with ids {ids}, saved in {path}; "
            "a lower train.lr or train.clip_norm may help"
        )

    # ------------------------------------------------------------------ between the steps

    def _count(self, losses: dict[str, float], micro_batches: list[Batch], *, seconds: float) -> None:
        """Add a step to the sums of its epoch, and tell about it."""
        images = self.world.size * sum(len(batch.targets) for batch in micro_batches)
        sums, loss = self.progress.sums, sum(losses.values())
        for name, value in {**losses, "loss": loss, "steps": 1.0, "images": float(images), "seconds": seconds}.items():
            sums[name] = sums.get(name, 0.0) + value
        for name in {name for batch in micro_batches for name in batch.unreadable} - self._unreadable:
            self._unreadable.add(name)
            logger.warning("%s cannot be decoded; another image takes its place", name)
        self.log.step(
            self.progress.step,
            epoch=len(self.progress.history) + 1,
            lr=self.optimizer.param_groups[0]["lr"],
            loss=loss,
            images_per_second=images / max(seconds, 1e-9),
        )

    def _finish_epoch(self) -> None:
        progress, epoch = self.progress, len(self.progress.history) + 1
        names = ("loss", *LOSSES)
        steps = max(1.0, progress.sums.get("steps", 0.0))
        local = torch.tensor([progress.sums.get(name, 0.0) / steps for name in names], dtype=torch.float64)
        means = (self.world.sum(local.to(self.world.device)) / self.world.size).tolist()
        row: dict[str, float] = {"epoch": epoch, "step": progress.step, "lr": self.optimizer.param_groups[0]["lr"]}
        row |= dict(zip(names, means, strict=True))
        row["images_per_second"] = progress.sums.get("images", 0.0) / max(progress.sums.get("seconds", 0.0), 1e-9)

        if epoch % self.settings.evaluate_every == 0 or epoch == self.settings.epochs:
            self.save_checkpoint()  # evaluation may take long
            row |= self._evaluate()
        progress.history.append(row)
        progress.sums = {}
        self.log.epoch(progress.history)

    def _evaluate(self) -> dict[str, float]:
        self.world.copy_buffers(self.ema.model)
        with self._stop.granted_at_once():
            scores = dict(self.evaluate(self.ema.model))
        if scores["ap"] >= self.progress.best:  # of equals the later one, which has learnt longer
            self.progress.best = scores["ap"]
            if self.world.is_main:
                self.save_best(self.ema.model)
        return scores

    # ------------------------------------------------------------------ checkpoints

    def save_checkpoint(self) -> None:
        """Write last.ckpt, on the main process."""
        if self.world.is_main:
            save_checkpoint(self.folder / "last.ckpt", self.state_dict())
        self._last_checkpoint = time.monotonic()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on, as tensors and plain types."""
        return {
            "model": tensors_of(self.model),
            "ema": self.ema.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "progress": copy.deepcopy(vars(self.progress)),
            "data": self._data(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Everything is checked before anything is changed.

        Raises:
            ValueError: If the checkpoint is damaged, or that run had other data, another optimizer or another model.
        """
        path = self.folder / "last.ckpt"
        check_state(state, path)
        check_same_data(state["data"], self._data(), path)
        check_steps(state["progress"], steps_per_epoch=self.steps_per_epoch, path=path)
        check_tensors(self.model, state["model"])
        check_tensors(self.ema.model, state["ema"]["model"])
        progress = Progress(**copy.deepcopy(state["progress"]))
        load_optimizer(self.optimizer, state["optimizer"], step=progress.step, scaler=state["scaler"], path=path)
        load_tensors(self.model, state["model"])
        self.ema.load_state_dict(state["ema"])
        self.scaler.load_state_dict(state["scaler"])
        self.progress = progress

    def _data(self) -> dict[str, Any]:
        return {
            "images": self.settings.num_images,
            "steps_per_epoch": self.steps_per_epoch,
            "fingerprints": dict(self.settings.fingerprints),
        }


def seed_everything(seed: int, step: int, rank: int = 0) -> None:
    """Make torch's random numbers, on every device, a function of (seed, step, rank)."""
    torch.manual_seed(int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0]))


def _plain(batch: Batch) -> dict[str, Any]:
    targets = [dict(vars(target)) for target in batch.targets]
    return {**vars(batch), "targets": targets, "unreadable": list(batch.unreadable)}
