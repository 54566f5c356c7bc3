"""From images of any size to one normalised batch, and from targets to the same frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.images.letterbox import Letterbox
from effdet.structures import Target


def letterbox_tensors(images: Sequence[Tensor], letterbox: Letterbox) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bring images into the frame of the network input as ``letterbox`` does, but in floats and differentiably.

    Sizes and padding are those of ``letterbox``. Pixels are not rounded to whole levels: torch's bilinear resize stands
    for those of OpenCV and TensorFlow, its antialiased ones for Pillow's.

    Args:
        images: B float tensors (3, H, W) of any sizes, in 0…255.
        letterbox: Network input, and how images get there.

    Returns:
        Batch (B, 3, height, width); content sizes (B, 2) int64; scales (B,) float32, network per original pixel;
        original sizes (B, 2) int64.
    """
    preprocessing = letterbox.preprocessing
    batch = images[0].new_tensor(letterbox.fill).view(3, 1, 1).repeat(len(images), 1, *letterbox.image_size)
    contents, scales = [], []
    for slot, image in zip(batch, images, strict=True):
        content, scale = preprocessing.content_size((image.shape[1], image.shape[2]), letterbox.image_size)
        if content != image.shape[-2:]:
            mode, antialias = _TORCH_RESIZE[preprocessing.resize]
            image = F.interpolate(image[None], size=content, mode=mode, align_corners=False, antialias=antialias)[0]
        slot[:, : content[0], : content[1]] = image
        contents.append(content)
        scales.append(scale)
    original_sizes = torch.tensor([image.shape[-2:] for image in images])
    return batch, torch.tensor(contents), torch.tensor(scales, dtype=torch.float32), original_sizes


_TORCH_RESIZE: dict[str, tuple[str, bool]] = {
    "opencv": ("bilinear", False),
    "opencv-float": ("bilinear", False),
    "tensorflow": ("bilinear", False),
    "pillow-bilinear": ("bilinear", True),
    "pillow-bicubic": ("bicubic", True),
}


def normalise(images: Tensor, content_sizes: Tensor | None, mean: Tensor, std: Tensor) -> Tensor:
    """Return ``(images - mean) / std`` as float32, with zeros in the padding where content sizes are given.

    Args:
        images: (B, 3, H, W) uint8, or float in 0…255.
        content_sizes: (B, 2) int64 (height, width) without padding; None leaves the padding as it is.
        mean: (3,) RGB in 0…255.
        std: (3,).
    """
    normalised = (images.float() - mean.view(3, 1, 1)) / std.view(3, 1, 1)
    if content_sizes is None:
        return normalised
    for image, (h, w) in zip(normalised, content_sizes.tolist(), strict=True):
        image[:, h:] = 0
        image[:, :, w:] = 0
    return normalised


def check_images(images: Any) -> list[Tensor]:
    """Return the images as a list of (3, H, W) float tensors.

    Raises:
        TypeError: If they are not tensors.
        ValueError: If one has another shape, is empty, or is not float; the message names it by its index.
    """
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(f"images must be a list of (3, H, W) tensors or one (B, 3, H, W), got {_shape(images)}")
        images = list(images)
    if not isinstance(images, Sequence) or not all(isinstance(image, Tensor) for image in images):
        raise TypeError(f"images must be a list of (3, H, W) tensors or one (B, 3, H, W), got {type(images).__name__}")
    if not images:
        raise ValueError("images must hold at least one image, got an empty list")
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"image {index} must have the shape (3, H, W), got {_shape(image)}")
        if not image.is_floating_point():
            raise ValueError(f"image {index} must be float in [0, 1], got {image.dtype}; divide by 255")
    return list(images)


def check_targets(targets: Sequence[Mapping[str, Tensor]] | None, num_images: int, num_classes: int) -> list[Target]:
    """Return torchvision's target dicts as ``Target``, boxes still in pixels of their own image.

    Raises:
        ValueError: If targets are missing or too few, a box is degenerate or not finite, a label is out of range, or
            shapes disagree; the message names the image by its index.
    """
    if targets is None:
        raise ValueError("targets must be given in training mode; call model.eval() to detect")
    if len(targets) != num_images:
        raise ValueError(f"targets must have one entry per image: {num_images} images, got {len(targets)}")
    return [_check_target(target, index, num_classes) for index, target in enumerate(targets)]


def _check_target(target: Mapping[str, Tensor], index: int, num_classes: int) -> Target:
    for key in ("boxes", "labels"):
        if not isinstance(target, Mapping) or not isinstance(target.get(key), Tensor):
            raise ValueError(f"target of image {index} must have a tensor '{key}'")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.numel() == 0:
        boxes = boxes.reshape(0, 4)
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"boxes of image {index} must have the shape (M, 4), got {_shape(boxes)}")
    if labels.shape != boxes.shape[:1]:
        raise ValueError(f"labels of image {index} must have the shape ({len(boxes)},), got {_shape(labels)}")
    good = boxes.isfinite().all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1)
    if not good.all():
        bad = boxes[~good][0].tolist()
        raise ValueError(f"boxes of image {index} must satisfy x1 < x2 and y1 < y2 (xyxy pixels), got {bad}")
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < num_classes:
        raise ValueError(
            f"labels of image {index} must lie in 0…{num_classes - 1} (no background class), "
            f"got {int(labels.min())}…{int(labels.max())}"
        )
    return Target(boxes.float(), labels.long())


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
