"""What a report says about how its detections were made: run, model, data, machine, and how the anchors fit."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from effdet.config import config_to_yaml
from effdet.data.doctor.anchor_fit import REACHED, best_overlap, boxes_in_input
from effdet.data.findings import DataError
from effdet.evaluation.by_shape import recall_by_size
from effdet.metrics_table import read_metrics
from effdet.report.numbers import About
from effdet.runs.input_size import with_anchors_of

if TYPE_CHECKING:
    from effdet.config import Config
    from effdet.data.dataset import Dataset
    from effdet.detector.prediction import Detector
    from effdet.runs.evaluate import Evaluation


def about_run(folder: Path, config: Config) -> About:
    """Return what made the best model of a run."""
    return About(
        title=f"{folder.resolve().name}",
        facts={"run": str(folder), "weights": str(folder / "best.safetensors"), **_log_facts(folder / "log.txt")},
        history=history_of_run(folder),
        config=config_to_yaml(config),
        findings=_run_findings(folder / "config.yaml"),
    )


def history_of_run(folder: Path) -> list[dict[str, float | None]]:
    """Return the rows of a run's metrics.csv; none where there is no such file.

    Raises:
        ValueError: If it is damaged.
    """
    return read_metrics(folder / "metrics.csv") if (folder / "metrics.csv").is_file() else []


def facts_of_model(model: Detector, done: Evaluation) -> dict[str, str]:
    """Return what a model is, what it was evaluated on, and on which machine."""
    height, width = model.image_size
    facts = {
        "model": f"{model.name}, {model.num_classes} classes, network input {height}×{width}",
        "data": str(done.dataset.annotation_file),
        "detected": f"{len(done.dataset):,} images in {done.seconds:.1f} s on {model.device}",
        **facts_of_machine(),
    }
    return facts | ({"left out": "; ".join(done.unreadable)} if done.unreadable else {})


def facts_of_machine() -> dict[str, str]:
    """Return the command line, the versions and the machine of this process."""
    own = sys.modules["effdet"].__version__
    versions = f"effdet {own}, Python {platform.python_version()}"
    return {
        "report by": shlex.join(sys.argv),
        "report with": f"{versions}; {platform.platform()}, {os.cpu_count()} cores",
    }


def findings_of(dataset: Dataset) -> list[str]:
    """Return what was found in a data set when it was read."""
    return [f"{finding.severity}: {finding}" for finding in dataset.findings]


def anchor_recall(model: Detector, dataset: Dataset) -> tuple[tuple[float, float, int, float | None], ...]:
    """Return which part of the boxes an anchor reaches, by size; nothing for a file that does not say its anchors."""
    if model.architecture is None:
        return ()
    network = with_anchors_of(
        model.architecture, name=model.name, image_size=model.image_size, fit=model.preprocessing.fit
    )
    rows, boxes = boxes_in_input(dataset, network)
    sizes = np.sqrt(dataset.boxes_xywh[rows, 2:].prod(axis=1))
    return recall_by_size(sizes, best_overlap(boxes, network) >= REACHED)


def _log_facts(path: Path) -> dict[str, str]:
    """Return the lines of a run's log.txt that say how it began."""
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip("\n")[20:] for line, _ in zip(file, range(50), strict=False)]  # behind date and time
    facts = {}
    for line in lines:
        if line.startswith("started by: "):
            facts["trained by"] = line.removeprefix("started by: ")
        elif line.startswith("effdet ") and ", torch " in line:
            facts["trained with"] = line
    return facts


def _run_findings(config: Path) -> list[str]:
    from effdet.runs.check_data import check_data

    try:
        examined = check_data(config, quick=True)
    except (DataError, ValueError, OSError) as error:
        return [f"the data could not be checked: {error}"]
    return [
        f"{finding.severity}, {finding.split}: {finding}" if finding.split else f"{finding.severity}: {finding}"
        for finding in examined.findings
    ]
