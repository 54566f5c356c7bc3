"""Short trainings of many architectures on the same data, in one folder that a killed process can go on with.

FOLDER/plan.json holds what is to be done. Each training has a run folder in FOLDER/runs, and when it has ended, a
``result.json`` there. Called again, only what is missing is done.
"""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from effdet.atomic_write import replace_file
from effdet.config import Config, ConfigError, Freeze, config_to_yaml
from effdet.models.architecture import Architecture
from effdet.runs.architecture import architecture_of, with_architecture
from effdet.runs.auto_precision import comparable
from effdet.runs.data import read_for_training
from effdet.runs.resolve import resolve
from effdet.runs.train import train

PLAN, RESULT = "plan.json", "result.json"


@dataclass(frozen=True, kw_only=True)
class TrialBase:
    """What all trainings of a comparison share.

    Args:
        config: With the data, the recipe and the number of epochs; its model is the base.
        base: The architecture that is varied, at the input size of the config.
        fingerprint: Of the training and the validation images.
        images_seen: Training images that each training shows, counting an image once for each time.
    """

    config: Config
    base: Architecture
    fingerprint: Mapping[str, Any]
    images_seen: int

    @property
    def num_classes(self) -> int:
        """K, of the data."""
        assert self.config.model.num_classes is not None
        return self.config.model.num_classes


def prepare_trials(config: Config, images: int) -> TrialBase:
    """Return what trainings that are to be compared share: all start from random weights and see the same images.

    Weights of the backbone would fit the base alone, and so be unfair; with random weights no layer is frozen. Each
    training is evaluated once, at its end.

    Args:
        config: The data, the recipe and the base model: ``model.name``, ``model.phi`` or ``model.architecture``.
        images: Training images that each training sees; rounded to whole epochs, at least one.

    Raises:
        ConfigError: If the config starts from the weights of a whole detector, or does not fit the data.
        DataError: If the data is missing or cannot be used.
        ValueError: If ``images`` is below 1.
    """
    if images < 1:
        raise ValueError(f"images must be 1 or more, got {images}")
    if config.model.weights is not None:
        raise ConfigError(
            f"model.weights must be null, as they fit one of the networks alone, got {config.model.weights}; "
            "say the base by model.name, model.phi or model.architecture"
        )
    config, training, validation = read_for_training(config)
    epochs = max(1, math.floor(images / len(training) + 0.5))
    config = replace(
        config,
        model=replace(config.model, backbone_weights=None),
        train=replace(
            config.train,
            epochs=epochs,
            warmup_epochs=min(config.train.warmup_of(epochs), epochs),
            freeze=Freeze.none,
            freeze_bn=False,
        ),
        eval=replace(config.eval, every=epochs),
    )
    config = resolve(config, training)
    assert config.data.image_size is not None
    base = replace(architecture_of(config.model), image_size=config.data.image_size)
    return TrialBase(
        config=config,
        base=base,
        fingerprint={"train": training.fingerprint(), "val": validation.fingerprint()},
        images_seen=epochs * len(training),
    )


def open_plan(folder: Path, base: TrialBase, plan: Mapping[str, Any]) -> None:
    """Write what is to be done to the folder, which must exist, or check that the folder was begun with the same.

    Raises:
        ValueError: If the folder was begun with another plan, other settings or other data.
    """
    whole = {**plan, "config": _settings(base.config), "data": base.fingerprint}
    whole = json.loads(json.dumps(whole))  # as it will be read
    file = folder / PLAN
    if not file.is_file():
        _write(file, whole)
        return
    before = json.loads(file.read_text(encoding="utf-8"))
    changed = [key for key in whole if whole[key] != before.get(key)]
    if changed:
        raise ValueError(
            f"{folder} must be continued with the settings that it was begun with, but these differ: "
            f"{', '.join(changed)}; restore them, or name another folder"
        )


def _settings(config: Config) -> str:
    """Return the config as text, without what changes no result."""
    run = replace(config.run, dir="", name=None, threads=None)
    return config_to_yaml(replace(config, run=run, data=replace(config.data, workers=None)))


def run_trial(folder: Path, name: str, base: TrialBase, architecture: Architecture) -> dict[str, Any]:
    """Train one architecture, or what is left of its training, and return its result.

    Args:
        folder: Of the comparison.
        name: Of the run folder in ``FOLDER/runs``.
        base: From ``prepare_trials``.
        architecture: What is trained, at its own input size.

    Returns:
        ``ap`` and ``ap50`` of the end, ``images_seen``, and ``seconds`` of this process.
    """
    run_folder = folder / "runs" / name
    result_file = run_folder / RESULT
    if result_file.is_file():
        result: dict[str, Any] = json.loads(result_file.read_text(encoding="utf-8"))
        return result
    begun = (run_folder / "last.ckpt").is_file()
    if run_folder.exists() and not begun:
        shutil.rmtree(run_folder)  # killed before its first checkpoint
    config = replace(
        base.config,
        model=with_architecture(base.config.model, architecture),
        data=replace(base.config.data, image_size=architecture.image_size),
        run=replace(base.config.run, dir=str(run_folder.parent), name=name, report=False),  # nobody reads so many
    )
    if not begun:
        config = comparable(config)
    started = time.perf_counter()
    last = train(config, resume=run_folder if begun else None).history[-1]
    result = {
        "ap": last["ap"],
        "ap50": last["ap50"],
        "images_seen": base.images_seen,
        "seconds": round(time.perf_counter() - started, 1),
    }
    _write(result_file, result)
    return result


def write_results(folder: Path, name: str, document: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``name.json`` with the document and the rows in it, and the rows as ``name.csv``."""
    _write(folder / f"{name}.json", {**document, "rows": rows})
    table = io.StringIO(newline="")
    writer = csv.DictWriter(table, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
    with replace_file(folder / f"{name}.csv") as file:
        file.write(table.getvalue().encode())


def _cell(value: Any) -> Any:
    return "x".join(map(str, value)) if isinstance(value, tuple | list) else value


def _write(file: Path, value: Any) -> None:
    with replace_file(file) as target:
        target.write((json.dumps(value, indent=1) + "\n").encode())
