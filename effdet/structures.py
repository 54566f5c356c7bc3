"""Value types that the parts of this package hand to each other.

Legend of dimensions, used in comments everywhere:

    B images · C channels · H×W pixels or cells · L levels · A anchors per cell · N anchors per image
    K classes · M ground-truth boxes · D detections · P positive anchors of a batch

Units: sizes are (height, width) in pixels; boxes are float32 xyxy in pixels, and the centre of a pixel lies at +½;
scores lie in [0, 1]. Labels are the indices 0…K-1 without a background class; ``category_id`` is the data set's own
number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    import numpy as np


def _equal(self: Any, other: object) -> bool:
    """Return whether two values of one type are equal in every field; tensors by shape and numbers, on any device."""
    if type(other) is not type(self):
        return NotImplemented
    mine, theirs = vars(self), vars(other)
    return all(_equal_values(mine[name], theirs[name]) for name in mine)


def _equal_values(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.shape == b.shape and torch.equal(a.cpu(), b.cpu())
    return bool(a == b)


@dataclass(frozen=True, eq=False)
class Target:
    """Ground truth of one image, in pixels of the network input."""

    boxes: Tensor  # (M, 4) float32 xyxy
    classes: Tensor  # (M,) int64 in [0, K)
    crowd_boxes: Tensor = field(default_factory=lambda: torch.zeros(0, 4))  # (M', 4) regions to ignore

    __eq__ = _equal
    __hash__ = None  # type: ignore[assignment]

    def to(self, device: torch.device | str) -> Target:
        """Return the same target on another device."""
        return Target(
            self.boxes.to(device, non_blocking=True),
            self.classes.to(device, non_blocking=True),
            self.crowd_boxes.to(device, non_blocking=True),
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """Letterboxed images with their ground truth, as the loaders yield them.

    The content of image b fills ``images[b, :, :h, :w]`` with (h, w) = ``content_sizes[b]``; the rest is padding.
    The x of a box of the original image times ``scales[b, 0]``, and its y times ``scales[b, 1]``, are those of the box
    in the network input. The two are equal unless images are stretched.
    """

    images: Tensor  # (B, C, H, W) levels in 0…255, mostly uint8 RGB; float32 of a letterbox is normalised already
    content_sizes: Tensor  # (B, 2) int64 (height, width) without padding
    scales: Tensor  # (B, 2) float32, network pixels per original pixel along x and y
    original_sizes: Tensor  # (B, 2) int64 (height, width)
    image_ids: tuple[int | str, ...]  # B, the data set's own
    targets: list[Target]  # B
    unreadable: tuple[str, ...] = ()  # files that could not be decoded; in training another image took their place

    __eq__ = _equal
    __hash__ = None  # type: ignore[assignment]

    def to(self, device: torch.device | str) -> Batch:
        """Return the same batch on another device; ids and sizes stay on the CPU."""
        return replace(
            self,
            images=self.images.to(device, non_blocking=True),
            targets=[target.to(device) for target in self.targets],
        )


@dataclass(frozen=True, eq=False)
class Predictions:
    """Raw output for every anchor, levels concatenated fine to coarse.

    Within a level anchors run by row, column, scale, aspect ratio, as in ``effdet.ops.anchors.make_anchors``.
    """

    class_logits: Tensor  # (B, N, K); score = sigmoid(logit)
    box_deltas: Tensor  # (B, N, 4) dx, dy, dw, dh relative to the anchor

    __eq__ = _equal
    __hash__ = None  # type: ignore[assignment]

    def float(self) -> Predictions:
        """Return the predictions in float32, whatever precision the network ran in."""
        return Predictions(self.class_logits.float(), self.box_deltas.float())


@dataclass(frozen=True)
class Detection:
    """One detected object."""

    box: tuple[float, float, float, float]  # xyxy pixels of the original image
    score: float
    label: int
    class_name: str
    category_id: int


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of one image, best score first, in pixels of the original image.

    ``labels`` start at 0: they index ``class_names`` and ``category_ids``, and no number stands for the background.
    (torchvision's detectors start at 1.) ``category_ids`` has the data set's own ids.
    """

    boxes: Tensor  # (D, 4) float32 xyxy
    labels: Tensor  # (D,) int64, 0…K-1
    scores: Tensor  # (D,) float32
    class_names: tuple[str, ...] = ()  # K
    category_ids: tuple[int, ...] = ()  # K
    image_size: tuple[int, int] | None = None  # (height, width) of the original image
    source: str = ""  # file, or file and frame, that the image came from

    __eq__ = _equal
    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(self.boxes)

    def __iter__(self) -> Iterator[Detection]:
        rows = zip(self.boxes.tolist(), self.labels.tolist(), self.scores.tolist(), strict=True)
        for box, label, score in rows:
            yield Detection(
                (box[0], box[1], box[2], box[3]), score, label, self.class_name(label), self.category_id(label)
            )

    def class_name(self, label: int) -> str:
        """Return the name of a label, or its number as text when names are unknown."""
        return self.class_names[label] if self.class_names else str(label)

    def category_id(self, label: int) -> int:
        """Return the data set's own id of a label, or the label itself when ids are unknown."""
        return self.category_ids[label] if self.category_ids else label

    def above(self, score_threshold: float) -> Detections:
        """Return only the detections that score at least ``score_threshold``."""
        keep = self.scores >= score_threshold
        return replace(self, boxes=self.boxes[keep], labels=self.labels[keep], scores=self.scores[keep])

    def of_labels(self, labels: Sequence[int]) -> Detections:
        """Return only the detections whose label is one of these."""
        keep = torch.isin(self.labels, torch.tensor(list(labels), device=self.labels.device))
        return replace(self, boxes=self.boxes[keep], labels=self.labels[keep], scores=self.scores[keep])

    def cpu(self) -> Detections:
        """Return the detections in host memory."""
        return replace(self, boxes=self.boxes.cpu(), labels=self.labels.cpu(), scores=self.scores.cpu())

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON: boxes xyxy, labels, scores, class_names, category_ids."""
        labels = self.labels.tolist()
        return {
            "source": self.source,
            "image_size": list(self.image_size) if self.image_size else None,
            "boxes": self.boxes.tolist(),
            "labels": labels,
            "scores": self.scores.tolist(),
            "class_names": [self.class_name(label) for label in labels],
            "category_ids": [self.category_id(label) for label in labels],
        }

    def to_coco(self, image_id: int) -> list[dict[str, Any]]:
        """Return rows of a COCO results file: ``bbox`` is (x, y, width, height), ``category_id`` the data set's own."""
        return [
            {
                "image_id": image_id,
                "category_id": detection.category_id,
                "bbox": [x1, y1, x2 - x1, y2 - y1],
                "score": detection.score,
            }
            for detection in self
            for x1, y1, x2, y2 in [detection.box]
        ]

    def draw(self, image: np.ndarray, *, score_threshold: float = 0.0) -> np.ndarray:
        """Return a copy of an RGB uint8 (H, W, 3) image with the boxes, names and scores drawn on it.

        Of an image with other channels or levels, as ``predict_iter`` yields it for a network that takes such, the
        first three channels are shown, or the first one as gray. Boxes are scaled where the picture has another size
        than the image that they were found in.
        """
        from effdet.visualize import as_rgb, draw_detections  # imported only when something is drawn

        return draw_detections(as_rgb(image), self.above(score_threshold))


def check_same_length(names: Sequence[str], ids: Sequence[int], num_classes: int) -> None:
    """Raise ValueError unless there is one name and one category id per class."""
    for what, values in (("class_names", names), ("category_ids", ids)):
        if len(values) != num_classes:
            raise ValueError(f"{what} must have one entry per class: num_classes is {num_classes}, got {len(values)}")
