"""Answer as MediaPipe's ``ObjectDetector`` answers with the same network in a ``.tflite`` file."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import TypeVar

import torch
from torch import Tensor

from effdet.deployment.detector import DeployedDetector
from effdet.detector.efficientdet import EfficientDet
from effdet.images.preprocessing import Preprocessing
from effdet.structures import Batch, Detections

AnyDetector = TypeVar("AnyDetector", EfficientDet, DeployedDetector)

PREPROCESSING = Preprocessing(fit="stretch", resize="mediapipe")


def as_mediapipe(detector: AnyDetector) -> AnyDetector:
    """Return a detector whose photos, NMS and boxes are those of MediaPipe; the weights are shared.

    MediaPipe stretches a photo to the network input, with samples of its own (``Preprocessing``, kind "mediapipe"). NMS
    is hard. Boxes are whole pixels: left edge, upper edge, width and height are truncated. A box that begins outside
    the photo begins at 0 and keeps its width and height.

    Args:
        detector: What ``effdet.load`` or ``EfficientDet.from_pretrained`` returns; it is not changed.
    """
    twin: AnyDetector = copy.copy(detector)
    twin.preprocessing = PREPROCESSING
    twin.settings = replace(detector.settings, nms="hard", clip="none")

    def detect(batch: Batch) -> list[Detections]:
        return [replace(found, boxes=whole_pixels(found.boxes)) for found in type(twin).detect(twin, batch)]

    twin.__dict__["detect"] = detect
    return twin


def whole_pixels(boxes: Tensor) -> Tensor:
    """Return boxes (D, 4) xyxy as MediaPipe reports them: float32 whole numbers, from boxes that are not clipped."""
    corners = boxes[:, :2].trunc().clamp(min=0)
    sides = (boxes[:, 2:] - boxes[:, :2]).trunc()
    return torch.cat([corners, corners + sides], dim=1)
