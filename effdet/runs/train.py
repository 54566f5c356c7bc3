"""Train a detector: a run from its data to the best model."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from effdet.config import Config
from effdet.data.dataset import Dataset
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.architecture import with_architecture
from effdet.runs.auto_batch import with_batch_size
from effdet.runs.auto_precision import with_precision
from effdet.runs.build import build_run
from effdet.runs.check_data import check_before_training
from effdet.runs.data import read_for_training
from effdet.runs.device import choose_device, choose_precision
from effdet.runs.folder import changed_settings, find_run_folder, new_run_folder, write_config
from effdet.runs.input_report import log_input
from effdet.runs.lock import lock_run
from effdet.runs.log import keep_lines, log_start
from effdet.runs.loggers import check_loggers
from effdet.runs.neighbours import watch_neighbours
from effdet.runs.pictures import draw_pictures
from effdet.runs.process_state import huge_pages, log_level, process_state
from effdet.runs.report import report_training
from effdet.runs.resolve import resolve
from effdet.runs.start_weights import build_model
from effdet.runs.training_run import TrainingRun
from effdet.training.checkpoint import load_checkpoint
from effdet.training.distributed import World, join_world
from effdet.training.interrupt import Interrupted

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        folder: The run folder; docs/how-to/training.md says what it holds.
        history: One row per epoch: ``epoch``, ``step``, ``lr``, ``loss``, ``class_loss``, ``box_loss``,
            ``images_per_second`` and, where it was evaluated, COCO's 12 numbers by the names of ``CocoMetrics`` and
            the AP of each class as ``ap of NAME``.
    """

    folder: Path
    history: list[dict[str, float]]

    @functools.cached_property
    def best(self) -> EfficientDet:
        """The model of the evaluation with the best AP, read from ``best.safetensors``; on the CPU."""
        return EfficientDet.from_pretrained(self.folder / "best.safetensors")


def train(
    config: Config,
    *,
    resume: str | Path | None = None,
    after_epoch: Callable[[list[dict[str, float]]], None] | None = None,
    alone: bool = False,
) -> Run:
    """Train a detector, as ``effdet train`` does.

    The result depends on the config and the data alone, not on what this process did before, and settings of the
    process (random numbers, threads, signal handlers, log levels) are as before when this function returns. Under
    ``torchrun`` it is called on every process.

        run = train(load_config("configs/custom.yaml", ["data.root=photos"]))
        run.best.predict("photo.jpg")

    Args:
        config: What ``load_config`` returns. A name in use gets a number.
        resume: Folder, or ``last.ckpt``, of a run that is to be continued with this config; usually that of the folder:
            ``load_config("runs/demo/config.yaml", ["train.epochs=24"])``. It becomes the config of the folder.
        after_epoch: Called after each epoch with the rows of ``Run.history`` so far. An exception that it raises ends
            the run, which can be continued later.
        alone: Under ``torchrun``: train in this process without the others, which do not call this function.

    Raises:
        ConfigError: If settings do not go together, or not with the data.
        DataError: If the data is missing or cannot be used.
        FileNotFoundError: If weights, or the run to continue, are missing.
        ValueError: If weights or the checkpoint do not fit, or the device is not there.
        ImportError: If the package of a logger is not installed.
        FloatingPointError: If a loss or gradient is not finite; the batch is saved in the run folder.
        RuntimeError: If the device has too little memory.
        Interrupted: A ``KeyboardInterrupt``: on Ctrl-C or SIGTERM, with the checkpoint written.
    """
    folder = None if resume is None else find_run_folder(Path(resume))
    if config.run.name is None:
        config = replace(config, run=replace(config.run, name="run"))
    device = choose_device(config.run.device)
    joined = contextlib.nullcontext(World(device)) if alone else join_world(device)
    with huge_pages(), joined as world, log_level(is_main=world.is_main):
        choose_precision(config.train.precision, world.device)  # an error now costs no time
        check_loggers(config.run.loggers)
        with process_state(world.device, seed=config.run.seed, threads=config.run.threads), _advice_on_memory():
            return _train(config, world, folder, after_epoch)


