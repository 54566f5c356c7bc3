"""Train EfficientDet from a config file.

effdet train configs/demo.yaml
effdet train configs/d0_coco.yaml train.epochs=12 run.name=short
effdet train configs/d0_coco.yaml --resume

A run folder holds config.yaml, metrics.csv, TensorBoard events, log.txt, last.ckpt (everything to resume),
best.safetensors (the model to use), curves.png and predictions.png.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.commands import program
from effdet.runs.architecture import with_architecture
from effdet.runs.resolve import NEWEST, find_run, new_run_folder, resolve
from effdet.runs.start_weights import build_model

if TYPE_CHECKING:
    from effdet.config import Config
    from effdet.data.dataset import Dataset
    from effdet.detector.efficientdet import EfficientDet
    from effdet.training.distributed import World
    from effdet.training.loop import Progress, Settings, Trainer

logger = logging.getLogger(__name__)

PICTURED_IMAGES = 8


class _Parser(argparse.ArgumentParser):
    """Takes overrides on either side of ``--resume``."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``train``."""
    result = _Parser(
        prog=program("train"),
        description="Train EfficientDet from a config file.",
        epilog="torchrun --nproc_per_node=N tools/train.py ... is the same run on N processes.",
    )
    result.add_argument("config", metavar="CONFIG", type=Path, help="YAML file, or a name that `effdet config` lists")
    result.add_argument("overrides", metavar="key.sub=value", nargs="*", help="settings that replace those of the file")
    result.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const=NEWEST,
        help="continue a run: its folder or last.ckpt; alone: the newest run of this config's name",
    )
    return result


def run(args: argparse.Namespace) -> int:
    """Train, and return the exit status."""
    from effdet.training.distributed import join_world
    from effdet.training.memory import use_huge_pages

    use_huge_pages()
    if args.resume is not None and "=" in args.resume:  # --resume key.sub=value
        args.overrides, args.resume = [args.resume, *args.overrides], NEWEST
    config, folder = find_run(args.config, args.overrides, args.resume)
    with join_world(config.run.device) as world:
        if not world.is_main:
            logging.getLogger("effdet").setLevel(logging.ERROR)
        _train(config, world, folder)
    return 0


def _train(config: Config, world: World, resumed: Path | None) -> None:
    """Do a run, from data to pictures; ``resumed`` is the folder of an earlier part of it."""
    from effdet.runs.log import keep_lines
    from effdet.training.checkpoint import load_checkpoint

    with keep_lines() as early:
        _prepare_torch(config, world)
        train, val = world.broadcast(_read_data(config) if world.is_main else None)  # type: ignore[misc]
        config = resolve(config, train)
        model = build_model(config, train, resumed=resumed is not None).to(world.device)
        config = replace(config, model=with_architecture(config.model, model.architecture))
        trainer = _build_trainer(config, model, train, val, world=world, resumed=resumed)
        if resumed is not None:
            trainer.load_state_dict(load_checkpoint(resumed / "last.ckpt"))

    with trainer.log.opened(first_step=trainer.progress.step, early=early):
        _run(trainer, model, resumed=resumed)
        if world.is_main:
            _finish(trainer.folder, val, trainer.progress)


def _run(trainer: Trainer, model: EfficientDet, *, resumed: Path | None) -> None:
    from effdet.training.interrupt import Interrupted

    if resumed is None:
        logger.info("run %s: %s starts from %s", trainer.folder, model.name, model.start)
    else:
        logger.info("run %s continues at step %d of %d", resumed, trainer.progress.step, trainer.total_steps)
    try:
        trainer.run()
    except Interrupted:
        logger.info("stopped at step %d; continue it with: --resume %s", trainer.progress.step, trainer.folder)
        raise


