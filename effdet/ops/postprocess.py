"""From raw predictions to boxes in pixels of the original images."""

from __future__ import annotations

from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from effdet.ops.array_postprocess import postprocess_arrays
from effdet.ops.batched_postprocess import by_axis, postprocess_batch
from effdet.ops.settings import PostprocessSettings
from effdet.structures import Predictions


@torch.no_grad()
def postprocess(
    predictions: Predictions,
    anchors: Tensor,
    *,
    scales: Tensor,
    original_sizes: Tensor,
    settings: PostprocessSettings | None = None,
    image_size: tuple[int, int] | None = None,
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Return the detections of every image: select candidates, decode, apply NMS, scale to the original image, clip.

    By default boxes are clipped after NMS. The published evaluation does not clip, so its NMS compares whole boxes,
    also beyond the border. Clipping before NMS would raise the IoU of neighbouring boxes that extend beyond the same
    border.

    Args:
        predictions: Logits (B, N, K) and deltas (B, N, 4) of any floating dtype.
        anchors: (N, 4) xyxy pixels of the network input.
        scales: (B, 2) network pixels per original pixel along x and y; or (B,), where the two are equal.
        original_sizes: (B, 2) height, width of the original images.
        settings: Limits and thresholds; ``None`` for the defaults.
        image_size: (height, width) of the network input; needed by ``clip="network"`` only.

    Returns:
        For each image boxes (D, 4) float32 xyxy in pixels of the original, labels (D,) int64 and scores (D,) float32,
        best score first, on the device of the predictions. Equal scores are ordered by anchor, then class. Boxes with
        NaN are left out.

    Raises:
        ValueError: If ``clip`` is "network" and ``image_size`` is not given.
    """
    settings = settings or PostprocessSettings()
    if settings.clip == "network" and image_size is None:
        raise ValueError("image_size must be given when settings.clip is 'network'")
    if predictions.class_logits.device.type != "cpu":
        return postprocess_batch(
            predictions,
            anchors,
            scales=scales,
            original_sizes=original_sizes,
            settings=settings,
            image_size=image_size,
        )
    found = postprocess_arrays(
        _to_array(predictions.class_logits),
        _to_array(predictions.box_deltas),
        _to_array(anchors.float()),
        scales=_to_array(by_axis(scales)),
        original_sizes=[(height, width) for height, width in original_sizes.tolist()],
        settings=settings,
        image_size=image_size,
    )
    return [(from_numpy(boxes), from_numpy(labels), from_numpy(scores)) for boxes, labels, scores in found]


def _to_array(values: Tensor) -> NDArray[Any]:
    """Return a tensor on the CPU as an array; NumPy has no bfloat16, and is slow in float16."""
    array: NDArray[Any] = (values if values.dtype in (torch.float32, torch.float64) else values.float()).numpy()
    return array
