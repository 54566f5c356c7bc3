"""The sections of a config: every key is a field with its unit and meaning, and is checked on arrival."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from effdet.config.choices import (
    AUTO_BATCH,
    AUTO_TILES,
    Assigner,
    BoxLoss,
    ClassLoss,
    Freeze,
    LoggerKind,
    NmsKind,
    Optimizer,
    Precision,
    Resize,
)
from effdet.config.errors import check


@dataclass(frozen=True, kw_only=True)
class ArchitectureConfig:
    """The fields of ``effdet.Architecture``, which has their meaning; null: as the model below it has them."""

    backbone: str | None = None
    backbone_blocks: list[list[str]] | None = None
    stem_channels: int | None = None
    image_size: tuple[int, int] | None = None
    in_channels: int | None = None
    channels: int | None = None
    neck: str | None = None
    fusion: str | None = None
    neck_repeats: int | None = None
    head_repeats: int | None = None
    head_channels: int | None = None
    activation: str | None = None
    head_activation: str | None = None
    separable: bool | None = None
    conv_order: str | None = None
    skip_edges: bool | None = None
    single_input_nodes: bool | None = None
    min_level: int | None = None
    max_level: int | None = None
    anchor_scale: float | None = None
    scales_per_octave: int | None = None
    aspect_ratios: list[Any] | None = None
    mean: list[float] | None = None
    std: list[float] | None = None
    backbone_bn_eps: float | None = None
    stochastic_depth: float | None = None
    expanded_features: bool | None = None
    downsampling: str | None = None
    upsampling: str | None = None
    conv_bias: bool | None = None

    def given(self) -> dict[str, Any]:
        """Return the fields that are not null."""
        return {item.name: value for item in fields(self) if (value := getattr(self, item.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What is built, and from which weights it starts."""

    name: str | None = None  # a published model, see effdet.list_variants(); null: that of phi, of weights, or d0
    phi: float | None = None  # compound coefficient, 0 or more, in place of a name: see Architecture.from_phi
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)  # laid over the model of name or phi
    num_classes: int | None = None  # number of classes; null: as many as the data has
    weights: str | None = None  # whole detector to start from: a file, the name of a published one, hf-hub:OWNER/NAME
    backbone_weights: str | None = None  # to start from: "imagenet", a timm tag, or a file; null: random numbers
    stochastic_depth: float | None = None  # drop rate of the last backbone block; null: the architecture's

    def __post_init__(self) -> None:
        classes, depth, phi = self.num_classes, self.stochastic_depth, self.phi
        if phi is not None:
            check(0 <= phi < math.inf, "model.phi", "be a number, 0 or more", phi)
            check(self.name is None, "model.name", "be null where model.phi is set", self.name)
        check(classes is None or classes >= 1, "model.num_classes", "be 1 or more", classes)
        check(depth is None or 0 <= depth < 1, "model.stochastic_depth", "lie in [0, 1)", depth)


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """Augmentation of training images. Probabilities lie in [0, 1]; 0 switches a step off."""

    horizontal_flip: float = 0.5  # probability
    vertical_flip: float = 0.0  # probability
    scale: tuple[float, float] = (0.1, 2.0)  # scale jitter relative to the letterboxed image, then crop or pad
    color: float = 0.0  # strength of brightness, contrast, saturation and hue changes, in [0, 1]
    safe_crop: float = 0.0  # probability of a crop that keeps every box
    mosaic: float = 0.0  # probability of four images in one
    mixup: float = 0.0  # probability of blending in a second image
    plain_start: int = 0  # epochs at the start without mosaic and mixup
    plain_epochs: int | None = 0  # epochs at the end without mosaic and mixup; null: a fifth of the run
    transforms: list[dict[str, Any]] = field(
        default_factory=list
    )  # of albumentations, after the others: {name: …, p: …}

    def __post_init__(self) -> None:
        for name in ("horizontal_flip", "vertical_flip", "color", "safe_crop", "mosaic", "mixup"):
            check(0 <= getattr(self, name) <= 1, f"data.augment.{name}", "lie in [0, 1]", getattr(self, name))
        low, high = self.scale
        check(0 < low <= high, "data.augment.scale", "be two numbers 0 < low <= high", list(self.scale))
        check(self.plain_start >= 0, "data.augment.plain_start", "be 0 or more", self.plain_start)
        plain = self.plain_epochs
        check(plain is None or plain >= 0, "data.augment.plain_epochs", "be 0 or more", plain)

    def plain_epochs_of(self, epochs: int) -> int:
        """Return how many epochs at the end of a run of so many are without mosaic and mixup."""
        return round(epochs / 5) if self.plain_epochs is None else self.plain_epochs


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the images are and how they reach the network. File names are relative to ``root``."""

    root: str = "data/coco"  # folder with the data, or its address
    train_annotations: str | None = None  # in any format; null: found in root by its layout
    train_images: str | None = None  # folder of the images; null: found in root by its layout
    val_annotations: str | None = None  # as train_annotations
    val_images: str | None = None  # as train_images
    image_size: tuple[int, int] | None = None  # network input (height, width); null: see long_side
    long_side: int | None = None  # longer side of the input, its shape follows the images; null: model's size
    max_long_side: int | None = None  # long_side grows up to this where objects are small; null: it never grows
    multi_scale: tuple[float, float] | None = None  # factors of the input size; each training batch has its own
    keep_parent: bool = False  # true: a category without boxes that is the parent of all others is a class, too
    max_train_images: int | None = None  # use at most this many, the same in every run; null: all
    max_val_images: int | None = None  # as max_train_images
    tiles: Any = None  # cut images into tiles: a side or [height, width] in pixels, or auto; null: whole images
    tile_overlap: float | None = None  # share of a tile's side; null: 0.2, or as long as objects with tiles: auto
    value_range: tuple[float, float] | None = None  # stored values that become 0 and 255; null: 8 bits, or the data's
    resize: Resize = Resize.letterbox  # stretch: fill the input without padding like MediaPipe: docs/how-to/edge.md
    workers: int | None = None  # loader processes per training process; null: chosen from the machine
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def __post_init__(self) -> None:
        if self.image_size is not None:
            check(min(self.image_size) >= 32, "data.image_size", "be at least 32 on each side", list(self.image_size))
            check(self.long_side is None, "data.long_side", "be null where data.image_size is set", self.long_side)
        check(self.long_side is None or self.long_side >= 32, "data.long_side", "be 32 or more", self.long_side)
        if self.max_long_side is not None:
            check(
                self.long_side is not None and self.max_long_side >= self.long_side,
                "data.max_long_side",
                f"be at least data.long_side={self.long_side}",
                self.max_long_side,
            )
        if self.multi_scale is not None:
            low, high = self.multi_scale
            check(
                0 < low <= high < math.inf, "data.multi_scale", "be two numbers 0 < low <= high", list(self.multi_scale)
            )
        check(_are_tiles(self.tiles), "data.tiles", f"be a side, [height, width], {AUTO_TILES} or null", self.tiles)
        overlap = self.tile_overlap
        good = overlap is None or (self.tiles is not None and 0 <= overlap <= 0.9)
        check(good, "data.tile_overlap", "lie in [0, 0.9], and be null where data.tiles is null", overlap)
        if self.value_range is not None:
            low, high = self.value_range
            good = math.isfinite(low) and math.isfinite(high) and low < high
            check(good, "data.value_range", "be two finite numbers low < high", list(self.value_range))
        for name in ("max_train_images", "max_val_images"):
            number = getattr(self, name)
            check(number is None or number >= 1, f"data.{name}", "be 1 or more", number)
        check(self.workers is None or self.workers >= 0, "data.workers", "be 0 or more", self.workers)


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The optimisation. Defaults are the published recipe."""

    epochs: int | None = None  # null: chosen from the number of images
    batch_size: Any = 64  # images per optimizer step, over all processes; auto: as many as the memory holds, up to 64
    accumulate: int = 1  # micro-batches that a step is split into, to save memory
    optimizer: Optimizer = Optimizer.sgd  # adamw suits small data sets
    lr: float = 0.08  # peak, for batch_size 64; scaled by batch_size / 64 (AdamW: by its square root)
    warmup_epochs: float | None = 1.0  # null: warmup_share of the run
    warmup_share: float = 0.05  # of the run, in [0, 1]; used where warmup_epochs is null
    momentum: float = 0.9  # SGD momentum, or AdamW's beta1
    weight_decay: float = 4e-5  # on convolution kernels only
    clip_norm: float = 10.0  # L2 norm of the whole gradient, clipped at every step
    ema_decay: float = 0.9998  # moving average of weights and BN statistics; 0: none
    assigner: Assigner = Assigner.iou  # rule by which anchors learn boxes
    topk: int | None = None  # anchors that a box chooses (atss: cells of each level); null: 13, simota 10, atss 9
    class_loss: ClassLoss = ClassLoss.focal  # loss of the class head
    box_loss: BoxLoss = BoxLoss.huber  # loss of the box head
    box_weight: float | None = None  # null: 50 for huber, 5 for the IoU losses
    focal_alpha: float | None = None  # null: 0.25 for focal, 0.75 for varifocal; quality_focal has none
    focal_gamma: float | None = None  # null: 1.5 for focal, 2 for quality_focal and varifocal
    label_smoothing: float = 0.0  # focal only
    huber_delta: float = 0.1  # error of a box target up to which the Huber loss is a square
    mask_zero_targets: bool = False  # leave out box targets of exactly 0 (huber only), as the published models did
    precision: Precision = Precision.auto  # of the forward and backward pass; auto: bf16 where it is faster
    teacher: str | None = None  # a larger detector whose predictions are learned too: weights as for model.weights
    teacher_weight: float | None = None  # weight of what it adds to the losses; null: 1 with a teacher
    sync_bn: bool = False  # on several GPUs: BN statistics over the images of all of them
    channels_last: bool = True  # keep images and features with the channels last in memory, which is faster
    compile: bool = False  # torch.compile the network
    fused: bool = True  # on a CPU: kernels of our own, if the system has a C++ compiler to make them with
    gradient_checkpointing: bool = False  # recompute activations in the backward pass, to save memory
    freeze: Freeze = Freeze.none  # parts that keep their weights and BN statistics
    freeze_bn: bool = False  # keep the BN statistics of the backbone
    patience: int | None = None  # evaluations without a better AP after which the run ends; null: it goes on to the end
    checkpoint_minutes: float = 5.0  # longest time between two writings of last.ckpt

    def __post_init__(self) -> None:
        check(self.epochs is None or self.epochs >= 1, "train.epochs", "be 1 or more", self.epochs)
        is_number = isinstance(self.batch_size, int) and not isinstance(self.batch_size, bool)
        good = self.batch_size == AUTO_BATCH or (is_number and self.batch_size >= 1)
        check(good, "train.batch_size", f"be 1 or more, or {AUTO_BATCH}", self.batch_size)
        check(
            self.accumulate >= 1 and (not is_number or self.batch_size % self.accumulate == 0),
            "train.accumulate",
            f"divide train.batch_size={self.batch_size}",
            self.accumulate,
        )
        check(self.lr > 0 and math.isfinite(self.lr), "train.lr", "be positive", self.lr)
        warmup, epochs = self.warmup_epochs, self.epochs
        if warmup is not None:
            check(warmup >= 0, "train.warmup_epochs", "be 0 or more", warmup)
            check(
                epochs is None or warmup <= epochs, "train.warmup_epochs", f"lie in [0, train.epochs={epochs}]", warmup
            )
        check(0 <= self.warmup_share <= 1, "train.warmup_share", "lie in [0, 1]", self.warmup_share)
        check(self.weight_decay >= 0, "train.weight_decay", "be 0 or more", self.weight_decay)
        check(self.clip_norm > 0, "train.clip_norm", "be positive", self.clip_norm)
        check(0 <= self.ema_decay < 1, "train.ema_decay", "lie in [0, 1)", self.ema_decay)
        check(0 <= self.momentum < 1, "train.momentum", "lie in [0, 1)", self.momentum)
        check(self.box_weight is None or self.box_weight > 0, "train.box_weight", "be positive", self.box_weight)
        self._check_assignment_and_losses()
        check(self.huber_delta > 0, "train.huber_delta", "be positive", self.huber_delta)
        check(0 <= self.label_smoothing < 1, "train.label_smoothing", "lie in [0, 1)", self.label_smoothing)
        check(self.patience is None or self.patience >= 1, "train.patience", "be 1 or more", self.patience)
        check(self.checkpoint_minutes > 0, "train.checkpoint_minutes", "be positive", self.checkpoint_minutes)

    def warmup_of(self, epochs: int) -> float:
        """Return the length of the warm-up, in epochs, of a run of so many epochs."""
        return self.warmup_share * epochs if self.warmup_epochs is None else self.warmup_epochs

    def _check_assignment_and_losses(self) -> None:
        alpha, gamma, chosen = self.focal_alpha, self.focal_gamma, f"train.class_loss={self.class_loss.value}"
        check(alpha is None or 0 <= alpha <= 1, "train.focal_alpha", "lie in [0, 1]", alpha)
        check(gamma is None or gamma >= 0, "train.focal_gamma", "be 0 or more", gamma)
        no_alpha = self.class_loss is ClassLoss.quality_focal
        check(not (no_alpha and alpha is not None), "train.focal_alpha", f"be null with {chosen}", alpha)
        smooth = self.label_smoothing
        check(smooth == 0 or self.class_loss is ClassLoss.focal, "train.label_smoothing", f"be 0 with {chosen}", smooth)
        check(self.topk is None or self.topk >= 1, "train.topk", "be 1 or more", self.topk)
        weight = self.teacher_weight
        good = weight is None or (self.teacher is not None and 0 < weight < math.inf)
        check(good, "train.teacher_weight", "be positive, and null where train.teacher is null", weight)
        fixed = self.assigner is Assigner.iou
        check(not (fixed and self.topk is not None), "train.topk", "be null with train.assigner=iou", self.topk)


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """How predictions become detections, and how often the model is evaluated while training."""

    every: int | None = None  # epochs between evaluations; null: about ten in a run
    batch_size: int = 8  # images per process that go through the network together
    loss: bool = False  # also compute the losses on the validation images, in another pass over them
    nms: NmsKind = NmsKind.soft  # drop overlapping boxes (hard), or decay their scores (soft)
    iou_threshold: float = 0.5  # of hard NMS: overlap with a better box above which a box is dropped
    sigma: float = 0.5  # of soft NMS: width of the decay
    score_threshold: float = 0.001  # detections below this score are left out
    max_candidates: int = 5000  # best (anchor, class) pairs of an image that NMS sees
    max_detections: int = 100  # most detections of an image

    def __post_init__(self) -> None:
        check(self.every is None or self.every >= 1, "eval.every", "be 1 or more", self.every)
        check(self.batch_size >= 1, "eval.batch_size", "be 1 or more", self.batch_size)
        check(0 <= self.iou_threshold <= 1, "eval.iou_threshold", "lie in [0, 1]", self.iou_threshold)
        check(self.sigma > 0, "eval.sigma", "be positive", self.sigma)
        check(0 <= self.score_threshold <= 1, "eval.score_threshold", "lie in [0, 1]", self.score_threshold)
        check(self.max_candidates >= 1, "eval.max_candidates", "be 1 or more", self.max_candidates)
        check(self.max_detections >= 1, "eval.max_detections", "be 1 or more", self.max_detections)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Where the results go, and on what the run happens."""

    dir: str = "runs"  # folder of the run folders
    name: str | None = None  # null: the name of the config file; a name in use gets a number
    seed: int = 0  # of everything random: order, augmentation, first weights
    device: str = "auto"  # auto: cuda if there is one, else cpu
    threads: int | None = None  # CPU threads of torch; null: torch's own choice
    loggers: list[LoggerKind] | None = None  # such as [tensorboard, wandb, mlflow]; null: tensorboard if installed
    report: bool = True  # write report.html at the end, and store the threshold that it recommends in best.safetensors

    def __post_init__(self) -> None:
        if self.name is not None:
            is_folder_name = self.name not in ("", ".", "..") and not set(self.name) & set("/\\\0")
            must = "be the name of a folder inside run.dir, without a path; another place is set by run.dir"
            check(is_folder_name, "run.name", must, repr(self.name))
        check(self.seed >= 0, "run.seed", "be 0 or more", self.seed)
        check(self.threads is None or self.threads >= 1, "run.threads", "be 1 or more", self.threads)


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole run."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    eval: EvalConfig = field(default_factory=EvalConfig)
    run: RunConfig = field(default_factory=RunConfig)


def _are_tiles(value: Any) -> bool:
    """Return whether a value can be ``data.tiles``: in pixels, so that tiny sides are a mistake."""
    sides = value if isinstance(value, list | tuple) and len(value) == 2 else [value]
    whole = all(isinstance(side, int) and not isinstance(side, bool) and side >= 32 for side in sides)
    return value is None or value == AUTO_TILES or whole
