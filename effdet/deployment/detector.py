"""An exported file behind the same ``predict`` as the model that it came from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from effdet.deployment.description import Description
from effdet.deployment.runtimes import Runtime
from effdet.detector.batches import to_detections
from effdet.detector.inputs import as_pixels, check_image_size, normalise
from effdet.detector.prediction import PredictsFiles
from effdet.images.letterbox import Letterbox
from effdet.models.anchors import anchors_of
from effdet.ops.boxes import clip_boxes
from effdet.ops.postprocess import postprocess
from effdet.ops.settings import PostprocessSettings
from effdet.structures import Batch, Detections, Predictions

Found = tuple[Tensor, Tensor, Tensor]  # boxes (D, 4), labels (D,), scores (D,) of one image


class DeployedDetector(PredictsFiles):
    """A detector that a runtime computes; it answers what ``EfficientDet`` answers, without gradients.

    Args:
        description: What the file says about itself.
        runtime: The compiled graph.
    """

    device = torch.device("cpu")  # where batches are expected

    def __init__(self, description: Description, runtime: Runtime) -> None:
        self.description = description
        self.runtime = runtime
        self.name = description.name
        self.num_classes = len(description.class_names)
        self.class_names = description.class_names
        self.category_ids = description.category_ids
        self.preprocessing = description.preprocessing
        self.training_tiles = description.training_tiles
        self.predict_threshold = description.predict_threshold
        self._settings = description.settings
        self.mean = torch.tensor(description.mean)
        self.std = torch.tensor(description.std)
        self._image_size = description.image_size
        self._anchors: dict[tuple[int, int], Tensor] = {}

    def __repr__(self) -> str:
        height, width = self.image_size
        return f"DeployedDetector({self.name}, {height}×{width}, {self.description.precision}, {self.runtime.name})"

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

    @torch.inference_mode()
    def detect(self, batch: Batch) -> list[Detections]:
        """Return the detections of a letterboxed batch, in pixels of the original images."""
        return to_detections(list(self._found(self.network_input(batch), batch)), batch, self)

    def network_input(self, batch: Batch) -> Tensor:
        """Return the images of a letterboxed batch as (B, 3, H, W), as the file takes them.

        They are float32, normalised; or pixels in 0…255, float32 or uint8, where the graph normalises.
        """
        images = batch.images.cpu()
        content_sizes = batch.content_sizes if self.preprocessing.zero_padding else None
        if self.description.input == "pixels":
            return as_pixels(images, content_sizes, self.mean, self.std)
        if images.is_floating_point():  # the letterbox has normalised them
            return images
        return normalise(images, content_sizes, self.mean, self.std)

    def _found(self, images: Tensor, batch: Batch) -> Iterator[Found]:
        """Yield what is found in each image; runs of a fixed batch are filled up with blank images."""
        step = self.description.batch or len(images)
        for first in range(0, len(images), step):
            part = images[first : first + step]
            count = len(part)
            if count < step:
                part = torch.cat([part, part.new_zeros(step - count, *part.shape[1:])])
            outputs = self.runtime.run(part.contiguous().numpy())
            tensors = [torch.from_numpy(np.asarray(output[:count])) for output in outputs]
            rows = slice(first, first + count)
            finish = self._finish if self.description.outputs == "detections" else self._postprocess
            yield from finish(tensors, batch.scales[rows], batch.original_sizes[rows], (part.shape[2], part.shape[3]))

    def _postprocess(
        self, outputs: list[Tensor], scales: Tensor, original_sizes: Tensor, image_size: tuple[int, int]
    ) -> list[Found]:
        return postprocess(
            Predictions(outputs[0].float(), outputs[1].float()),
            self.anchors(image_size),
            scales=scales,
            original_sizes=original_sizes,
            settings=self._settings,
            image_size=image_size,
        )

    def _finish(self, outputs: list[Tensor], scales: Tensor, original_sizes: Tensor, _: tuple[int, int]) -> list[Found]:
        """Return the detections that the graph found, in pixels of the original images."""
        results = []
        for boxes, scores, labels, factors, size in zip(*outputs, scales, original_sizes, strict=True):
            keep = (labels >= 0) & (scores >= self._settings.score_threshold)
            keep &= keep.cumsum(0) <= self._settings.max_detections
            boxes = boxes[keep] / factors.repeat(2)
            if self._settings.clip == "after":
                boxes = clip_boxes(boxes, size)
            has_area = (boxes[:, 2:] > boxes[:, :2]).all(1)
            kept = has_area if self._settings.drop_empty else torch.ones_like(has_area)
            results.append((boxes[kept], labels[keep][kept].long(), scores[keep][kept]))
        return results

    def anchors(self, image_size: tuple[int, int]) -> Tensor:
        """Return the (N, 4) float32 xyxy anchors for a network input of this size; kept for the next call."""
        if self.description.architecture is None:
            raise ValueError("anchors need an architecture, which a file of another program does not name")
        if image_size not in self._anchors:
            self._anchors[image_size] = anchors_of(self.description.architecture, image_size)
        return self._anchors[image_size]


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
