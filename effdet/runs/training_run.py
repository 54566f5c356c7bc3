"""A training run: epochs, with their checkpoints, evaluations and lines in the log."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from effdet.detector.views import PLAIN, Views
from effdet.runs.checkpoints import Checkpoints
from effdet.runs.fusion_weights import FusionLog
from effdet.runs.log import RunLog
from effdet.structures import Batch
from effdet.training.checkpoint import save_checkpoint
from effdet.training.interrupt import Interrupted, StopRequest
from effdet.training.loop import Loader, Progress, StepReport, sum_numbers, train_epoch
from effdet.training.step import NonFiniteError, Trainer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How long a run is, and what happens when; counted in epochs."""

    epochs: int
    accumulate: int = 1  # micro-batches per step
    plain_start: int = 0  # epochs at the start without mosaic and mixup
    plain_epochs: int = 0  # epochs at the end without them
    evaluate_every: int = 1
    patience: int | None = None  # evaluations without a better AP after which the run ends

    def is_plain(self, epoch: int) -> bool:
        """Return whether an epoch, counted from 0, is without mosaic and mixup."""
        return epoch < self.plain_start or epoch >= self.epochs - self.plain_epochs

    def steps_per_epoch(self, loader: Loader) -> int:
        """Return the optimizer steps of an epoch; the last may have fewer micro-batches."""
        return math.ceil(loader.steps_per_epoch / self.accumulate)


