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
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

if TYPE_CHECKING:
    import torch
    from torch import Tensor


def _equal(self: Any, other: object) -> bool:
    """Return whether two values of one type are equal in every field; tensors by shape and numbers, on any device."""
    if type(other) is not type(self):
        return NotImplemented
    mine, theirs = vars(self), vars(other)
    return all(_equal_values(mine[name], theirs[name]) for name in mine)


def _equal_values(a: Any, b: Any) -> bool:
    if hasattr(a, "shape") and hasattr(b, "shape"):
        return np.array_equal(_to_numpy(a), _to_numpy(b))
    return bool(a == b)


def _to_numpy(values: Tensor | np.ndarray) -> np.ndarray:
    """Return the numbers of a tensor on any device, or an array as it is."""
    return values if isinstance(values, np.ndarray) else _in_numpys_types(values.detach().cpu()).numpy()


def _in_numpys_types(tensor: Tensor) -> Tensor:
    return tensor.float() if str(tensor.dtype) == "torch.bfloat16" else tensor


def _no_boxes() -> Tensor:
    import torch

    return torch.zeros(0, 4)


@dataclass(frozen=True, eq=False)
class Target:
    """Ground truth of one image, in pixels of the network input."""

    boxes: Tensor  # (M, 4) float32 xyxy
    classes: Tensor  # (M,) int64 in [0, K)
    crowd_boxes: Tensor = field(default_factory=_no_boxes)  # (M', 4) regions to ignore

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
    image_ids: tuple[int | str, ...]  # B, the ids of the data set
    targets: list[Target]  # B, the ground truth of each image
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


class _TensorOnDemand:
    """A field that takes a tensor or an array and gives a tensor. PyTorch is imported when an array is first asked for.

    Detectors of other runtimes work with arrays, and whoever only reads numbers, draws or writes JSON need not wait for
    ``import torch``, which takes longer than everything else.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, owner: type) -> Tensor:
        if instance is None:
            raise AttributeError(self._name)  # a field without a default
        own = vars(instance)
        if isinstance(own[self._name], np.ndarray):
            import torch

            for name in ("boxes", "labels", "scores"):
                own[name] = torch.as_tensor(own[name])
        tensor: Tensor = own[self._name]
        return tensor

    def __set__(self, instance: Any, values: Tensor | np.ndarray) -> None:
        vars(instance)[self._name] = values


Rows: TypeAlias = "tuple[np.ndarray, np.ndarray, np.ndarray]"  # boxes (D, 4), labels (D,), scores (D,)


@dataclass(frozen=True, eq=False)
class Detections:
    """Detections of one image, best score first, in pixels of the original image.

    ``labels`` start at 0: they index ``class_names`` and ``category_ids``, and no number stands for the background.
    (torchvision's detectors start at 1.) ``category_ids`` has the data set's own ids.

    ``boxes``, ``labels`` and ``scores`` may be given as tensors or NumPy arrays, and are tensors when they are read;
    ``numpy()`` gives arrays.
    """

    boxes: _TensorOnDemand = _TensorOnDemand()  # (D, 4) float32 xyxy
    labels: _TensorOnDemand = _TensorOnDemand()  # (D,) int64, 0…K-1
    scores: _TensorOnDemand = _TensorOnDemand()  # (D,) float32
    class_names: tuple[str, ...] = ()  # K
    category_ids: tuple[int, ...] = ()  # K
    image_size: tuple[int, int] | None = None  # (height, width) of the original image
    source: str = ""  # file, or file and frame, that the image came from

    __eq__ = _equal
    __hash__ = None  # type: ignore[assignment]

    def __len__(self) -> int:
        return len(vars(self)["boxes"])

    def __iter__(self) -> Iterator[Detection]:
        for box, label, score in zip(*(column.tolist() for column in self._columns()), strict=True):
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
        _, _, scores = self._columns()
        return self._with([column[scores >= score_threshold] for column in self._columns()])

    def of_labels(self, labels: Sequence[int]) -> Detections:
        """Return only the detections whose label is one of these."""
        _, own, _ = self._columns()
        keep = sum((own == label for label in set(labels)), start=own < 0)
        return self._with([column[keep] for column in self._columns()])

    def of_source(self, source: str) -> Detections:
        """Return the same detections with another ``source``."""
        return self._with(self._columns(), source=source)

    def cpu(self) -> Detections:
        """Return the detections in host memory."""
        return self._with([column if isinstance(column, np.ndarray) else column.cpu() for column in self._columns()])

    def numpy(self) -> Rows:
        """Return boxes (D, 4), labels (D,) and scores (D,) as NumPy arrays; PyTorch is not imported for this."""
        boxes, labels, scores = (_to_numpy(column) for column in self._columns())
        return boxes, labels, scores

    def _columns(self) -> tuple[Any, Any, Any]:
        """Return boxes, labels and scores as they are held: all tensors or all arrays."""
        own = vars(self)
        return own["boxes"], own["labels"], own["scores"]

    def _with(self, columns: Sequence[Any], *, source: str | None = None) -> Detections:
        """Return the same with other boxes, labels and scores; ``dataclasses.replace`` would ask for tensors."""
        source = self.source if source is None else source
        boxes, labels, scores = columns
        return Detections(boxes, labels, scores, self.class_names, self.category_ids, self.image_size, source)

    def to_dict(self) -> dict[str, Any]:
        """Return plain Python values, ready for JSON: boxes xyxy, labels, scores, class_names, category_ids."""
        boxes, labels, scores = (column.tolist() for column in self._columns())
        return {
            "source": self.source,
            "image_size": list(self.image_size) if self.image_size else None,
            "boxes": boxes,
            "labels": labels,
            "scores": scores,
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
