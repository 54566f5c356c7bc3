"""One trial of a search: measure the cost of an architecture, train it a little, report its AP after each epoch."""

from __future__ import annotations

import contextlib
import logging
import math
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effdet.adaptation.measurement import Stopwatch
from effdet.adaptation.search.reward import Reward
from effdet.config import Config, Freeze
from effdet.models.architecture import Architecture
from effdet.models.cost import network_cost
from effdet.runs.architecture import with_architecture
from effdet.runs.auto_precision import comparable
from effdet.runs.folder import newest_run
from effdet.runs.train import Run, train

logger = logging.getLogger(__name__)

EVALUATIONS = 4  # of a trial: enough to see whether it falls behind
RUN = "run"  # the run folder inside the folder of a trial


@dataclass(frozen=True, kw_only=True)
class Price:
    """What a search pays with: milliseconds of the network in a runtime, or its multiply-adds, which cost no time.

    Attributes:
        stopwatch: How milliseconds are measured; None: multiply-adds are counted.
    """

    stopwatch: Stopwatch | None = None

    @property
    def unit(self) -> str:
        """Of the cost: "ms" or "MACs"."""
        return "MACs" if self.stopwatch is None else "ms"

    def of(self, architecture: Architecture, num_classes: int) -> float:
        """Return what one image costs.

        Raises:
            ValueError: If the network cannot be built, or the runtime cannot compute it.
        """
        if self.stopwatch is None:
            return float(network_cost(architecture, num_classes=num_classes).macs)
        return self.stopwatch.measure(architecture, num_classes).median


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a trial is trained."""

    epochs: int
    images: int  # training images of an epoch

    @classmethod
    def of(cls, shown: int, train_images: int) -> Plan:
        """Return the plan that shows about so many training images, in at least four epochs.

        Raises:
            ValueError: If a number is below 1.
        """
        if shown < 1:
            raise ValueError(f"the images of a trial must be 1 or more, got {shown}")
        epochs = max(EVALUATIONS, round(shown / train_images))
        return cls(epochs=epochs, images=min(train_images, math.ceil(shown / EVALUATIONS)))


def trial_config(config: Config, architecture: Architecture, plan: Plan, folder: Path) -> Config:
    """Return the config of a trial's run.

    Args:
        config: That of the search.
        architecture: Of the trial; its ``image_size`` becomes the input.
        plan: How it is trained.
        folder: Of the trial.
    """
    found = found_config(config, architecture)
    warmup = min(found.train.warmup_of(plan.epochs), plan.epochs / EVALUATIONS)
    return replace(
        found,
        data=replace(found.data, max_train_images=plan.images),
        train=replace(found.train, epochs=plan.epochs, warmup_epochs=warmup),
        eval=replace(found.eval, every=max(1, round(plan.epochs / EVALUATIONS))),
        run=replace(found.run, dir=str(folder), name=RUN, report=False),  # nobody reads so many
    )


def found_config(config: Config, architecture: Architecture) -> Config:
    """Return the config of a search with an architecture that it found, to train it in full.

    A backbone that is put together from blocks has no weights to start from.
    """
    if architecture.backbone_blocks is not None:
        config = from_random_weights(config)
    data = replace(config.data, image_size=architecture.image_size, long_side=None, max_long_side=None)
    return replace(config, model=with_architecture(config.model, architecture), data=data)


def from_random_weights(config: Config) -> Config:
    """Return the config without weights of a backbone, and with no layer kept as it starts."""
    return replace(
        config,
        model=replace(config.model, backbone_weights=None),
        train=replace(config.train, freeze=Freeze.none, freeze_bn=False),
    )


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What came of a trial."""

    ap: float  # the best of its evaluations, in [0, 1]
    epochs: int
    seconds: float  # of the training, in this process


def train_trial(config: Config, folder: Path, *, after_evaluation: Callable[[int, float], None]) -> Scored:
    """Train a trial, or go on where its folder stands, and return its score.

    ``last.ckpt`` is deleted at the end; ``best.safetensors``, ``metrics.csv`` and the rest of the run folder stay.

    Args:
        config: Of ``trial_config``.
        folder: Of the trial.
        after_evaluation: Called with the epoch and the best AP so far. What it raises ends the trial.
    """
    started = time.monotonic()

    def after_epoch(history: list[dict[str, float]]) -> None:
        if "ap" in history[-1]:
            after_evaluation(int(history[-1]["epoch"]), best_ap(history))

    begun = _begun_run(folder)
    if begun is None:
        config = comparable(config)
    try:
        run: Run = train(config, resume=begun, after_epoch=after_epoch)
    except KeyboardInterrupt:
        raise  # the checkpoint stays, to go on later
    except BaseException:
        _remove_checkpoint(folder)
        raise
    _remove_checkpoint(folder)
    return Scored(ap=best_ap(run.history), epochs=len(run.history), seconds=time.monotonic() - started)


def best_ap(history: list[dict[str, float]]) -> float:
    """Return the best AP of the rows of a run; no AP, which is −1, counts as 0."""
    return max(0.0, *(row["ap"] for row in history if "ap" in row))


def _begun_run(folder: Path) -> Path | None:
    """Return the run folder that an earlier process began; remove one that it had no time to begin."""
    try:
        return newest_run(folder, RUN)
    except FileNotFoundError:
        for rest in folder.glob(f"{RUN}*"):
            shutil.rmtree(rest)
        return None


def _remove_checkpoint(folder: Path) -> None:
    for checkpoint in folder.glob(f"{RUN}*/last.ckpt"):
        with contextlib.suppress(OSError):
            checkpoint.unlink()


def summary(number: int, scored: Mapping[str, Any], reward: Reward, unit: str) -> str:
    """Return a line about a trial for the log."""
    ap, cost = scored["ap"], scored["cost"]
    return f"trial {number}: AP {ap:.4f}, {as_text(cost, unit)}, reward {reward(ap, cost):.4f}"


def as_text(cost: float, unit: str) -> str:
    """Return a cost as people write it."""
    return f"{cost:.1f} ms" if unit == "ms" else f"{cost / 1e9:.3f} GMACs"
