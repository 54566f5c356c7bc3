"""How fast a detector is on this machine: its network alone, and everything from a photo's file to boxes.

``measure_speed`` measures both on photos. ``measure_network`` needs none, and the weights may be random.
"""

from __future__ import annotations

import copy
import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any

import numpy as np
import torch

from effdet.deployment.detector import DeployedDetector
from effdet.detector.batches import make_batch
from effdet.detector.efficientdet import EfficientDet

WARMUP = 3  # runs before the first that counts: caches fill, kernels are chosen


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Wall-clock milliseconds of one image, over all runs."""

    median: float
    first_quartile: float
    third_quartile: float

    @property
    def images_per_second(self) -> float:
        """Images in a second at the median."""
        return 1000 / self.median


@dataclass(frozen=True, kw_only=True)
class Speed:
    """The speed of one detector on one machine."""

    image_size: tuple[int, int]  # (height, width) of the network input
    batch_size: int  # images of a run
    runs: int
    network: Timing  # from the normalised input to class logits and box deltas, or to boxes where an export holds NMS
    predict: Timing  # from the file to boxes: decoding, resizing, network and post-processing
    stream: float  # milliseconds of an image where predict_iter gets all files at once and reads ahead


def measure_speed(
    detector: EfficientDet | DeployedDetector, photos: Sequence[str | Path], *, batch_size: int = 1, runs: int = 20
) -> Speed:
    """Measure a detector as it is: its device, runtime, input size and settings.

    All numbers come from the same photos. Post-processing takes longer where a photo has more candidates, so measure
    on photos of the kind that the detector will see.

    Args:
        detector: What ``effdet.load`` or ``EfficientDet.from_pretrained`` returns.
        photos: Image files, used in turn.
        batch_size: Images of a run.
        runs: How often each is measured, after a warm-up of three.

    Raises:
        ValueError: If there is no photo, a number is below its least value, or an export takes another number of
            images at a time.
    """
    _check(detector, photos, batch_size, runs)
    batches = [
        [str(photos[(start + offset) % len(photos)]) for offset in range(batch_size)]
        for start in range(0, batch_size * (WARMUP + runs), batch_size)
    ]
    networks = [_network(detector, batches[0])] * len(batches)
    predicts = [functools.partial(detector.predict, batch, batch_size=batch_size) for batch in batches]
    return Speed(
        image_size=detector.image_size,
        batch_size=batch_size,
        runs=runs,
        network=time_runs(networks, detector.device, batch_size),
        predict=time_runs(predicts, detector.device, batch_size),
        stream=_stream(detector, [photo for batch in batches[WARMUP:] for photo in batch], batch_size),
    )


def _stream(detector: EfficientDet | DeployedDetector, photos: Sequence[str], batch_size: int) -> float:
    """Return the milliseconds of an image where all files are given at once, so that a thread decodes ahead."""
    started = time.perf_counter()
    for _ in detector.predict_iter(list(photos), batch_size=batch_size):
        pass
    return 1000 * (time.perf_counter() - started) / len(photos)


def measure_network(detector: EfficientDet | DeployedDetector, *, runs: int = 20) -> Timing:
    """Measure the network of a detector on noise: as it is, with its device, runtime and input size.

    Args:
        detector: What ``effdet.load``, ``deploy`` or ``EfficientDet`` return.
        runs: How often it is measured, after a warm-up of three.

    Returns:
        Milliseconds of one image, from the normalised input to class logits and box deltas.

    Raises:
        ValueError: If ``runs`` is below 2.
    """
    _check_number("runs", runs, 2)
    number = (detector.description.batch if isinstance(detector, DeployedDetector) else None) or 1
    shape = (number, len(detector.letterbox.mean), *detector.image_size)
    images = torch.rand(shape, generator=torch.Generator().manual_seed(0))
    return time_runs([network_runner(detector, images)] * (WARMUP + runs), detector.device, number)


def _check(detector: EfficientDet | DeployedDetector, photos: Sequence[str | Path], batch_size: int, runs: int) -> None:
    if not photos:
        raise ValueError("measuring needs at least one photo, got none")
    for name, value, least in (("batch_size", batch_size, 1), ("runs", runs, 2)):
        _check_number(name, value, least)
    fixed = detector.description.batch if isinstance(detector, DeployedDetector) else None
    if batch_size % (fixed or 1):
        raise ValueError(f"batch_size must be a multiple of the {fixed} images that the file takes, got {batch_size}")


def _check_number(name: str, value: int, least: int) -> None:
    if value < least:
        raise ValueError(f"{name} must be {least} or more, got {value}")


def _network(detector: EfficientDet | DeployedDetector, photos: Sequence[str]) -> Callable[[], Any]:
    """Return a function that runs the network once on the input that these photos make."""
    pictures = [detector.letterbox.read(photo) for photo in photos]
    chunk = [(photo, picture.pixels) for photo, picture in zip(photos, pictures, strict=True)]
    batch = make_batch(chunk, detector.letterbox, [picture.original_size for picture in pictures])
    return network_runner(detector, detector.network_input(batch))


def network_runner(detector: EfficientDet | DeployedDetector, images: torch.Tensor | np.ndarray) -> Callable[[], Any]:
    """Return a function that runs the network once on (B, C, H, W) images, as its ``network_input`` returns them."""
    if isinstance(detector, DeployedDetector):
        array, runtime = np.ascontiguousarray(images), detector.runtime
        step = detector.description.batch or len(array)
        return lambda: [runtime.run(array[start : start + step]) for start in range(0, len(array), step)]
    network = copy.deepcopy(detector.network).eval()
    images = torch.as_tensor(images).to(detector.device, detector.dtype).contiguous(memory_format=torch.channels_last)

    @torch.inference_mode()
    def run() -> Any:
        return network(images)

    return run


def time_runs(steps: Sequence[Callable[[], Any]], device: torch.device, images: int) -> Timing:
    """Run all steps once, and return the milliseconds of an image in those after the warm-up.

    Args:
        steps: What to run; the first three are the warm-up.
        device: A CUDA device is waited for.
        images: Images of a step.
    """
    milliseconds = []
    for step in steps:
        started = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        milliseconds.append(1000 * (time.perf_counter() - started) / images)
    first, median, third = quantiles(milliseconds[WARMUP:], n=4, method="inclusive")
    return Timing(median=median, first_quartile=first, third_quartile=third)
