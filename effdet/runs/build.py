"""Build the parts of a run from its config; beyond these functions there are only plain values."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from timm.layers.norm_act import convert_sync_batchnorm

from effdet.config import ConfigError
from effdet.data.loader import TrainLoader
from effdet.data.order import scaled_size
from effdet.kernels.blocks import fuse_for_training
from effdet.runs.checkpoints import Checkpoints
from effdet.runs.device import choose_precision
from effdet.runs.evaluate import check_measurable, evaluate_dataset
from effdet.runs.first_batch import draw_first_batch
from effdet.runs.fusion_weights import FusionLog
from effdet.runs.log import CLASS_PREFIX, SCORE_COLUMNS, RunLog
from effdet.runs.teacher import build_teacher
from effdet.runs.training_run import Plan, TrainingRun
from effdet.runs.training_tiles import tiles_of, validation_views
from effdet.runs.validation_loss import validation_loss
from effdet.runs.workers import choose_workers
from effdet.training.ema import EMA
from effdet.training.freezing import freeze
from effdet.training.loop import Progress
from effdet.training.losses import DetectionLoss
from effdet.training.schedule import build_optimizer, learning_rate, scale_learning_rate
from effdet.training.step import StepSettings, Trainer

if TYPE_CHECKING:
    from effdet.config import Config, TrainConfig
    from effdet.data.dataset import Dataset
    from effdet.detector.efficientdet import EfficientDet
    from effdet.training.distributed import World


def build_run(
    config: Config,
    model: EfficientDet,
    train: Dataset,
    val: Dataset,
    *,
    world: World,
    open_folder: Callable[[], Path],
    fingerprints: Mapping[str, Mapping[str, str]],
) -> TrainingRun:
    """Return a run with all its parts.

    Args:
        config: Resolved.
        model: On its device.
        train: Training images.
        val: Validation images.
        world: The processes of the run.
        open_folder: Creates or opens the run folder; called on the main process when nothing else can fail any more.
        fingerprints: Of the ``train`` and the ``val`` images; see ``Dataset.fingerprint``.

    Raises:
        ConfigError: If settings do not go together.
        ValueError: If AP cannot be measured on the validation images.
    """
    loader = build_loader(config, model, train, world)
    plan = build_plan(config)
    trainer = build_trainer(config, model, world, steps_per_epoch=plan.steps_per_epoch(loader))
    evaluate = build_evaluation(config, model, val, world)
    folder = world.broadcast(open_folder() if world.is_main else None)
    assert folder is not None
    progress, reporting = Progress(), folder if world.is_main else None
    total_steps = plan.epochs * plan.steps_per_epoch(loader)
    return TrainingRun(
        trainer=trainer,
        loader=loader,
        progress=progress,
        checkpoints=Checkpoints(
            folder,
            trainer,
            progress,
            steps_per_epoch=plan.steps_per_epoch(loader),
            num_images=loader.num_items,
            fingerprints=fingerprints,
            description=model.description(),
            minutes=config.train.checkpoint_minutes,
        ),
        evaluate=evaluate,
        save_best=lambda best: best.save_pretrained(folder / "best.safetensors"),
        log=RunLog(reporting, total_steps=total_steps, loggers=config.run.loggers),
        plan=plan,
        views=validation_views(config.data),
        show_first_batch=lambda batch: draw_first_batch(folder / "first_batch.png", model, batch),
        fusion_log=FusionLog(reporting, model.network.neck, total_steps=total_steps),
    )


def build_trainer(config: Config, model: EfficientDet, world: World, *, steps_per_epoch: int) -> Trainer:
    """Return what does the steps; the model gets the memory layout and the kernels that the config asks for."""
    train = config.train
    precision = choose_precision(train.precision, world.device)
    if train.sync_bn:
        synchronise_bn(model, world)
    frozen = freeze(model.network, train.freeze, bn_statistics=train.freeze_bn)
    model.network.set_gradient_checkpointing(train.gradient_checkpointing)
    if train.channels_last:
        model.network.to(memory_format=torch.channels_last)
    if train.fused and world.device.type == "cpu" and not train.compile:
        fuse_for_training(model.network)
    return Trainer(
        model,
        criterion=build_criterion(train),
        optimizer=build_optimizer(
            model.network, train.optimizer, momentum=train.momentum, weight_decay=train.weight_decay
        ),
        ema=EMA(model, train.ema_decay),
        world=world,
        frozen=frozen,
        teacher=build_teacher(train, model),
        settings=StepSettings(
            learning_rate=build_schedule(train, steps_per_epoch),
            clip_norm=train.clip_norm,
            precision=precision,
            channels_last=train.channels_last,
            compile=train.compile,
            seed=config.run.seed,
        ),
    )


def synchronise_bn(model: EfficientDet, world: World) -> None:
    """Let BN compute the statistics of a batch over the images of all processes; for one process nothing changes.

    Raises:
        ConfigError: If the device is not CUDA, for which alone PyTorch can do so.
    """
    if world.device.type != "cuda":
        raise ConfigError(f"train.sync_bn needs run.device cuda, got {world.device.type}")
    if world.size > 1:
        model.network = convert_sync_batchnorm(model.network)


def build_criterion(train: TrainConfig) -> DetectionLoss:
    """Return the loss of a batch."""
    return DetectionLoss(
        assigner=train.assigner,
        topk=train.topk,
        class_loss=train.class_loss,
        alpha=train.focal_alpha,
        gamma=train.focal_gamma,
        label_smoothing=train.label_smoothing,
        box_loss=train.box_loss,
        huber_delta=train.huber_delta,
        box_weight=train.box_weight,
        mask_zero_targets=train.mask_zero_targets,
        fused=train.fused,
    )


def build_schedule(train: TrainConfig, steps_per_epoch: int) -> Callable[[int], float]:
    """Return the learning rate of a step, which is counted from 0."""
    assert train.epochs is not None
    return functools.partial(
        learning_rate,
        peak=scale_learning_rate(train.lr, train.batch_size, train.optimizer),
        warmup_steps=round(train.warmup_of(train.epochs) * steps_per_epoch),
        total_steps=train.epochs * steps_per_epoch,
    )


def build_plan(config: Config) -> Plan:
    """Return how long the run is and how often it is evaluated."""
    assert config.train.epochs is not None
    assert config.eval.every is not None
    return Plan(
        epochs=config.train.epochs,
        accumulate=config.train.accumulate,
        plain_start=config.data.augment.plain_start,
        plain_epochs=config.data.augment.plain_epochs_of(config.train.epochs),
        evaluate_every=config.eval.every,
        patience=config.train.patience,
    )


def build_loader(config: Config, model: EfficientDet, train: Dataset, world: World) -> TrainLoader:
    """Return the loader of this process's micro-batches.

    Raises:
        ConfigError: If the batch cannot be divided evenly, or is too small for BN statistics.
    """
    batch_size = _micro_batch_size(config, model, world)
    return TrainLoader(
        train,
        image_size=(model.image_size[0], model.image_size[1]),
        batch_size=batch_size,
        augment=config.data.augment,
        seed=config.run.seed,
        workers=choose_workers(config.data.workers, world.device, local_size=world.local_size),
        fill=model.letterbox.channel_fill,
        fit=model.preprocessing.fit,
        tiles=tiles_of(config.data),
        multi_scale=config.data.multi_scale,
        rank=world.rank,
        world_size=world.size,
        pin_memory=world.device.type == "cuda",
    )


def _micro_batch_size(config: Config, model: EfficientDet, world: World) -> int:
    """Return the images of one micro-batch of one process."""
    parts = config.train.accumulate * world.size
    if config.train.batch_size % parts:
        raise ConfigError(
            f"train.batch_size must be divisible by train.accumulate × processes = {parts}, "
            f"got {config.train.batch_size}; the nearest is {max(1, round(config.train.batch_size / parts)) * parts}"
        )
    batch_size, coarsest_stride = config.train.batch_size // parts, model.architecture.coarsest_stride
    scales = config.data.multi_scale
    smallest = model.image_size if scales is None else scaled_size(model.image_size, scales[0])
    if batch_size == 1 and max(smallest) <= coarsest_stride:
        raise ConfigError(
            "a forward pass needs two images, or one that is larger than the coarsest stride "
            f"{coarsest_stride}, for BN statistics; raise train.batch_size or data.image_size"
        )
    return batch_size


def build_evaluation(
    config: Config, model: EfficientDet, val: Dataset, world: World
) -> Callable[[EfficientDet], Mapping[str, float]]:
    """Return the function that scores a model on the validation images, which all processes share.

    Raises:
        ValueError: If AP cannot be measured on them.
        ConfigError: If ``eval.loss`` is asked for with tiles.
    """
    check_measurable(model, val)
    if config.eval.loss and config.data.tiles is not None:
        raise ConfigError(
            f"eval.loss must be false where images are cut into tiles, got data.tiles={config.data.tiles}; the "
            "validation images are whole"
        )
    views, criterion = validation_views(config.data), build_criterion(config.train)

    def evaluate(candidate: EfficientDet) -> Mapping[str, float]:
        metrics = evaluate_dataset(
            candidate, val, batch_size=config.eval.batch_size, workers=config.data.workers, views=views, world=world
        )
        scores = dict(zip(SCORE_COLUMNS, metrics.numbers(), strict=True))
        if config.eval.loss:
            scores |= validation_loss(
                candidate,
                val,
                criterion,
                batch_size=config.eval.batch_size,
                workers=config.data.workers,
                world=world,
            )
        return scores | {f"{CLASS_PREFIX}{name}": ap for name, ap in metrics.per_class.items()}

    return evaluate
