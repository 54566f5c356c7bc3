"""Where a run reports its numbers beside its own files: TensorBoard, Weights & Biases and MLflow.

A logger has the three methods of ``Logger`` and a line in ``LOGGERS``. To add one, write both.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from effdet.config import LoggerKind
from effdet.install import hint
from effdet.runs.folder import leaves
from effdet.training.loop import StepReport

_TRAIN = ("class_loss", "box_loss", "images_per_second")
_NO_NUMBERS = ("epoch", "step", "lr", "loss")  # of a row; the last two are reported with every step


class Logger(Protocol):
    """A place that gets the numbers of a run while it trains; after an exception it gets no more of them."""

    def step(self, report: StepReport) -> None:
        """Report an optimizer step."""

    def epoch(self, row: Mapping[str, float]) -> None:
        """Report the row of an epoch; see ``effdet.Run.history``."""

    def close(self) -> None:
        """Write what is left; called once, also when the run fails."""


class Kind(NamedTuple):
    """A kind of logger."""

    package: str  # that must be importable
    extra: str  # that installs it
    open: Callable[[Path, int], Logger]  # from the run folder and the steps that an earlier part of the run has done


def open_loggers(kinds: Sequence[LoggerKind] | None, folder: Path, first_step: int) -> list[Logger]:
    """Return the loggers of a run.

    Args:
        kinds: Those that are wanted; None: TensorBoard where it is installed.
        folder: Of the run.
        first_step: Steps that an earlier part of the run has done.
    """
    check_loggers(kinds)
    if kinds is None:
        kinds = [LoggerKind.tensorboard] if _is_installed(LOGGERS[LoggerKind.tensorboard]) else []
    return [LOGGERS[kind].open(folder, first_step) for kind in kinds]


def check_loggers(kinds: Sequence[LoggerKind] | None) -> None:
    """Raise unless the packages of all loggers are installed.

    Raises:
        ImportError: If one is not.
    """
    for kind in kinds or ():
        if not _is_installed(LOGGERS[kind]):
            raise ImportError(
                f"run.loggers {kind.value} needs {LOGGERS[kind].package}: {hint(LOGGERS[kind].extra)}, or leave it out"
            )


def numbers_of_epoch(row: Mapping[str, float]) -> dict[str, float]:
    """Return what loggers show of an epoch's row, by names such as ``train/class_loss`` and ``val/ap``."""
    numbers = {}
    for name, value in row.items():
        if name not in _NO_NUMBERS and math.isfinite(value):
            part = "train" if name in _TRAIN else "val"
            numbers[f"{part}/{name.removeprefix('val_').replace('ap of ', 'ap/')}"] = float(value)
    return numbers


def numbers_of_step(report: StepReport) -> dict[str, float]:
    """Return what loggers show of a step."""
    return {"train/loss": report.loss, "train/lr": report.lr}


class TensorBoard:
    """Events in the run folder; look at them with ``tensorboard --logdir runs``."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # Hides events of steps that are done again. A step's number counts itself, so ``first_step`` is done.
        self._writer: Any = SummaryWriter(str(folder), purge_step=first_step + 1 if first_step else None)

    def step(self, report: StepReport) -> None:
        """Write the numbers of a step."""
        for name, value in numbers_of_step(report).items():
            self._writer.add_scalar(name, value, report.step)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Write the numbers of an epoch."""
        for name, value in numbers_of_epoch(row).items():
            self._writer.add_scalar(name, value, row["step"])
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of Weights & Biases, in a project named after the folder of runs.

    Its environment variables decide the rest: ``WANDB_MODE=offline`` writes to the run folder alone, ``WANDB_PROJECT``
    names another project. A resumed run goes on in the same run, whose id is in ``wandb_id.txt``.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        path = folder.resolve()
        id_file = path / "wandb_id.txt"
        known = id_file.read_text(encoding="ascii").strip() if first_step and id_file.is_file() else None
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", path.parent.name),
            name=path.name,
            id=known,
            resume="allow" if known else None,
            dir=str(path),
            config=_config(path),
            settings=wandb.Settings(silent=True, console="off"),
        )
        id_file.write_text(self._run.id, encoding="ascii")
        self._run.define_metric("*", step_metric="step")  # a resumed run repeats steps, which W&B's own would refuse

    def step(self, report: StepReport) -> None:
        """Send the numbers of a step."""
        self._run.log({"step": report.step, **numbers_of_step(report)})

    def epoch(self, row: Mapping[str, float]) -> None:
        """Send the numbers of an epoch."""
        self._run.log({"step": row["step"], "epoch": row["epoch"], **numbers_of_epoch(row)})

    def close(self) -> None:
        """Send what is left.

        The process of W&B may write its last records some milliseconds later; it has written all before Python exits.
        Not waited for here: ``wandb.teardown`` would also end other runs of the caller.
        """
        self._run.finish()


class Mlflow:
    """A run of MLflow, in an experiment named after the folder of runs.

    ``MLFLOW_TRACKING_URI`` says where; without it, it is the SQLite file ``mlflow.db`` of the folder of runs. A resumed
    run goes on in the run of the same name. MLflow's telemetry is off.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient

        path = folder.resolve()
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{path.parent / 'mlflow.db'}"
        self._client: Any = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(path.parent.name)
        number = self._client.create_experiment(path.parent.name) if experiment is None else experiment.experiment_id
        quote = '"' if "'" in path.name else "'"
        wanted = f"attributes.run_name = {quote}{path.name}{quote}"
        same = self._client.search_runs([number], wanted) if first_step else []
        run = same[0] if same else self._client.create_run(number, run_name=path.name)
        self._id = run.info.run_id
        self._client.update_run(self._id, status="RUNNING")
        if not same:  # MLflow refuses other values of a resumed run
            for name, value in leaves(_config(path)).items():
                self._client.log_param(self._id, name, str(value)[:500])

    def step(self, report: StepReport) -> None:
        """Write the numbers of a step."""
        self._write(numbers_of_step(report), report.step)

    def epoch(self, row: Mapping[str, float]) -> None:
        """Write the numbers of an epoch."""
        self._write(numbers_of_epoch(row), int(row["step"]))

    def close(self) -> None:
        """End the run."""
        self._client.set_terminated(self._id)

    def _write(self, numbers: Mapping[str, float], step: int) -> None:
        import time

        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        metrics = [Metric(_mlflow_name(name), value, now, step) for name, value in numbers.items()]
        self._client.log_batch(self._id, metrics=metrics)


def _config(folder: Path) -> dict[str, Any]:
    import yaml

    content: dict[str, Any] = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    return content


def _mlflow_name(name: str) -> str:
    """Return a name with the characters that MLflow takes."""
    return "".join(letter if letter.isalnum() or letter in "_-./ :" else "_" for letter in name)


def _is_installed(kind: Kind) -> bool:
    found = importlib.util.find_spec(kind.package)
    return found is not None and found.origin is not None  # a folder "wandb" in the working folder has no origin


LOGGERS = {
    LoggerKind.tensorboard: Kind("tensorboard", "logging", TensorBoard),
    LoggerKind.wandb: Kind("wandb", "wandb", WeightsAndBiases),
    LoggerKind.mlflow: Kind("mlflow", "mlflow", Mlflow),
}