def _finish(folder: Path, val: Dataset, progress: Progress) -> None:
    """Draw curves and predictions, and say what came out."""
    from effdet.detector.efficientdet import EfficientDet
    from effdet.visualize import plot_curves, save_image, side_by_side

    plot_curves(folder / "metrics.csv", folder / "curves.png")
    best = EfficientDet.from_pretrained(folder / "best.safetensors")
    indices = [round(i * (len(val) - 1) / max(1, PICTURED_IMAGES - 1)) for i in range(min(PICTURED_IMAGES, len(val)))]
    images = [val.read(index) for index in indices]
    picture = side_by_side(images, [val.annotations(index) for index in indices], best.predict(images))
    save_image(folder / "predictions.png", picture)
    row = max((row for row in progress.history if "ap" in row), key=lambda row: (row["ap"], row["epoch"]))
    logger.info(
        "done: best AP %.4f, AP50 %.4f in epoch %d of %d; %s",
        *(row["ap"], row["ap50"], row["epoch"], len(progress.history), folder / "best.safetensors"),
    )


def _prepare_torch(config: Config, world: World) -> None:
    import torch

    from effdet.config import ConfigError, Precision

    if config.train.precision is Precision.fp16 and world.device.type != "cuda":
        raise ConfigError(f"train.precision fp16 needs run.device cuda, got {world.device.type}; use bf16 or fp32")
    if config.run.threads is not None:
        torch.set_num_threads(config.run.threads)
    torch.backends.cudnn.benchmark = world.device.type == "cuda"  # every batch has the same size
    torch.manual_seed(config.run.seed)


def _read_data(config: Config) -> tuple[Dataset, Dataset]:
    """Return training and validation images that can be read; say which cannot."""
    from effdet.data.findings import DataError
    from effdet.data.formats import find_train_and_val
    from effdet.data.unreadable_images import drop_unreadable

    root = Path(config.data.root).expanduser()
    if root.name == "demo" and not root.exists():
        raise DataError(f"the demo data {root} does not exist; draw it with: tools/inspect_data.py demo --root {root}")
    data = config.data
    train, val = find_train_and_val(
        root,
        train_annotations=data.train_annotations,
        train_images=data.train_images,
        val_annotations=data.val_annotations,
        val_images=data.val_images,
    )
    train, val = (_readable(drop_unreadable, part) for part in (train, val))
    logger.info("data: %d images to train, %d to validate, %d classes", len(train), len(val), train.num_classes)
    return train, val


def _readable(drop: Callable[[Dataset], tuple[Dataset, list[str]]], dataset: Dataset) -> Dataset:
    kept, names = drop(dataset)
    for name in names:
        logger.warning("left out: %s", name)
    return kept


def _build_criterion(config: Config) -> Any:
    from effdet.training.losses import DetectionLoss

    return DetectionLoss(
        alpha=config.train.focal_alpha,
        gamma=config.train.focal_gamma,
        label_smoothing=config.train.label_smoothing,
        box_loss=config.train.box_loss,
        huber_delta=config.train.huber_delta,
        box_weight=config.train.box_weight,
        mask_zero_targets=config.train.mask_zero_targets,
        fused=config.train.fused,
    )


def _train_loader(config: Config, model: EfficientDet, train: Dataset, world: World) -> Any:
    from effdet.config import ConfigError
    from effdet.data.loader import TrainLoader
    from effdet.runs.workers import choose_workers

    parts = config.train.accumulate * world.size
    if config.train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size must be divisible by train.accumulate × processes = {parts}, "
            f"got {config.train.batch_size}; the nearest is {max(1, round(config.train.batch_size / parts)) * parts}"
        )
    batch_size, coarsest_stride = config.train.batch_size // parts, model.architecture.coarsest_stride
    if batch_size == 1 and max(model.image_size) <= coarsest_stride:
        raise ConfigError(
            "a forward pass needs two images, or one that is larger than the coarsest stride "
            f"{coarsest_stride}, for BN statistics; raise train.batch_size or data.image_size"
        )
    return TrainLoader(
        train,
        image_size=(model.image_size[0], model.image_size[1]),
        batch_size=batch_size,
        augment=config.data.augment,
        seed=config.run.seed,
        workers=choose_workers(config.data.workers, world.device, local_size=world.local_size),
        fill=model.fill,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )


