"""A learning-rate range test: train for some steps with a rate that rises, and see where the loss falls fastest.

L. N. Smith, "Cyclical Learning Rates for Training Neural Networks", WACV 2017, section 3.3.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effdet.config import Config, Optimizer
from effdet.progress import Report, report_nothing
from effdet.runs.auto_batch import with_batch_size
from effdet.runs.auto_precision import with_precision
from effdet.runs.build import build_loader, build_trainer
from effdet.runs.data import read_for_training
from effdet.runs.device import choose_device
from effdet.runs.process_state import huge_pages, process_state
from effdet.runs.resolve import resolve
from effdet.runs.start_weights import build_model
from effdet.training.distributed import World
from effdet.training.schedule import scale_learning_rate
from effdet.training.step import NonFiniteError, Trainer

if TYPE_CHECKING:
    from effdet.structures import Batch

logger = logging.getLogger(__name__)

SWEEPS = {Optimizer.adamw: (1e-5, 1.0), Optimizer.sgd: (1e-4, 10.0)}  # of train.lr
STEPS = 100
HALF_WINDOW = 5  # steps before and after, over which losses are averaged; a mean of those before alone would lag
DIVERGED = 4.0  # times the lowest loss, from which the test ends


@dataclass(frozen=True)
class LrRange:
    """What a learning-rate range test found.

    Attributes:
        rates: ``train.lr`` of each step, rising; the optimiser's own rate follows from it and the batch size.
        losses: Loss of each step.
        smoothed: The mean of each with the five before and after it.
        suggested: ``train.lr`` where the smoothed loss falls fastest.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    smoothed: tuple[float, ...]
    suggested: float

    @classmethod
    def of(cls, rates: Sequence[float], losses: Sequence[float]) -> LrRange:
        """Return the result of a sweep.

        Raises:
            ValueError: If there are fewer than ten steps.
        """
        if len(losses) < 10:
            raise ValueError(
                f"a learning-rate range test needs ten steps before the loss is not finite, got {len(losses)}; "
                "start with lower rates"
            )
        smoothed = smooth(losses)
        return cls(tuple(rates), tuple(losses), tuple(smoothed), suggest(rates, smoothed))

    def plot(self, picture: str | Path) -> None:
        """Draw losses against the rates, with the suggested one, as a PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 4.5), dpi=110, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot(self.rates, self.losses, color="0.75", label="loss of each step")
        axes.plot(self.rates, self.smoothed, label="smoothed")
        axes.axvline(self.suggested, color="tab:red", linestyle="--", label=f"train.lr={self.suggested:.2g}")
        axes.set(title="Learning-rate range test", xlabel="train.lr", ylabel="loss", xscale="log")
        axes.set_ylim(0.9 * min(self.smoothed), 1.2 * max(self.smoothed[0], 1.5 * min(self.smoothed)))
        axes.grid(alpha=0.3)
        axes.legend()
        figure.savefig(Path(picture))


def find_lr(
    config: Config,
    *,
    low: float | None = None,
    high: float | None = None,
    steps: int = STEPS,
    report: Report = report_nothing,
) -> LrRange:
    """Find a learning rate for a training, as ``effdet train CONFIG --find-lr`` does.

    The model of the config trains for some steps on its training images, with a rate that grows exponentially, until
    the smoothed loss is four times its lowest value or not finite. Nothing is written, and the same config gives the
    same result.

        found = find_lr(load_config("custom", ["data.root=photos"]))
        found.plot("lr.png")
        run = train(load_config("custom", ["data.root=photos", f"train.lr={found.suggested}"]))

    Args:
        config: What ``load_config`` returns.
        low: First ``train.lr``; None: 1e-5 for AdamW, 1e-4 for SGD.
        high: Last one; None: 1 for AdamW, 10 for SGD.
        steps: Optimizer steps between them.
        report: Called after each step.

    Raises:
        ConfigError, DataError, FileNotFoundError, ValueError, RuntimeError: As ``effdet.train``.
        ValueError: If the rates or steps are out of range, or the loss is not finite within ten steps.
    """
    first, last = SWEEPS[config.train.optimizer]
    low, high = first if low is None else low, last if high is None else high
    if not 0 < low < high < math.inf:
        raise ValueError(f"the rates must be 0 < low < high, got {low} and {high}")
    if steps < 10:
        raise ValueError(f"steps must be 10 or more, got {steps}")
    rates = np.geomspace(low, high, steps).tolist()
    world = World(choose_device(config.run.device))
    with huge_pages(), process_state(world.device, seed=config.run.seed, threads=config.run.threads):
        trainer, batches = _start(config, rates, world)
        losses = list(_sweep(trainer, batches, config.train.accumulate, steps, report))
    return LrRange.of(rates[: len(losses)], losses)


def _start(config: Config, rates: Sequence[float], world: World) -> tuple[Trainer, Iterator[Batch]]:
    """Return what does the steps, and endless batches."""
    config, train, _ = read_for_training(config)
    config = resolve(config, train)
    model = build_model(config, train, resumed=False).to(world.device)
    config = with_batch_size(with_precision(config, model, train, world), train, world)
    loader = build_loader(config, model, train, world)
    trainer = build_trainer(config, model, world, steps_per_epoch=loader.steps_per_epoch)
    size, kind = config.train.batch_size, config.train.optimizer
    trainer.settings = replace(
        trainer.settings, learning_rate=lambda step: scale_learning_rate(rates[step], size, kind)
    )
    return trainer, itertools.chain.from_iterable(loader.epoch(epoch) for epoch in itertools.count())


def _sweep(trainer: Trainer, batches: Iterator[Batch], accumulate: int, steps: int, report: Report) -> Iterator[float]:
    """Yield the loss of each step, until it diverges."""
    trainer.train_mode()
    losses: list[float] = []
    for step in range(steps):
        try:
            result = trainer.step(list(itertools.islice(batches, accumulate)), step)
        except NonFiniteError as error:
            logger.info("the sweep ends at step %d: %s", step, error)
            return
        losses.append(sum(result.losses.values()))
        yield losses[-1]
        report("testing learning rates", step + 1, steps)
        smoothed = smooth(losses)
        if len(losses) >= 10 and smoothed[-1] > DIVERGED * min(smoothed):
            return


def smooth(losses: Sequence[float]) -> list[float]:
    """Return the mean of each loss with the five before and after it, as far as there are so many."""
    windows = (losses[max(0, step - HALF_WINDOW) : step + HALF_WINDOW + 1] for step in range(len(losses)))
    return [math.fsum(window) / len(window) for window in windows]


def suggest(rates: Sequence[float], smoothed: Sequence[float]) -> float:
    """Return the rate at which the smoothed loss falls fastest over the logarithm of the rate, before its lowest value.

    If it never falls, that is a tenth of the rate at its lowest value.
    """
    lowest = int(np.argmin(smoothed))
    if lowest >= 2:
        slopes = np.gradient(np.asarray(smoothed), np.log(rates))[: lowest + 1]
        if slopes.min() < 0:
            return float(rates[int(slopes.argmin())])
    return rates[lowest] / 10
