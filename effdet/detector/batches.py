"""From decoded images to a batch, and from the tensors that a batch gives to ``Detections``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from effdet.images.letterbox import Letterbox
from effdet.structures import Batch, Detections

if TYPE_CHECKING:
    from effdet.detector.prediction import Detector

Chunk = Sequence[tuple[str, np.ndarray]]  # (name, (H, W, 3) uint8 RGB) of images that share a batch
Size = tuple[int, int]  # (height, width)


def make_batch(chunk: Chunk, letterbox: Letterbox, original_sizes: Sequence[Size] | None = None) -> Batch:
    """Return named RGB images as one letterboxed batch without targets.

    Args:
        chunk: The images.
        letterbox: What brings them into the frame of the network input.
        original_sizes: (height, width) of each at full size; None: they are held so.
    """
    sizes = [(image.shape[0], image.shape[1]) for _, image in chunk] if original_sizes is None else original_sizes
    boxed = [letterbox(image, size) for (_, image), size in zip(chunk, sizes, strict=True)]
    return Batch(
        images=torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _, _ in boxed]),
        content_sizes=torch.tensor([content for _, content, _ in boxed]),
        scales=torch.tensor([scales for _, _, scales in boxed], dtype=torch.float32),
        original_sizes=torch.tensor(sizes),
        image_ids=tuple(range(len(chunk))),
        targets=[],
    )


def to_detections(
    results: Sequence[tuple[Tensor, Tensor, Tensor]], batch: Batch, detector: Detector
) -> list[Detections]:
    """Return boxes, labels and scores of every image of a batch as ``Detections``, on the CPU."""
    counts = [len(boxes) for boxes, _, _ in results]
    columns = [torch.cat(column).cpu().split(counts) for column in zip(*results, strict=True)]  # one copy each
    return [
        Detections(boxes, labels, scores, detector.class_names, detector.category_ids, (height, width))
        for boxes, labels, scores, (height, width) in zip(*columns, batch.original_sizes.tolist(), strict=True)
    ]
