"""From decoded images to a batch, and from the tensors that a batch gives to ``Detections``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from effdet.images.letterbox import Letterbox
from effdet.structures import Batch, Detections

if TYPE_CHECKING:
    from torch import Tensor

    from effdet.detector.prediction import Detector

Chunk = Sequence[tuple[str, np.ndarray]]  # (name, (H, W, 3) uint8 RGB) of images that share a batch
Size = tuple[int, int]  # (height, width)


class ArrayBatch(NamedTuple):
    """Letterboxed images without ground truth, in NumPy; the fields of ``Batch``."""

    images: np.ndarray  # (B, C, H, W) uint8, or float32 that is normalised
    content_sizes: np.ndarray  # (B, 2) int64 (height, width) without padding
    scales: np.ndarray  # (B, 2) float32, network pixels per original pixel along x and y
    original_sizes: Sequence[Size]  # B

    def to_batch(self) -> Batch:
        """Return the same images as tensors; they share their memory."""
        import torch

        return Batch(
            images=torch.from_numpy(self.images),
            content_sizes=torch.from_numpy(self.content_sizes),
            scales=torch.from_numpy(self.scales),
            original_sizes=torch.tensor(self.original_sizes),
            image_ids=tuple(range(len(self.images))),
            targets=[],
        )

    @classmethod
    def of(cls, batch: Batch) -> ArrayBatch:
        """Return the images of a batch of tensors, without its ground truth."""
        sizes = [(height, width) for height, width in batch.original_sizes.tolist()]
        return cls(batch.images.cpu().numpy(), batch.content_sizes.numpy(), batch.scales.numpy(), sizes)


def stack_images(chunk: Chunk, letterbox: Letterbox, original_sizes: Sequence[Size] | None = None) -> ArrayBatch:
    """Return named RGB images as one letterboxed batch.

    Args:
        chunk: The images.
        letterbox: What brings them into the frame of the network input.
        original_sizes: (height, width) of each at full size; None: they are held so.
    """
    sizes = [(image.shape[0], image.shape[1]) for _, image in chunk] if original_sizes is None else original_sizes
    boxed = [letterbox(image, size) for (_, image), size in zip(chunk, sizes, strict=True)]
    height, width, channels = boxed[0].image.shape
    images = np.empty((len(boxed), channels, height, width), boxed[0].image.dtype)
    for plane, one in zip(images, boxed, strict=True):
        plane[:] = one.image.transpose(2, 0, 1)
    contents, scales = [one.content_size for one in boxed], [one.scales for one in boxed]
    return ArrayBatch(images, np.array(contents), np.array(scales, dtype=np.float32), sizes)


def make_batch(chunk: Chunk, letterbox: Letterbox, original_sizes: Sequence[Size] | None = None) -> Batch:
    """Return named RGB images as one letterboxed batch of tensors without targets; see ``stack_images``."""
    return stack_images(chunk, letterbox, original_sizes).to_batch()


def to_detections(
    results: Sequence[tuple[Tensor, Tensor, Tensor]], batch: Batch, detector: Detector
) -> list[Detections]:
    """Return boxes, labels and scores of every image of a batch as ``Detections``, on the CPU."""
    import torch

    counts = [len(boxes) for boxes, _, _ in results]
    columns = [torch.cat(column).cpu().split(counts) for column in zip(*results, strict=True)]  # one copy each
    return [
        Detections(boxes, labels, scores, detector.class_names, detector.category_ids, (height, width))
        for boxes, labels, scores, (height, width) in zip(*columns, batch.original_sizes.tolist(), strict=True)
    ]
