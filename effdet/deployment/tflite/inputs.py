"""What the input of a ``.tflite`` file takes, and how programs are told to scale pixels for it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from effdet.deployment.tflite.metadata import InputScale

if TYPE_CHECKING:
    from effdet.deployment.description import Description


def has_one_scale(mean: Sequence[float], std: Sequence[float]) -> bool:
    """Return whether all channels are normalised by the same two numbers, the only way that MediaPipe knows."""
    return len(set(mean)) == len(set(std)) == 1


def input_kind(mean: Sequence[float], std: Sequence[float], precision: str) -> Literal["normalised", "pixels"]:
    """Return what the input of a file holds.

    Where all channels have one mean and std, the program normalises, as metadata tells it; a uint8 input does so by its
    type. Otherwise the input takes pixels of 0…255 and the graph normalises them.
    """
    if not has_one_scale(mean, std):
        return "pixels"
    return "pixels" if precision == "int8" and 0 <= mean[0] <= 255 else "normalised"


def metadata_scale(description: Description) -> InputScale:
    """Return the mean and the std of a file's metadata; for a uint8 input programs do not apply them."""
    channels = len(description.mean)
    if has_one_scale(description.mean, description.std):
        return InputScale(mean=description.mean[0], std=description.std[0], channels=channels)
    return InputScale(mean=0.0, std=1.0, channels=channels)


def samples_of(inputs: Sequence[np.ndarray], description: Description) -> list[np.ndarray]:
    """Return calibration images as the float graph takes them, with a black and a white one.

    Without these two, the range of the input would be that of the images, and brighter or darker ones would be cut.

    Args:
        inputs: Each (1, C, H, W) float32, normalised.
        description: Says what the file takes.
    """
    mean, std = (np.array(values, np.float32) for values in (description.mean, description.std))
    images = [image.transpose(0, 2, 3, 1) for image in inputs]
    images += [np.broadcast_to((level - mean) / std, images[0].shape) for level in (0, 255)]
    if not has_one_scale(description.mean, description.std):
        images = [image * std + mean for image in images]
    return [np.ascontiguousarray(image, np.float32) for image in images]
