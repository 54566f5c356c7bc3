"""What a search found: its trials, the Pareto front, the best; as objects, files and a picture."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effdet.adaptation.search.reward import Reward, pareto_front
from effdet.adaptation.search.trial import as_text, found_config
from effdet.atomic_write import replace_file
from effdet.config import Config, config_to_yaml
from effdet.models.architecture import Architecture

FINISHED, ENDED_EARLY, FAILED, UNFINISHED = "finished", "ended early", "failed", "unfinished"
_STATES = {"COMPLETE": FINISHED, "PRUNED": ENDED_EARLY, "FAIL": FAILED}
_COLUMNS = ("number", "state", "ap", "cost", "reward", "epochs", "seconds", "error", "folder")


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One architecture that was tried."""

    number: int
    state: str  # "finished", "ended early", "failed", or "unfinished": running, waiting or interrupted
    architecture: Architecture | None  # None: the choices made no architecture
    choices: dict[str, Any]  # of the space, by dimension
    ap: float | None  # of the best evaluation so far, in [0, 1]
    cost: float | None
    reward: float | None
    epochs: int
    seconds: float  # of its training
    error: str | None  # why it failed or was ended
    folder: str | None

    @property
    def is_finished(self) -> bool:
        """Whether it was trained to its end."""
        return self.state == FINISHED


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All trials of a search so far."""

    trials: list[Trial]
    folder: Path
    config: Config  # of the search
    reward: Reward
    unit: str  # of the costs: "ms" or "MACs"

    @property
    def finished(self) -> list[Trial]:
        """The trials that were trained to their end, in their order."""
        return [trial for trial in self.trials if trial.is_finished]

    @property
    def best(self) -> Trial:
        """The finished trial with the highest reward; of equals the first."""
        return max(self.finished, key=lambda trial: trial.reward or 0.0)

    @property
    def front(self) -> list[Trial]:
        """The finished trials that no other beats in both AP and cost, cheapest first."""
        finished = self.finished
        return [finished[index] for index in pareto_front([(trial.ap, trial.cost) for trial in finished])]  # type: ignore[misc]

    @property
    def best_config(self) -> Config:
        """The config of the search with the best architecture, to train it in full."""
        assert self.best.architecture is not None
        config = found_config(self.config, self.best.architecture)
        return replace(config, run=replace(config.run, name=None))


def read_trials(trials: Sequence[Any], reward: Reward) -> list[Trial]:
    """Return the trials of a study of Optuna."""
    return [_read(trial, reward) for trial in trials]


def _read(trial: Any, reward: Reward) -> Trial:
    attributes = trial.user_attrs
    ap, cost, values = attributes.get("ap"), attributes.get("cost"), attributes.get("architecture")
    return Trial(
        number=trial.number,
        state=_STATES.get(trial.state.name, UNFINISHED) if "interrupted" not in attributes else UNFINISHED,
        architecture=Architecture.from_dict(values) if values else None,
        choices=dict(trial.params),
        ap=ap,
        cost=cost,
        reward=None if ap is None or cost is None else reward(ap, cost),
        epochs=attributes.get("epochs", 0),
        seconds=attributes.get("seconds", 0.0),
        error=attributes.get("error"),
        folder=attributes.get("folder"),
    )


def write_results(result: SearchResult, folder: Path) -> None:
    """Write ``trials.csv``, and as soon as a trial is finished ``pareto.json``, ``pareto.png`` and ``best.yaml``."""
    _write(folder / "trials.csv", _table(result.trials))
    if not result.finished:
        return
    _write(folder / "pareto.json", json.dumps(front_as_values(result), indent=1) + "\n")
    _write(folder / "best.yaml", _best_yaml(result))
    plot_trials(result, folder / "pareto.png")


def front_as_values(result: SearchResult) -> dict[str, Any]:
    """Return the Pareto front and the best as plain values."""
    return {
        "unit": result.unit,
        "target": result.reward.target,
        "exponents": [result.reward.alpha, result.reward.beta],
        "best": result.best.number,
        "front": [
            {
                **{name: getattr(trial, name) for name in ("number", "ap", "cost", "reward", "folder")},
                "architecture": None if trial.architecture is None else trial.architecture.to_dict(),
            }
            for trial in result.front
        ],
    }


def _table(trials: Sequence[Trial]) -> str:
    """Return all trials as CSV: the numbers, then a column for each dimension of the space."""
    dimensions = list(dict.fromkeys(name for trial in trials for name in trial.choices))
    text = io.StringIO(newline="")
    table = csv.DictWriter(text, [*_COLUMNS, *dimensions], restval="")
    table.writeheader()
    for trial in trials:
        row = {name: getattr(trial, name) for name in _COLUMNS}
        table.writerow({name: "" if value is None else value for name, value in (row | trial.choices).items()})
    return text.getvalue()


def _best_yaml(result: SearchResult) -> str:
    best = result.best
    assert best.ap is not None
    assert best.cost is not None
    return (
        f"# Found by a search of {len(result.trials)} trials: AP {best.ap:.4f} after {best.epochs} short epochs, "
        f"{as_text(best.cost, result.unit)}.\n"
        "# Train it in full with: python tools/train.py best.yaml\n"
    ) + config_to_yaml(result.best_config)


def _write(path: Path, text: str) -> None:
    with replace_file(path) as file:
        file.write(text.encode())


def plot_trials(result: SearchResult, picture: Path) -> None:
    """Draw the trials as accuracy against cost, with the Pareto front, the target and the best.

    Args:
        result: With at least one finished trial.
        picture: The PNG to write.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scale, label = (1e9, "multiply-adds of one image, G") if result.unit == "MACs" else (1.0, "ms of the network")
    figure = Figure(figsize=(8, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()

    def draw(trials: Sequence[Trial], *style: Any, **options: Any) -> None:
        points = [(trial.cost / scale, 100 * trial.ap) for trial in trials if trial.cost and trial.ap is not None]
        if points:
            axes.plot(*zip(*points, strict=True), *style, **options)

    draw([trial for trial in result.trials if trial.state == ENDED_EARLY], "x", color="0.6", label="ended early")
    draw(result.finished, "o", color="tab:blue", alpha=0.6, label="finished")
    draw(result.front, "-o", color="tab:orange", drawstyle="steps-post", label="Pareto front")
    draw([result.best], "*", color="tab:red", markersize=15, label="best reward")
    axes.axvline(result.reward.target / scale, color="0.4", linestyle="--", label="target")
    axes.set(xlabel=label, ylabel="AP of the short training, %", title=f"{len(result.trials)} trials")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))  # outside, so that it hides no trial
    with replace_file(picture) as file:
        figure.savefig(file, format="png")