def _evaluator(
    config: Config, model: EfficientDet, val: Dataset, world: World
) -> Callable[[EfficientDet], Mapping[str, float]]:
    """Return the function that scores a model on the validation images, which all processes share."""
    from effdet.runs.evaluate import check_measurable, evaluate_dataset
    from effdet.runs.log import SCORE_COLUMNS

    check_measurable(model, val)

    def evaluate(candidate: EfficientDet) -> Mapping[str, float]:
        metrics = evaluate_dataset(
            candidate, val, batch_size=config.eval.batch_size, workers=config.data.workers, world=world
        )
        return dict(zip(SCORE_COLUMNS, metrics.numbers(), strict=True))

    return evaluate


def _build_trainer(
    config: Config,
    model: EfficientDet,
    train: Dataset,
    val: Dataset,
    *,
    world: World,
    resumed: Path | None,
) -> Trainer:
    """Return the trainer with all its parts; the run folder is made last, when nothing else can fail."""
    import torch

    from effdet.config import Precision
    from effdet.kernels.blocks import fuse_for_training
    from effdet.runs.log import RunLog
    from effdet.training.ema import EMA
    from effdet.training.freezing import freeze
    from effdet.training.loop import Trainer
    from effdet.training.schedule import build_optimizer

    settings = config.train
    frozen = freeze(model.network, settings.freeze, bn_statistics=settings.freeze_bn)
    model.network.set_gradient_checkpointing(settings.gradient_checkpointing)
    if settings.channels_last:
        model.network.to(memory_format=torch.channels_last)
    if settings.fused and world.device.type == "cpu" and settings.precision is Precision.fp32 and not settings.compile:
        fuse_for_training(model.network)
    optimizer = build_optimizer(
        model.network, settings.optimizer, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    loader = _train_loader(config, model, train, world)
    evaluate = _evaluator(config, model, val, world)
    folder = resumed or world.broadcast(new_run_folder(config) if world.is_main else None)
    assert folder is not None
    return Trainer(
        model,
        criterion=_build_criterion(config),
        optimizer=optimizer,
        ema=EMA(model, settings.ema_decay),
        loader=loader,
        evaluate=evaluate,
        save_best=lambda best: best.save_pretrained(folder / "best.safetensors"),
        log=RunLog(folder if world.is_main else None),
        folder=folder,
        world=world,
        frozen=frozen,
        settings=_settings(config, loader.steps_per_epoch, len(train)),
    )


def _settings(config: Config, micro_steps_per_epoch: int, num_images: int) -> Settings:
    """Return the numbers of the loop, the learning rate of each step among them."""
    from effdet.training.loop import Settings
    from effdet.training.schedule import learning_rate, scale_learning_rate

    train = config.train
    assert train.epochs is not None
    assert config.eval.every is not None
    steps_per_epoch = math.ceil(micro_steps_per_epoch / train.accumulate)
    schedule = functools.partial(
        learning_rate,
        peak=scale_learning_rate(train.lr, train.batch_size, train.optimizer),
        warmup_steps=round(train.warmup_epochs * steps_per_epoch),
        total_steps=train.epochs * steps_per_epoch,
    )
    return Settings(
        epochs=train.epochs,
        learning_rate=schedule,
        accumulate=train.accumulate,
        plain_epochs=config.data.augment.plain_epochs,
        clip_norm=train.clip_norm,
        precision=train.precision,
        channels_last=train.channels_last,
        compile=train.compile,
        evaluate_every=config.eval.every,
        checkpoint_minutes=train.checkpoint_minutes,
        seed=config.run.seed,
        num_images=num_images,
    )
