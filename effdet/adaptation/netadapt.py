"""NetAdapt (Yang et al. 2018) for a trained detector: narrow it step by step until it is as fast as it has to be.

    weights = ["model.weights=best.safetensors", "model.name=null", "model.backbone_weights=null"]
    config = load_config("custom", [*weights, "data.root=photos"])
    adapted = adapt(config, AdaptSettings(target_ms=15), folder="runs/adapted")
    adapted.best.predict("photo.jpg")

A step proposes networks, each of which has one width less and saves at least δ milliseconds. Each proposal keeps the
most important channels, is fine-tuned for a short time, and is measured on training images that were held out. The
proposal with the largest (AP - AP before) / (latency before - latency) becomes the network of the next step
(MobileNetV3, Howard et al. 2019, §4.2), or the one with the largest AP (NetAdapt). The last network is trained for
longer.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from effdet.adaptation.fine_tuning import fine_tune, measure_ap, split_off
from effdet.adaptation.latency import LatencyTable, measure_latencies
from effdet.adaptation.proposals import Proposal, propose
from effdet.adaptation.shared_work import do_all, do_once
from effdet.adaptation.trajectory import Step, draw_trajectory, write_trajectory
from effdet.adaptation.truncation import truncate
from effdet.atomic_write import replace_file
from effdet.config import Config, ConfigError
from effdet.data.dataset import Dataset
from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture
from effdet.runs.auto_batch import with_batch_size
from effdet.runs.auto_precision import with_precision
from effdet.runs.data import read_for_training
from effdet.runs.device import choose_device
from effdet.runs.folder import newest_run, write_config
from effdet.runs.resolve import resolve
from effdet.runs.start_weights import build_model
from effdet.runs.train import train
from effdet.training.distributed import World

logger = logging.getLogger(__name__)

Choice = Literal["ratio", "ap"]
RESULT, WEIGHTS, TABLE = "result.json", "model.safetensors", "latency.json"
STEPS = 5  # that δ is chosen for, where it is not given
SMALLEST_SAVING = 0.25  # of δ: below that the search gives up


@dataclass(frozen=True, kw_only=True)
class AdaptSettings:
    """How a detector is adapted.

    Raises:
        ValueError: If a value is out of its range.
    """

    target_ms: float  # milliseconds of one image in the network, without reading and post-processing
    runtime: str = "onnxruntime"  # in which the detector will run: "torch", or one that ``effdet.load`` takes
    num_threads: int | None = None  # threads of the network; None: one per core
    step_ms: float | None = None  # δ, least saving of a proposal; None: a fifth of the whole saving
    short_steps: int = 40  # T, optimizer steps of a proposal
    held_out: float = 0.2  # share of the training images on which proposals are compared
    choice: Choice = "ratio"  # "ratio": ΔAP / Δlatency; "ap": the largest AP
    rounds: int = 40  # how often each latency is measured

    def __post_init__(self) -> None:
        for name in ("target_ms", "step_ms"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be a positive number of milliseconds, got {value}")
        if self.short_steps < 1:
            raise ValueError(f"short_steps must be 1 or more, got {self.short_steps}")
        if not 0 < self.held_out < 1:
            raise ValueError(f"held_out must lie in (0, 1), got {self.held_out}")
        if self.choice not in get_args(Choice):
            raise ValueError(f"choice must be one of {', '.join(get_args(Choice))}, got '{self.choice}'")


@dataclass(frozen=True)
class Adapted:
    """A finished adaptation.

    Attributes:
        folder: Holds everything: see docs/how-to/adaptation.md.
        steps: The networks on the way, the given one first.
    """

    folder: Path
    steps: tuple[Step, ...]

    @functools.cached_property
    def best(self) -> EfficientDet:
        """The adapted detector after the last training, on the CPU."""
        return EfficientDet.from_pretrained(self.folder / "best.safetensors")


def adapt(config: Config, settings: AdaptSettings, folder: str | Path) -> Adapted:
    """Narrow a trained detector until its network is as fast as it has to be, and train it once more.

    Everything is kept in the folder: a call with the folder of a call that was stopped goes on where that one was.
    Several processes that call this function with one folder share the proposals of each step; so do those that
    ``torchrun`` starts. The last training is done by one process.

    Args:
        config: As for ``effdet.train``. ``model.weights`` is the detector; the other sections say how proposals and
            the last network are trained, on the training images of ``data``. The input size is that of the detector.
        settings: Target and steps.
        folder: For all results; it is made.

    Raises:
        ConfigError: If ``model.weights`` is missing, or settings do not go together.
        ValueError: If the folder belongs to an adaptation with other settings, no width can save enough, or the target
            cannot be reached.
        DataError, FileNotFoundError, ImportError: If data, weights or the runtime are missing.
        Interrupted: A ``KeyboardInterrupt``: on Ctrl-C or SIGTERM.
    """
    return _Adaptation(config, settings, Path(folder).expanduser()).run()


class _Adaptation:
    """One process of an adaptation: its folder holds the state, so this object needs none."""

    def __init__(self, config: Config, settings: AdaptSettings, folder: Path) -> None:
        if config.model.weights is None:
            raise ConfigError("model.weights must be the detector that is to be adapted, got null")
        self.settings, self.folder = settings, folder
        config, images, _ = read_for_training(config)
        self.device = choose_device(config.run.device)
        self.given, self.config = _given_detector(config, images)
        self.fit, self.held_out = split_off(images, settings.held_out)
        folder.mkdir(parents=True, exist_ok=True)
        do_once(folder / "settings", RESULT, self._write_settings)
        self._check_settings()
        self.config = self._as_begun()

    # ------------------------------------------------------------------ the loop of the paper

    def run(self) -> Adapted:
        do_once(self._step_folder(0), RESULT, self._start)
        steps = [self._step(0)]
        self._check_target(steps[0])
        while steps[-1].milliseconds > self.settings.target_ms:
            steps.append(self._next(steps))
            logger.info("%s", steps[-1])
        do_once(self.folder / "last", RESULT, functools.partial(self._finish, steps))
        return Adapted(self.folder, tuple(steps))

    def _next(self, steps: Sequence[Step]) -> Step:
        number = len(steps)
        place = self._step_folder(number)
        do_once(place / "proposals", RESULT, functools.partial(self._propose, steps))
        proposals = [_read_proposal(values) for values in _read(place / "proposals" / RESULT)]
        works = {place / _file_name(p.cut): functools.partial(self._try, p, steps[-1]) for p in proposals}
        do_all(works, RESULT)
        do_once(place, RESULT, functools.partial(self._choose, proposals, steps))
        return self._step(number)

    def _start(self) -> None:
        """Write step 0: the detector as it is."""
        self.given.save_pretrained(self._step_folder(0) / WEIGHTS)
        ap = measure_ap(self._on_device(copy.deepcopy(self.given)), self.config, self.held_out)
        self._write_step(0, self.given, ap, "")

    def _propose(self, steps: Sequence[Step]) -> None:
        """Write the proposals of the next step; δ is halved where no width can save so much."""
        last = steps[-1]
        table, scale = self._table(), last.milliseconds / last.predicted
        first_saving = saving = min(self._saving(steps[0]), last.milliseconds - self.settings.target_ms)
        found: list[Proposal] = []
        while not found and saving >= SMALLEST_SAVING * first_saving:
            found = propose(last.architecture, self.given.num_classes, self._size(), saving=saving / scale, table=table)
            saving /= 2
        if not found:
            raise ValueError(
                f"step_ms must be what narrowing one width can save, but none saves {2 * saving:.3g} ms at "
                f"{last.milliseconds:.3g} ms; give a smaller step_ms or a larger target_ms"
            )
        _write(self._step_folder(len(steps)) / "proposals" / RESULT, [_proposal_values(p) for p in found])
        logger.info("step %d: %d proposals that save %.2f ms or more", len(steps), len(found), 2 * saving)

    def _try(self, proposal: Proposal, before: Step) -> None:
        """Truncate, fine-tune and measure a proposal."""
        place = self._step_folder(before.number + 1) / _file_name(proposal.cut)
        model = truncate(self._weights(before.number), proposal.architecture)
        model = fine_tune(self._on_device(model), self.config, self.fit, self.settings.short_steps)
        ap = measure_ap(model, self.config, self.held_out)
        model.save_pretrained(place / WEIGHTS)
        _write(place / RESULT, {"ap": ap, "cut": proposal.cut, "predicted": proposal.milliseconds})
        saved = (before.predicted - proposal.milliseconds) * before.milliseconds / before.predicted
        logger.info("step %d: %s: AP %.4f, saves %.2f ms", before.number + 1, proposal.cut, ap, saved)

    def _choose(self, proposals: Sequence[Proposal], steps: Sequence[Step]) -> None:
        """Write the step that the best proposal makes."""
        before, place = steps[-1], self._step_folder(len(steps))
        aps = [float(_read(place / _file_name(proposal.cut) / RESULT)["ap"]) for proposal in proposals]
        scores = [
            ap if self.settings.choice == "ap" else ratio(ap, p.milliseconds, before.ap, before.predicted)
            for ap, p in zip(aps, proposals, strict=True)
        ]
        best = scores.index(max(scores))
        model = EfficientDet.from_pretrained(place / _file_name(proposals[best].cut) / WEIGHTS)
        self._write_step(len(steps), model, aps[best], proposals[best].cut)

    def _finish(self, steps: Sequence[Step]) -> None:
        """Train the last network for longer, and write the results."""
        write_trajectory(self.folder / "trajectory.csv", steps)
        draw_trajectory(self.folder / "trajectory.png", steps, self.settings.target_ms)
        place = self.folder / "last"
        weights = self._step_folder(len(steps) - 1) / WEIGHTS
        config = replace(
            self.config,
            model=replace(self.config.model, weights=str(weights)),
            run=replace(self.config.run, dir=str(place), name="run"),
        )
        run = train(config, resume=newest_run(place, "run") if any(place.glob("*/last.ckpt")) else None, alone=True)
        run.best.save_pretrained(self.folder / "best.safetensors")
        row = max((row for row in run.history if "ap" in row), key=lambda row: row["ap"])
        _write(place / RESULT, {"run": str(run.folder), "ap": row["ap"], "ap50": row["ap50"]})

    # ------------------------------------------------------------------ the folder

    def _write_settings(self) -> None:
        """Write what all processes share, with what they would not all choose alike."""
        world = World(self.device)
        config = with_precision(self.config, self.given, self.fit, world)
        write_config(self.folder, with_batch_size(config, self.fit, world))
        _write(self.folder / "settings" / RESULT, self._settings_values())

    def _as_begun(self) -> Config:
        """Return the config with what was chosen when the folder was begun in place of each ``auto``."""
        world = World(self.device)
        config = with_precision(self.config, self.given, self.fit, world, self.folder)
        return with_batch_size(config, self.fit, world, self.folder)

    def _check_settings(self) -> None:
        written, now = _read(self.folder / "settings" / RESULT), self._settings_values()
        differing = [name for name, value in now.items() if written.get(name) != value]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{self.folder} must be continued with the settings that it was begun with, but {name} was "
                f"{written.get(name)} and is {now[name]}; choose another folder"
            )

    def _settings_values(self) -> dict[str, Any]:
        return {**asdict(self.settings), "weights": str(self.config.model.weights), "images": self.fit.fingerprint()}

    def _write_step(self, number: int, model: EfficientDet, ap: float, cut: str) -> None:
        runtime, threads = self.settings.runtime, self.settings.num_threads
        (milliseconds,) = measure_latencies([model], runtime=runtime, num_threads=threads, rounds=self.settings.rounds)
        predicted = self._table().predict(model.architecture, model.num_classes, self._size())
        step = Step(
            number=number,
            cut=cut,
            ap=ap,
            milliseconds=milliseconds,
            predicted=predicted,
            architecture=model.architecture,
        )
        place = self._step_folder(number)
        model.save_pretrained(place / WEIGHTS)
        _write(place / RESULT, step.to_dict())

    def _step(self, number: int) -> Step:
        return Step.from_dict(_read(self._step_folder(number) / RESULT))

    def _step_folder(self, number: int) -> Path:
        return self.folder / f"step_{number:02}"

    def _weights(self, number: int) -> EfficientDet:
        return EfficientDet.from_pretrained(self._step_folder(number) / WEIGHTS)

    # ------------------------------------------------------------------ what the steps share

    def _table(self) -> LatencyTable:
        chosen = self.settings
        return LatencyTable(
            file=self.folder / TABLE, runtime=chosen.runtime, num_threads=chosen.num_threads, rounds=chosen.rounds
        )

    def _saving(self, first: Step) -> float:
        """Return δ in milliseconds."""
        return self.settings.step_ms or (first.milliseconds - self.settings.target_ms) / STEPS

    def _size(self) -> tuple[int, int]:
        return self.given.image_size

    def _on_device(self, model: EfficientDet) -> EfficientDet:
        return model.to(self.device)

    def _check_target(self, first: Step) -> None:
        if first.milliseconds <= self.settings.target_ms:
            raise ValueError(
                f"target_ms must be less than the {first.milliseconds:.3g} ms that the detector takes, got "
                f"{self.settings.target_ms:g}"
            )


def ratio(ap: float, milliseconds: float, ap_before: float, milliseconds_before: float) -> float:
    """Return ΔAP / Δlatency, in AP per millisecond saved: the larger, the less a cut costs."""
    return (ap - ap_before) / (milliseconds_before - milliseconds)


def _given_detector(config: Config, images: Dataset) -> tuple[EfficientDet, Config]:
    """Return the detector that is to be adapted, and the config resolved for its input size."""
    size = EfficientDet.from_pretrained(config.model.weights).image_size  # type: ignore[arg-type]
    data = replace(config.data, image_size=size, long_side=None, max_long_side=None)
    config = resolve(replace(config, data=data), images)
    return build_model(config, images, resumed=False).eval(), config


def _file_name(cut: str) -> str:
    """Return what was cut as the name of a folder."""
    return re.sub(r"[^\w.]+", "-", cut)


def _proposal_values(proposal: Proposal) -> dict[str, Any]:
    return {**vars(proposal), "architecture": proposal.architecture.to_dict()}


def _read_proposal(values: dict[str, Any]) -> Proposal:
    return Proposal(**{**values, "architecture": Architecture.from_dict(values["architecture"])})


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replace_file(path) as file:
        file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())
