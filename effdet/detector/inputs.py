"""From images of any size to one normalised batch, and from targets to the same frame."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from effdet.images.letterbox import Letterbox
from effdet.structures import Target

TOLERANCE = 0.5  # by which pixels of model(images) may leave [0, 1]


def letterbox_tensors(images: Sequence[Tensor], letterbox: Letterbox) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Bring images into the frame of the network input as ``letterbox`` does, but in floats and differentiably.

    Sizes and padding are those of ``letterbox``. Pixels are not rounded to whole levels: torch's bilinear resize stands
    for those of OpenCV and TensorFlow, its antialiased ones for Pillow's.

    Args:
        images: B float tensors (C, H, W) of any sizes, in 0…255.
        letterbox: Network input, and how images get there.

    Returns:
        Batch (B, C, height, width); content sizes (B, 2) int64; scales (B, 2) float32, network per original pixel
        along x and y; original sizes (B, 2) int64.
    """
    preprocessing = letterbox.preprocessing
    batch = _filled(images[0], (len(images), *images[0].shape[:1], *letterbox.image_size), letterbox.channel_fill)
    contents, scales = [], []
    for index, image in enumerate(images):
        content, factors = preprocessing.content_size((image.shape[1], image.shape[2]), letterbox.image_size)
        if content != image.shape[-2:]:
            image = _resize(image, content, preprocessing.resize)
        batch[index, :, : content[0], : content[1]] = image
        contents.append(content)
        scales.append(factors)
    original_sizes = torch.tensor([image.shape[-2:] for image in images])
    return batch, torch.tensor(contents), torch.tensor(scales, dtype=torch.float32), original_sizes


def _resize(image: Tensor, size: tuple[int, int], kind: str) -> Tensor:
    """Return a (C, H, W) image of another size."""
    if kind == "mediapipe":
        return _resize_from_the_corner(_resize_from_the_corner(image, size[0]).mT, size[1]).mT
    mode, antialias = _TORCH_RESIZE[kind]
    return F.interpolate(image[None], size=size, mode=mode, align_corners=False, antialias=antialias)[0]


def _resize_from_the_corner(image: Tensor, rows: int) -> Tensor:
    """Return a (C, H, W) image with other rows: row i of n is interpolated at i · H / n."""
    position = torch.arange(rows, dtype=torch.float64, device=image.device) * (image.shape[1] / rows)
    above = position.long()
    below = (above + 1).clamp(max=image.shape[1] - 1)
    share = (position - above).to(image.dtype)[:, None]
    return image[:, above] * (1 - share) + image[:, below] * share


def _filled(like: Tensor, shape: tuple[int, ...], colour: Sequence[int]) -> Tensor:
    """Return a batch (B, C, H, W) of one colour; the numbers are not copied to the device, so nothing waits for it."""
    batch = like.new_empty(shape)
    for channel, value in enumerate(colour):
        batch[:, channel] = value
    return batch


_TORCH_RESIZE: dict[str, tuple[str, bool]] = {
    "opencv": ("bilinear", False),
    "opencv-float": ("bilinear", False),
    "tensorflow": ("bilinear", False),
    "pillow-bilinear": ("bilinear", True),
    "pillow-bicubic": ("bicubic", True),
}


def normalise(images: Tensor, content_sizes: Tensor | None, mean: Tensor, std: Tensor) -> Tensor:
    """Return ``(images - mean) / std`` as float32, with zeros in the padding where content sizes are given.

    float64 images stay float64.

    Args:
        images: (B, C, H, W) uint8, or float in 0…255.
        content_sizes: (B, 2) int64 (height, width) without padding, on the CPU; None leaves the padding as it is.
        mean: (C,), RGB where C is 3, in 0…255.
        std: (C,).
    """
    normalised = (at_least_float32(images) - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)
    if content_sizes is None:
        return normalised
    for index, (h, w) in enumerate(content_sizes.tolist()):
        normalised[index, :, h:] = 0
        normalised[index, :, :, w:] = 0
    return normalised


class KnownNumbers:
    """The numbers of a small tensor; they are read from its device only when they have changed."""

    def __init__(self) -> None:
        self._known: tuple[Tensor, int, tuple[float, ...]] | None = None

    def of(self, tensor: Tensor) -> tuple[float, ...]:
        """Return the numbers of a tensor (C,)."""
        if tensor.is_inference():  # it counts no changes
            return tuple(tensor.tolist())
        if self._known is None or self._known[0] is not tensor or self._known[1] != tensor._version:
            self._known = (tensor, tensor._version, tuple(tensor.tolist()))
        return self._known[2]


def at_least_float32(values: Tensor) -> Tensor:
    """Return values in float32, or as they are if they are float64."""
    return values if values.dtype == torch.float64 else values.float()


def check_images(images: Any, channels: int = 3) -> list[Tensor]:
    """Return the images as a list of (C, H, W) float tensors with this many channels.

    Values may leave [0, 1] by ``TOLERANCE``, as antialiased or augmented images do. Images that lie on a GPU are
    checked by one number for all of them, so the host waits for the device once.

    Raises:
        TypeError: If they are not tensors.
        ValueError: If one has another shape, is empty, is not float, or has values of another range such as 0…255; the
            message names it by its index.
    """
    must = f"images must be a list of ({channels}, H, W) tensors or one (B, {channels}, H, W)"
    if isinstance(images, Tensor):
        if images.ndim != 4:
            raise ValueError(f"{must}, got {_shape(images)}")
        images = list(images)
    if not isinstance(images, Sequence) or not all(isinstance(image, Tensor) for image in images):
        raise TypeError(f"{must}, got {type(images).__name__}")
    if not images:
        raise ValueError("images must hold at least one image, got an empty list")
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != channels or 0 in image.shape:
            raise ValueError(f"image {index} must have the shape ({channels}, H, W), got {_shape(image)}")
        if not image.is_floating_point():
            raise ValueError(f"image {index} must be float in [0, 1], got {image.dtype}; divide by 255")
    _check_range(images)
    return list(images)


def _check_range(images: Sequence[Tensor]) -> None:
    distances = [(image.detach() - 0.5).abs_().amax().float() for image in images]
    farthest = distances[0] if len(distances) == 1 else torch.stack([one.to(distances[0].device) for one in distances])
    if not (farthest > 0.5 + TOLERANCE).any():  # also where an image has NaN, which has no range
        return
    for index, image in enumerate(images):
        low, high = (float(value) for value in image.detach().aminmax())
        if low < -TOLERANCE or high > 1 + TOLERANCE:
            raise ValueError(
                f"image {index} must be float in [0, 1], got values from {low:g} to {high:g}; divide pixels of 0…255 "
                "by 255, and leave mean and standard deviation to the model"
            )


def check_can_train(num_images: int, dtype: torch.dtype, image_size: tuple[int, int], coarsest_stride: int) -> None:
    """Raise ``ValueError`` where weights of this type, or a batch of this many images, cannot train."""
    if dtype == torch.float16:
        raise ValueError(
            "training needs weights in float32 or bfloat16, got torch.float16, in which gradients vanish; call "
            "model.float() and train under torch.autocast"
        )
    if num_images == 1 and max(image_size) <= coarsest_stride:
        raise ValueError(
            "training needs two images or more in a batch where the coarsest level is a single cell, got one image "
            f"for an input of {image_size}; give more images, or an image_size above {coarsest_stride}"
        )


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
