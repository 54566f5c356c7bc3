"""``EfficientDet``: the network with everything around it that a pipeline needs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdet.detector.batches import ArrayBatch, to_detections
from effdet.detector.evaluation_copies import EvaluationCopies, unwrapped, without_wrapper_names
from effdet.detector.image_size import check_image_size
from effdet.detector.inputs import (
    KnownNumbers,
    at_least_float32,
    check_can_train,
    check_images,
    check_targets,
    letterbox_tensors,
    normalise,
)
from effdet.detector.new_classes import check_classes, head_like
from effdet.detector.prediction import PredictsFiles
from effdet.detector.saving import describe, push, save
from effdet.images.letterbox import Letterbox
from effdet.images.pixel_format import check_range
from effdet.images.preprocessing import Preprocessing
from effdet.models.anchors import anchors_of
from effdet.models.architecture import Architecture
from effdet.models.network import Network, build_class_head
from effdet.ops.postprocess import postprocess
from effdet.ops.settings import PostprocessSettings
from effdet.ops.tiles import Tiles
from effdet.structures import Batch, Detections, Predictions, Target
from effdet.training.losses import DetectionLoss
from effdet.weights.checkpoint import check_fit
from effdet.weights.imagenet import find_backbone_weights, load_backbone
from effdet.weights.loading import Loaded, load


class EfficientDet(PredictsFiles, nn.Module):
    """An EfficientDet detector that follows the contract of torchvision's detection models.

        model = EfficientDet("d0", num_classes=3)
        losses = model(images, targets)  # train mode: {"class_loss": (), "box_loss": ()}
        detections = model(images)       # eval mode: [{"boxes": (D, 4), "labels": (D,), "scores": (D,)}, …]
        results = model.predict("photo.jpg")

    Args:
        architecture: What the network is; or the name of a published one, see ``list_variants``.
        num_classes: K, without a background class.
        backbone_weights: None for random weights (never touches the network); "imagenet", a timm tag or a file:
            see ``find_backbone_weights``. They bring their own mean and standard deviation, unless images are not 8-bit
            RGB. For another number of channels, their stem is inflated (``effdet.weights.stem.inflate``).
        image_size: Network input, one side or (height, width); any size. Default: that of the architecture.
        class_names: One name per class. Default: the label as text.
        category_ids: The data set's own id of each class. Default: the label.
        stochastic_depth: Drop rate of the last backbone block while training. Default: the architecture's.
        settings: How predictions become detections.
        preprocessing: How images become the network input.
        training_tiles: Tiles of an image in which objects have the size in the network input that they had in training:
            what ``predict(..., tiles="auto")`` takes.
        predict_threshold: Score threshold of ``predict`` where it is given none; None: 0.3.
        value_range: Stored values of images that become the levels 0 and 255; None: images have 8-bit levels. See
            ``effdet.images.pixel_format.PixelFormat``.

    Raises:
        ValueError: If no architecture has that name, or a number or a length does not fit.
        FileNotFoundError: If backbone weights are missing and cannot be downloaded.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        architecture: str | Architecture,
        num_classes: int = 90,
        *,
        backbone_weights: str | None = None,
        image_size: int | tuple[int, int] | None = None,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        stochastic_depth: float | None = None,
        settings: PostprocessSettings | None = None,
        preprocessing: Preprocessing | None = None,
        training_tiles: Tiles | None = None,
        predict_threshold: float | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.architecture = _architecture(architecture)
        self.name = self.architecture.name
        self.image_size = self.architecture.image_size if image_size is None else image_size
        self.stochastic_depth = self.architecture.stochastic_depth if stochastic_depth is None else stochastic_depth
        self.settings = settings or PostprocessSettings()
        self.preprocessing = preprocessing or Preprocessing()
        self.training_tiles = training_tiles
        self.predict_threshold = predict_threshold
        self.value_range = None if value_range is None else check_range(value_range)
        self.criterion = DetectionLoss()
        self.num_classes, self.class_names, self.category_ids = check_classes(num_classes, class_names, category_ids)

        self.network = Network(self.architecture, num_classes, stochastic_depth=self.stochastic_depth)
        self.register_buffer("mean", torch.tensor(self.architecture.mean), persistent=False)
        self.register_buffer("std", torch.tensor(self.architecture.std), persistent=False)
        self._known_mean, self._known_std = KnownNumbers(), KnownNumbers()
        self.start = "random weights"
        if backbone_weights is not None:
            name, is_custom = self.architecture.backbone, self.architecture.backbone_blocks is not None
            weights = find_backbone_weights(backbone_weights, name)
            custom = f"backbone_blocks, which must have the layers of {name} for its weights"
            load_backbone(self.network.backbone, weights, what=custom if is_custom else "the backbone")
            if self.letterbox.pixels.is_rgb:  # other images have a mean of their own
                self.mean.copy_(torch.tensor(weights.mean))
                self.std.copy_(torch.tensor(weights.std))
            self.start = f"backbone weights from {weights.source}; neck and heads random"
        self._anchors: dict[tuple[tuple[int, int], torch.device], Tensor] = {}
        self._evaluation_copies = EvaluationCopies()

    # ------------------------------------------------------------------ torchvision's contract

    def forward(
        self,
        images: Sequence[Tensor] | Tensor,
        targets: Sequence[Mapping[str, Tensor]] | None = None,
    ) -> dict[str, Tensor] | list[dict[str, Tensor]]:
        """Return losses in training mode, detections in evaluation mode.

        Args:
            images: List of (C, H, W) float tensors in [0, 1], of any sizes; or one (B, C, H, W) tensor. C is the
                architecture's ``in_channels``: 3, RGB, for all published ones.
            targets: Training only: for each image ``boxes`` (M, 4) xyxy pixels of that image and ``labels`` (M,) int64
                in 0…K-1. An image without boxes is a negative.

        Returns:
            Training: ``{"class_loss": (), "box_loss": ()}``, their weights applied.
            Evaluation: for each image ``boxes`` (D, 4) float32 xyxy pixels of that image, ``labels`` (D,) int64,
            ``scores`` (D,) float32; best score first.

        Raises:
            TypeError, ValueError: If images or targets do not fit; the message names the image by its index.
        """
        checked = [
            at_least_float32(image.to(self.device)) * 255
            for image in check_images(images, self.architecture.in_channels)
        ]
        if self.training:
            originals = check_targets(targets, len(checked), self.num_classes)
            check_can_train(len(checked), self.dtype, self.image_size, self.architecture.coarsest_stride)
        batch, content_sizes, scales, original_sizes = letterbox_tensors(checked, self.letterbox)
        predictions = self._predict_raw(self.network, self.normalise(batch, content_sizes))
        if self.training:
            scaled = [
                Target(target.boxes.to(self.device) * factors.repeat(2).to(self.device), target.classes.to(self.device))
                for target, factors in zip(originals, scales, strict=True)
            ]
            return self.criterion(predictions, self.anchors(self.image_size, self.device), scaled)
        results = self._postprocess(predictions, scales, original_sizes, self.image_size)
        return [{"boxes": boxes, "labels": labels, "scores": scores} for boxes, labels, scores in results]

    def _predict_raw(self, network: Callable[[Tensor], Predictions], images: Tensor) -> Predictions:
        """Return float32 predictions of a network that computes in the type of its weights."""
        return network(images.to(self.dtype)).float()

    # ------------------------------------------------------------------ from files to detections

    @torch.inference_mode()
    def detect(self, batch: Batch | ArrayBatch, *, least_score: float = 0.0) -> list[Detections]:
        """Return the detections of a letterboxed batch, in pixels of the original images, on the CPU.

        The network computes in evaluation mode, whatever mode the model is in, and the model stays as it is: it may be
        called from several threads at once, also while another one trains the model.

        Args:
            batch: The images.
            least_score: Detections that score less are left out, before NMS.
        """
        batch = batch.to_batch() if isinstance(batch, ArrayBatch) else batch
        predict = functools.partial(self._evaluation_copies.predict, self.network)
        predictions = self._predict_raw(predict, self.network_input(batch))
        return self.postprocess(predictions, batch, least_score=least_score)

    def network_input(self, batch: Batch) -> Tensor:
        """Return the images of a letterboxed batch as (B, C, H, W) float32 on the device of the weights, normalised.

        Their memory format is channels last, and so will be that of all feature maps: convolutions on a CPU are faster.
        """
        images = batch.images.to(self.device, non_blocking=True)
        if not images.is_floating_point():  # else the letterbox has normalised them
            images = self.normalise(images, batch.content_sizes)
        return images.contiguous(memory_format=torch.channels_last)

    def postprocess(self, predictions: Predictions, batch: Batch, *, least_score: float = 0.0) -> list[Detections]:
        """Return the detections that the predictions of a letterboxed batch stand for, on the CPU; see ``detect``."""
        image_size = (batch.images.shape[-2], batch.images.shape[-1])
        results = self._postprocess(predictions, batch.scales, batch.original_sizes, image_size, least_score)
        return to_detections(results, batch, self)

    def _postprocess(
        self,
        predictions: Predictions,
        scales: Tensor,
        original_sizes: Tensor,
        image_size: tuple[int, int],
        least_score: float = 0.0,
    ) -> list[tuple[Tensor, Tensor, Tensor]]:
        anchors = self.anchors(image_size, predictions.box_deltas.device)
        return postprocess(
            predictions,
            anchors,
            scales=scales,
            original_sizes=original_sizes,
            settings=self.settings.with_least_score(least_score),
            image_size=image_size,
        )

    # ------------------------------------------------------------------ parts that training uses

    def normalise(self, images: Tensor, content_sizes: Tensor) -> Tensor:
        """Return (B, C, H, W) images, uint8 or float in 0…255, as the network's float32 input."""
        zero_padding = self.preprocessing.zero_padding
        return normalise(images, content_sizes if zero_padding else None, self.mean, self.std)

    def anchors(self, image_size: tuple[int, int], device: torch.device | str) -> Tensor:
        """Return the (N, 4) float32 xyxy anchors for a network input of this size; kept for the next call."""
        key = (image_size, torch.device(device))
        if key not in self._anchors:
            with torch.inference_mode(False):  # training uses them too
                self._anchors[key] = anchors_of(self.architecture, image_size, device)
        return self._anchors[key]

    @property
    def device(self) -> torch.device:
        """Device that the weights lie on."""
        return self.mean.device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights, in which the network computes; losses and detections are float32 all the same."""
        return next(self.network.parameters()).dtype

    @property
    def takes_any_size(self) -> bool:
        """Whether the network input may have another size than ``image_size``: always."""
        return True

    @property
    def image_size(self) -> tuple[int, int]:
        """Network input (height, width) in pixels; it is set by one side or by a pair."""
        return self._image_size

    @image_size.setter
    def image_size(self, size: int | tuple[int, int]) -> None:
        self._image_size = check_image_size(size)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> EfficientDet:
        """Move or convert all tensors, as ``to`` and ``half`` do, but keep mean and standard deviation in float32."""
        exact = {"mean": self.mean, "std": self.std}
        super()._apply(fn, recurse)
        for name, values in exact.items():
            setattr(self, name, values.to(getattr(self, name).device))
        return self

    @property
    def letterbox(self) -> Letterbox:
        """What brings images into the frame of the network input; it can be sent to loader processes."""
        return Letterbox(
            image_size=self.image_size,
            mean=self._known_mean.of(self.mean),
            std=self._known_std.of(self.std),
            preprocessing=self.preprocessing,
            value_range=self.value_range,
        )

    @property
    def fill(self) -> tuple[int, int, int]:
        """The uint8 RGB of the padding before it is normalised: the mean colour unless the preprocessing says else."""
        return self.letterbox.fill

    # ------------------------------------------------------------------ saving and loading

    def save_pretrained(self, path: str | Path, *, state: Mapping[str, Tensor] | None = None) -> None:
        """Write weights, class names, category ids, input size and settings to a file or a folder.

        Args:
            path: A ``.safetensors`` file; or a folder, which gets config.json, model.safetensors and, if it has none,
                README.md, as timm and the hub have them. Files are replaced atomically.
            state: Weights to write instead of the model's own, such as their moving average.

        Raises:
            ValueError: If the name is that of another kind of file.
        """
        save(self, path, state)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        message: str = "Upload EfficientDet",
        token: str | None = None,
    ) -> str:
        """Upload the folder of ``save_pretrained`` to a repository of the Hugging Face hub, in one commit.

        Args:
            repository: ``OWNER/NAME``; made if there is none. A README that it has already is kept.
            private: Whether a new repository is private. None: as the owner has set.
            revision: Branch to commit to. None: the main one.
            message: First line of the commit.
            token: Of the hub. None: that of ``hf auth login``.

        Returns:
            Address of the commit.

        Raises:
            ConnectionError: If the hub cannot be reached.
        """
        return push(self, repository, private=private, revision=revision, message=message, token=token)

    def description(self) -> dict[str, Any]:
        """Return all that is needed to use the weights again, as plain JSON values; it travels in every file."""
        return describe(self)

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        num_classes: int | None = None,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
        variant: str | None = None,
    ) -> EfficientDet:
        """Return the model of any weights, ours or another project's, in evaluation mode.

        The names of the tensors tell which project wrote them. Published detectors get the pre- and post-processing
        that they were published with (docs/explanations/presets.md), and those with 90 classes COCO's names and ids.

        Args:
            source: What ``save_pretrained`` or training wrote; a file of the projects effdet, zylo117 or google/automl;
                a state dict by our names; a folder with config.json and model.safetensors; ``hf-hub:OWNER/NAME``; or
                the name of a published file, such as "d0", which is downloaded once.
            num_classes: Replace the class head by a new one with this many classes, and keep the rest.
            class_names: Names for the classes.
            category_ids: Category ids for the classes.
            variant: Which model it is, for files whose tensors fit several, such as d6 and d7.

        Raises:
            FileNotFoundError: If there is no such source, or it cannot be downloaded; the message says what to do.
            ValueError: If it is damaged, holds no detector, or a tensor is missing, unknown or of another shape.
        """
        found = load(source, variant=variant)
        model = cls.from_loaded(found)
        if num_classes is not None and num_classes != model.num_classes:
            model.reset_classes(num_classes, class_names, category_ids)
            model.start += f", with a new class head for {num_classes} classes"
        else:
            model.name_classes(class_names, category_ids)
        return model.eval()

    @classmethod
    def from_loaded(cls, found: Loaded) -> EfficientDet:
        """Return the model of weights that have been read, in evaluation mode.

        Raises:
            ValueError: If a tensor is missing, unknown or of another shape.
        """
        model = cls(found.architecture, found.num_classes, **found.options)
        if found.mean is not None and found.std is not None:
            model.mean.copy_(torch.tensor(found.mean))
            model.std.copy_(torch.tensor(found.std))
        state = without_wrapper_names(found.state)  # also of a compiled network
        check_fit(model.state_dict(), state, f"{found.where} does not fit {model.name}")
        model.load_state_dict(state, strict=False)  # the counters of BN batches may be absent
        model.start = f"the detector in {found.where}"
        return model.eval()

    def reset_classes(
        self,
        num_classes: int,
        class_names: Sequence[str] | None = None,
        category_ids: Sequence[int] | None = None,
    ) -> None:
        """Give the model a new class head with random weights and the published prior, for other classes.

        The new head has the mode, device, data type and memory format of the old one.

        Args:
            num_classes: K, without a background class.
            class_names: One name per class. Default: the label as text.
            category_ids: The data set's own id of each class. Default: the label.

        Raises:
            ValueError: If ``num_classes`` is below 1, or there is not one name or id per class; the model is then as it
                was.
        """
        self.num_classes, self.class_names, self.category_ids = check_classes(num_classes, class_names, category_ids)
        network: Any = unwrapped(self.network)
        network.class_head = head_like(network.class_head, build_class_head(self.architecture, num_classes))

    def name_classes(self, class_names: Sequence[str] | None = None, category_ids: Sequence[int] | None = None) -> None:
        """Give the classes other names or category ids, in the order of labels; what is None stays as it is."""
        names, ids = class_names or self.class_names, category_ids or self.category_ids
        self.num_classes, self.class_names, self.category_ids = check_classes(self.num_classes, names, ids)


def _architecture(given: Any) -> Architecture:
    if isinstance(given, str):
        return Architecture.named(given)
    if not isinstance(given, Architecture):
        raise TypeError(f"architecture must be an Architecture or the name of one, got {type(given).__name__}")
    return given
