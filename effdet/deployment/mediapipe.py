"""Answer as MediaPipe's ``ObjectDetector`` answers with the same network in a ``.tflite`` file."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import median
from typing import TypeVar

import torch
from torch import Tensor

from effdet.detector.batches import ArrayBatch
from effdet.detector.prediction import Detector
from effdet.images.preprocessing import Preprocessing
from effdet.structures import Batch, Detections

AnyDetector = TypeVar("AnyDetector", bound=Detector)

STRIDE = 32  # sides of a proposed input are multiples of it
LIKE_SHAPE = 1.1  # how far the aspect ratio of photos may be from the input's before a change is worth while

PREPROCESSING = Preprocessing(fit="stretch", resize="mediapipe")


def as_mediapipe(detector: AnyDetector) -> AnyDetector:
    """Return a detector whose photos, NMS and boxes are those of MediaPipe; the weights are shared.

    MediaPipe stretches a photo to the network input, with samples of its own (``Preprocessing``, kind "mediapipe"). NMS
    is hard. Boxes are whole pixels, as ``whole_pixels`` makes them.

    Args:
        detector: What ``effdet.load`` or ``EfficientDet.from_pretrained`` returns; it is not changed.
    """
    twin: AnyDetector = copy.copy(detector)
    twin.preprocessing = PREPROCESSING
    twin.settings = replace(detector.settings, nms="hard", clip="none")

    def detect(batch: Batch | ArrayBatch, *, least_score: float = 0.0) -> list[Detections]:
        results = []
        for found in type(twin).detect(twin, batch, least_score=least_score):
            assert found.image_size is not None, "detectors say the size of each photo"
            results.append(replace(found, boxes=whole_pixels(found.boxes, found.image_size)))
        return results

    twin.__dict__["detect"] = detect
    return twin


def whole_pixels(boxes: Tensor, photo_size: tuple[int, int]) -> Tensor:
    """Return boxes as MediaPipe's ``DetectionTransformationCalculator`` reports them.

    Left edge, upper edge, width and height are each truncated to whole pixels and then limited to 0…(side of the
    photo). So a box that begins outside the photo begins at 0 and keeps its width and height, and only a box that is
    larger than the photo is cut.

    Args:
        boxes: (D, 4) xyxy pixels of the photo, not clipped.
        photo_size: (height, width) of the photo.

    Returns:
        (D, 4) float32 xyxy whole numbers.
    """
    limits = torch.tensor(photo_size[::-1], dtype=boxes.dtype, device=boxes.device)
    corners, sides = (
        values.trunc().clamp(min=torch.zeros_like(limits), max=limits)
        for values in (boxes[:, :2], boxes[:, 2:] - boxes[:, :2])
    )
    return torch.cat([corners, corners + sides], dim=1)


def propose_size(image_size: tuple[int, int], photo_sizes: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """Return a network input with the shape of the photos and about as many pixels, or None if it has that shape.

    MediaPipe stretches photos to the input, which costs no AP where the two have the same shape.

    Args:
        image_size: Network input (height, width).
        photo_sizes: (height, width) of some photos, one or more; their median shape counts.
    """
    aspect = median(width / height for height, width in photo_sizes)
    own = image_size[1] / image_size[0]
    if max(aspect / own, own / aspect) <= LIKE_SHAPE:
        return None
    long_side = _whole_strides(math.sqrt(math.prod(image_size) * max(aspect, 1 / aspect)))
    short_side = _whole_strides(long_side / max(aspect, 1 / aspect))
    proposed = (short_side, long_side) if aspect > 1 else (long_side, short_side)
    return proposed if proposed != image_size else None


def _whole_strides(side: float) -> int:
    return max(STRIDE, STRIDE * round(side / STRIDE))
