"""``last.ckpt`` of a run: everything that it needs to go on."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from effdet.training.checkpoint import check_tensors, load_tensors, save_checkpoint, tensors_of
from effdet.training.loop import Progress
from effdet.training.resume import check_same_data, check_state, check_steps, load_optimizer
from effdet.training.step import Trainer


@dataclass
class Checkpoints:
    """Writes ``last.ckpt`` on the main process, and brings a run back to where it was.

    Args:
        folder: Run folder.
        trainer: Its weights, average, optimizer and scaler are kept.
        progress: Kept too.
        steps_per_epoch: Optimizer steps.
        num_images: Of the training data.
        fingerprints: Of the training and the validation data; see ``check_same_data``.
        description: Of the model, as plain values; with it the file can be loaded as weights.
        minutes: Longest time between two checkpoints.
    """

    folder: Path
    trainer: Trainer
    progress: Progress
    steps_per_epoch: int
    num_images: int = 0
    fingerprints: Mapping[str, Any] = field(default_factory=dict)
    description: Mapping[str, Any] = field(default_factory=dict)
    minutes: float = 5.0

    def __post_init__(self) -> None:
        self._written = time.monotonic()

    @property
    def path(self) -> Path:
        """The file."""
        return self.folder / "last.ckpt"

    def save(self) -> None:
        """Write the file, on the main process."""
        if self.trainer.world.is_main:
            save_checkpoint(self.path, self.state_dict())
        self._written = time.monotonic()

    def save_if_due(self) -> None:
        """Write the file if the last time was ``minutes`` ago."""
        if time.monotonic() - self._written >= 60 * self.minutes:
            self.save()

    def state_dict(self) -> dict[str, Any]:
        """Return all that a run needs to go on, as tensors and plain types."""
        trainer = self.trainer
        return {
            "model": tensors_of(trainer.model),
            "ema": trainer.ema.state_dict(),
            "optimizer": trainer.optimizer.state_dict(),
            "scaler": trainer.scaler.state_dict(),
            "progress": copy.deepcopy(vars(self.progress)),
            "data": self._data(),
            "description": dict(self.description),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a ``state_dict``.

        Everything is checked before anything is changed.

        Raises:
            ValueError: If the checkpoint is damaged, or that run had other data, another optimizer or another model.
        """
        trainer = self.trainer
        check_state(state, self.path)
        check_same_data(state["data"], self._data(), self.path)
        check_steps(state["progress"], steps_per_epoch=self.steps_per_epoch, path=self.path)
        check_tensors(trainer.model, state["model"])
        check_tensors(trainer.ema.model, state["ema"]["model"])
        progress = copy.deepcopy(state["progress"])
        scaler, step = state["scaler"], progress["step"]
        load_optimizer(trainer.optimizer, state["optimizer"], step=step, scaler=scaler, path=self.path)
        load_tensors(trainer.model, state["model"])
        trainer.ema.load_state_dict(state["ema"])
        if scaler:  # empty where the run was not in fp16 before
            trainer.scaler.load_state_dict(scaler)
        vars(self.progress).update(progress)

    def _data(self) -> dict[str, Any]:
        return {
            "images": self.num_images,
            "steps_per_epoch": self.steps_per_epoch,
            "fingerprints": dict(self.fingerprints),
        }