@dataclass
class TrainingRun:
    """The parts of a run; ``run`` trains to the end from wherever ``progress`` stands.

    Args:
        trainer: Does the steps.
        loader: Micro-batches of this process.
        progress: Where the run stands.
        checkpoints: What it needs to go on.
        evaluate: Scores a model on all processes: its result, the same on each, has ``ap``.
        save_best: Called on the main process with a model that scored better than all before.
        log: Of the main process; silent elsewhere.
        plan: Numbers of epochs.
        fusion_log: Records the fusion weights of the neck.
        views: How the model looks at the validation images.
        show_first_batch: Called on the main process with the first micro-batch of the run, before it is trained on.
    """

    trainer: Trainer
    loader: Loader
    progress: Progress
    checkpoints: Checkpoints
    evaluate: Callable[[Any], Mapping[str, float]]
    save_best: Callable[[Any], None]
    log: RunLog
    plan: Plan
    fusion_log: FusionLog | None = None
    views: Views = PLAIN
    show_first_batch: Callable[[Batch], None] | None = None
    _unreadable: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._stop = StopRequest(patient=self.trainer.world.size > 1)

    def run(self, *, after_epoch: Callable[[list[dict[str, float]]], None] | None = None) -> None:
        """Train to the end.

        Args:
            after_epoch: Called on every process with the rows of all epochs so far, when the checkpoint is written.

        Raises:
            FloatingPointError: If a loss or gradient is not finite; the batch is saved in the run folder.
            Interrupted: On a signal to stop, at the end of the step, with the checkpoint written.
        """
        progress = self.progress
        with self._stop.listening():
            self.checkpoints.save()
            if self.fusion_log is not None:
                self.fusion_log.step(progress.step)
            if progress.history:
                self.log.write_table(progress.history)  # without rows of epochs that are to be repeated
            while progress.epoch < self.plan.epochs and not self._has_stalled():
                self._train_epoch()
                progress.history.append(self._finish_epoch())
                progress.sums = {}
                self.log.epoch(progress.history)
                self.checkpoints.save()
                if after_epoch is not None:
                    after_epoch(progress.history)
            if progress.history and not any("ap" in row for row in progress.history):
                # A resumed run that was made shorter than its first evaluation.
                progress.history[-1] |= self._evaluate()
                self.log.write_table(progress.history)
                self.checkpoints.save()
            if progress.epoch < self.plan.epochs:
                logger.info(
                    "no better AP in %d evaluations: the run ends after epoch %d", self.plan.patience, progress.epoch
                )

    def _has_stalled(self) -> bool:
        """Return whether the last ``patience`` evaluations were no better than one before them."""
        patience = self.plan.patience
        scores = [row["ap"] for row in self.progress.history if "ap" in row]
        return patience is not None and len(scores) > patience and max(scores[-patience:]) <= max(scores[:-patience])

    def _train_epoch(self) -> None:
        plan, progress = self.plan, self.progress
        steps_per_epoch = plan.steps_per_epoch(self.loader)
        first = progress.step - progress.epoch * steps_per_epoch
        if first == steps_per_epoch:
            return  # only the evaluation of this epoch is left
        batches = self.loader.epoch(progress.epoch, first * plan.accumulate, plain=plan.is_plain(progress.epoch))
        if progress.step == 0:
            batches = self._shown(batches)
        try:
            finished = train_epoch(
                self.trainer,
                batches,
                progress,
                accumulate=plan.accumulate,
                stop=self._stop,
                after_step=self._after_step,
            )
        except NonFiniteError as error:
            self._fail(error)
        if not finished:
            self._interrupt()

    def _shown(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Yield the batches, and show the first one."""
        for number, batch in enumerate(batches):
            if number == 0 and self.show_first_batch is not None and self.trainer.world.is_main:
                self.show_first_batch(batch)
            yield batch

    def _interrupt(self) -> NoReturn:
        self.checkpoints.save()
        raise Interrupted

    def _after_step(self, report: StepReport) -> None:
        for name in dict.fromkeys(report.unreadable):
            if name not in self._unreadable:
                self._unreadable.add(name)
                logger.warning("%s cannot be decoded; another image takes its place", name)
        self.log.step(report)
        if self.fusion_log is not None:
            self.fusion_log.step(report.step)
        self.checkpoints.save_if_due()

    def _finish_epoch(self) -> dict[str, float]:
        """Return the row of the epoch, with scores where it is time for them."""
        progress, trainer = self.progress, self.trainer
        epoch = progress.epoch + 1
        # Of the last step, which a run that was resumed behind it did not do itself.
        lr = trainer.settings.learning_rate(progress.step - 1)
        row: dict[str, float] = {"epoch": epoch, "step": progress.step, "lr": lr}
        row |= progress.epoch_means(trainer.world)
        if epoch % self.plan.evaluate_every == 0 or epoch == self.plan.epochs:
            if sum_numbers([float(self._stop.made)], trainer.world)[0] > 0:
                self._interrupt()  # a signal may have come after the processes agreed on the last step
            self.checkpoints.save()  # evaluation may take long
            row |= self._evaluate()
        return row

    def _evaluate(self) -> dict[str, float]:
        average, world = self.trainer.ema.model, self.trainer.world
        world.copy_buffers(average)
        with self._stop.granted_at_once():
            scores = dict(self.evaluate(average))
        if scores["ap"] >= self.progress.best:  # of equals the later one, which has learnt longer
            self.progress.best = scores["ap"]
            if world.is_main:
                self.save_best(average)
        return scores

    def _fail(self, error: NonFiniteError) -> NoReturn:
        """Save the batches and stop the run; the weights are those of the last good step."""
        step, rank = self.progress.step, self.trainer.world.rank
        path = self.checkpoints.folder / f"non_finite_batch_rank{rank}.pt"
        save_checkpoint(path, {"step": step, "batches": [_to_dict(batch) for batch in error.batches]})
        ids = ", ".join(f"{image_id}" for batch in error.batches for image_id in batch.image_ids)
        raise FloatingPointError(
            f"{error} at step {step} on the images with ids [{ids}], saved in {path}; "
            "a lower train.lr or train.clip_norm may help"
        ) from error


def _to_dict(batch: Batch) -> dict[str, Any]:
    targets = [dict(vars(target)) for target in batch.targets]
    return {**vars(batch), "targets": targets, "unreadable": list(batch.unreadable)}
