"""An exported file behind the same ``predict`` as the model that it came from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.deployment.description import Description
from effdet.deployment.runtimes import Runtime, outputs_for
from effdet.detector.batches import ArrayBatch, Size
from effdet.detector.image_size import check_image_size
from effdet.detector.prediction import PredictsFiles
from effdet.images.letterbox import Letterbox
from effdet.models.anchors import anchor_array_of
from effdet.ops.array_postprocess import Found, clip_box_array, postprocess_arrays
from effdet.ops.settings import PostprocessSettings
from effdet.structures import Batch, Detections

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Array: TypeAlias = NDArray[Any]


class DeployedDetector(PredictsFiles):
    """A detector that a runtime computes; it answers what ``EfficientDet`` answers, without gradients.

    It works with NumPy arrays and does not import PyTorch, unless PyTorch is the runtime, or a tensor is asked for.

    Args:
        description: What the file says about itself.
        runtime: The compiled graph.
    """

    def __init__(self, description: Description, runtime: Runtime) -> None:
        self.description = description
        self.runtime = runtime
        self.name = description.name
        self.architecture = description.architecture
        self.num_classes = len(description.class_names)
        self.class_names = description.class_names
        self.category_ids = description.category_ids
        self.preprocessing = description.preprocessing
        self.training_tiles = description.training_tiles
        self.predict_threshold = description.predict_threshold
        self._settings = description.settings
        self._mean = np.array(description.mean, dtype=np.float32)[:, None, None]
        self._std = np.array(description.std, dtype=np.float32)[:, None, None]
        self._image_size = description.image_size
        self._anchors: dict[Size, Array] = {}

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"DeployedDetector({self.name}, {height}×{width}, {self.description.precision}, {self.runtime.name})"

    @property
    def device(self) -> torch.device:
        """Where batches of tensors are expected: on the CPU."""
        import torch

        return torch.device("cpu")

    @property
    def takes_any_size(self) -> bool:
        """Whether the network input may have another size than ``image_size``."""
        return self.description.dynamic_size

    @property
    def image_size(self) -> tuple[int, int]:
        """Network input (height, width)."""
        return self._image_size

    @image_size.setter
    def image_size(self, size: int | tuple[int, int]) -> None:
        size, own = check_image_size(size), self.description.image_size
        if size != own and not self.description.dynamic_size:
            raise ValueError(
                f"image_size of this file must be {own}, got {size}; export it with that --size, or with --dynamic-size"
            )
        self._image_size = size

    @property
    def settings(self) -> PostprocessSettings:
        """How predictions become detections."""
        return self._settings

    @settings.setter
    def settings(self, settings: PostprocessSettings) -> None:
        if self.description.outputs == "detections":
            _check_inside(self.description.settings, settings)
        self._settings = settings

    @property
    def letterbox(self) -> Letterbox:
        """What brings images into the frame of the network input; it can be sent to loader processes."""
        return Letterbox(
            image_size=self.image_size,
            mean=self.description.mean,
            std=self.description.std,
            preprocessing=self.preprocessing,
            value_range=self.description.value_range,
        )

    @property
    def fill(self) -> tuple[int, int, int]:
        """The uint8 RGB of the padding before it is normalised."""
        return self.letterbox.fill

    def eval(self) -> DeployedDetector:
        """Return the detector; it knows no other mode."""
        return self

    def detect(self, batch: Batch | ArrayBatch, *, least_score: float = 0.0) -> list[Detections]:
        """Return the detections of a letterboxed batch, in pixels of the original images.

        Those that score below ``least_score`` are left out, before NMS unless the file itself does NMS.
        """
        arrays = batch if isinstance(batch, ArrayBatch) else ArrayBatch.of(batch)
        sizes, settings = arrays.original_sizes, self._settings.with_least_score(least_score)
        return [
            Detections(*found, self.class_names, self.category_ids, size)
            for found, size in zip(self._found(self.network_input(arrays), arrays, settings), sizes, strict=True)
        ]

    def network_input(self, batch: Batch | ArrayBatch) -> Array:
        """Return the images of a letterboxed batch as (B, 3, H, W), as the file takes them.

        They are float32, normalised; or pixels in 0…255, float32 or uint8, where the graph normalises.
        """
        images, content_sizes, _, _ = batch if isinstance(batch, ArrayBatch) else ArrayBatch.of(batch)
        is_normalised = images.dtype != np.uint8  # by the letterbox
        if self.description.input == "normalised":
            return images if is_normalised else self._normalised(images, content_sizes)
        return images * self._std + self._mean if is_normalised else self._with_mean_padding(images, content_sizes)

    def _normalised(self, images: Array, content_sizes: Array) -> Array:
        """Return (images − mean) / std as float32, with zeros in the padding if the preprocessing says so."""
        normalised = images.astype(np.float32)
        normalised -= self._mean
        normalised /= self._std
        return _fill_padding(normalised, content_sizes, 0) if self.preprocessing.zero_padding else normalised

    def _with_mean_padding(self, images: Array, content_sizes: Array) -> Array:
        """Return pixels for a graph that normalises them; where the padding must become zero, it is the mean."""
        if not self.preprocessing.zero_padding:
            return images
        is_whole = np.array_equal(self._mean, self._mean.round())
        pixels = images.copy() if is_whole else images.astype(np.float32)
        return _fill_padding(pixels, content_sizes, self._mean)

    def _found(self, images: Array, batch: ArrayBatch, settings: PostprocessSettings) -> Iterator[Found]:
        """Yield what is found in each image; runs of a fixed batch are filled up with blank images."""
        step = self.description.batch or len(images)
        for first in range(0, len(images), step):
            part = images[first : first + step]
            count = len(part)
            if count < step:
                part = np.concatenate([part, np.zeros((step - count, *part.shape[1:]), part.dtype)])
            rows = slice(first, first + count)
            finish = self._finish if self.description.outputs == "detections" else self._postprocess
            scales, sizes = batch.scales[rows], batch.original_sizes[rows]
            with outputs_for(self.runtime, np.ascontiguousarray(part)) as outputs:
                outputs = [np.asarray(output[:count]) for output in outputs]
                found = finish(outputs, scales, sizes, settings, (part.shape[2], part.shape[3]))
            yield from found

    def _postprocess(
        self,
        outputs: Sequence[Array],
        scales: Array,
        original_sizes: Sequence[Size],
        settings: PostprocessSettings,
        image_size: Size,
    ) -> list[Found]:
        logits, deltas = (output.astype(np.float32, copy=False) for output in outputs[:2])
        return postprocess_arrays(
            logits,
            deltas,
            self._anchor_array(image_size),
            scales=scales,
            original_sizes=original_sizes,
            settings=settings,
            image_size=image_size,
        )

    def _finish(
        self,
        outputs: Sequence[Array],
        scales: Array,
        original_sizes: Sequence[Size],
        settings: PostprocessSettings,
        _: Size,
    ) -> list[Found]:
        """Return the detections that the graph found, in pixels of the original images."""
        results = []
        for boxes, scores, labels, factors, size in zip(*outputs, scales, original_sizes, strict=True):
            keep = (labels >= 0) & (scores >= settings.score_threshold)
            keep &= keep.cumsum() <= settings.max_detections
            boxes = boxes[keep] / np.tile(factors, 2)
            if settings.clip == "after":
                boxes = clip_box_array(boxes, size)
            has_area = (boxes[:, 2:] > boxes[:, :2]).all(axis=1)
            kept = has_area if settings.drop_empty else np.ones_like(has_area)
            results.append((boxes[kept], labels[keep][kept].astype(np.int64), scores[keep][kept]))
        return results

    def anchors(self, image_size: Size) -> Tensor:
        """Return the (N, 4) float32 xyxy anchors for a network input of this size; kept for the next call."""
        import torch

        return torch.from_numpy(self._anchor_array(image_size))

    def _anchor_array(self, image_size: Size) -> Array:
        if self.architecture is None:
            raise ValueError("anchors need an architecture, which a file of another program does not name")
        if image_size not in self._anchors:
            self._anchors[image_size] = anchor_array_of(self.architecture, image_size)
        return self._anchors[image_size]


def _fill_padding(images: Array, content_sizes: Array, value: Array | float) -> Array:
    """Write a value into the padding of images (B, C, H, W) of these (height, width), in place."""
    for image, (height, width) in zip(images, content_sizes, strict=True):
        image[:, height:] = value
        image[:, :, width:] = value
    return images


def _check_inside(own: PostprocessSettings, asked: PostprocessSettings) -> None:
    """Check that a file that does the post-processing itself can give detections by other settings.

    Raises:
        ValueError: If it cannot; the message says how to get a file that can.
    """
    advice = "as the file itself does the post-processing; export it with these settings, or without NMS inside"
    inside = ("nms", "iou_threshold", "sigma", "max_candidates", "class_agnostic", "best_class_only")
    changed = [name for name in inside if getattr(asked, name) != getattr(own, name)]
    if asked.clip in ("before", "network"):
        changed.append("clip")
    if changed:
        raise ValueError(f"{', '.join(changed)} cannot be changed, {advice}")
    if asked.max_detections > own.max_detections:
        raise ValueError(f"max_detections must be {own.max_detections} or less, got {asked.max_detections}, {advice}")
    if asked.score_threshold < own.score_threshold:
        raise ValueError(
            f"score_threshold must be {own.score_threshold:g} or more, got {asked.score_threshold:g}, {advice}"
        )