def _train(
    config: Config,
    world: World,
    resumed: Path | None,
    after_epoch: Callable[[list[dict[str, float]]], None] | None,
) -> Run:
    """Do a run, from data to pictures; ``resumed`` is the folder of an earlier part of it."""
    with contextlib.ExitStack() as stack:
        with keep_lines() as early:
            log_start(world.device)
            stack.enter_context(watch_neighbours(world.device))
            run, val = prepare_run(config, world, resumed, stack)
        folder, progress = run.checkpoints.folder, run.progress
        with run.log.opened(first_step=progress.step, early=early):
            model = run.trainer.model
            if resumed is None:
                logger.info("run %s: %s starts from %s", folder, model.name, model.start)
            else:
                logger.info("run %s continues at step %d of %d", folder, progress.step, run.log.total_steps)
            logger.info("network in %s", run.trainer.settings.precision.value)
            _run(run, after_epoch)
            result = Run(folder, progress.history)
            if world.is_main:
                draw_pictures(folder, result.best, val, run.views)
                if config.run.report:
                    report_training(folder, result.best, val, world.device)
                _log_result(result)
    return result


def prepare_run(
    config: Config, world: World, resumed: Path | None, lock: contextlib.ExitStack
) -> tuple[TrainingRun, Dataset]:
    """Return the run with all its parts, and the validation images; ``lock`` holds the lock of its folder."""
    config, train, val, fingerprints = world.broadcast(_read(config) if world.is_main else None)  # type: ignore[misc]
    asked, config = config, resolve(config, train)
    if world.is_main:
        log_input(asked, config, train)
    model = build_model(config, train, resumed=resumed is not None).to(world.device)
    config = replace(config, model=with_architecture(config.model, model.architecture))  # in full, to resume
    config = with_precision(config, model, train, world, resumed)
    config = with_batch_size(config, train, world, resumed)

    def open_folder() -> Path:
        folder = resumed or new_run_folder(config)
        lock.enter_context(lock_run(folder))
        return folder

    run = build_run(config, model, train, val, world=world, open_folder=open_folder, fingerprints=fingerprints)
    if resumed is not None:
        run.checkpoints.load_state_dict(load_checkpoint(run.checkpoints.path))
        if world.is_main:
            if changed := changed_settings(resumed, config):
                logger.info("settings that differ from those before: %s", ", ".join(changed))
            write_config(resumed, config)
    return run, val


def _read(config: Config) -> tuple[Config, Dataset, Dataset, dict[str, dict[str, str]]]:
    config, train, val = read_for_training(config)
    check_before_training(config, train, val)
    return config, train, val, {"train": train.fingerprint(), "val": val.fingerprint()}


def _run(run: TrainingRun, after_epoch: Callable[[list[dict[str, float]]], None] | None) -> None:
    try:
        run.run(after_epoch=after_epoch)
    except Interrupted:
        logger.info("stopped at step %d; continue it with: --resume %s", run.progress.step, run.checkpoints.folder)
        raise


def _log_result(result: Run) -> None:
    row = max((row for row in result.history if "ap" in row), key=lambda row: (row["ap"], row["epoch"]))
    logger.info(
        "done: best AP %.4f, AP50 %.4f in epoch %d of %d; %s",
        *(row["ap"], row["ap50"], row["epoch"], len(result.history), result.folder / "best.safetensors"),
    )


@contextlib.contextmanager
def _advice_on_memory() -> Iterator[None]:
    """Say in one sentence what to do when the memory of the device is too small."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        where = "the CUDA device" if isinstance(error, torch.OutOfMemoryError) else "this machine"
        raise RuntimeError(
            f"{where} has too little memory for this run ({_first_line(error)}); lower train.batch_size, or keep it "
            "and raise train.accumulate, or set train.gradient_checkpointing=true, train.precision=bf16 (fp16 on a GPU "
            "without bfloat16) or a smaller data.image_size"
        ) from error


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0].rstrip(".")
