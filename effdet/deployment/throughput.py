"""Measure the images per second of an exported file in OpenVINO, and what each further core adds."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from effdet.deployment.runtimes import openvino_core, require


@dataclass(frozen=True, kw_only=True)
class Throughput:
    """The rate of one setting."""

    cores: int
    streams: int  # runs that are under way at the same time
    batch: int  # images of a run
    images_per_second: float  # network only
    efficiency: float  # rate / (cores · rate on one core with one stream)


def measure_throughput(
    file: str | Path, images: np.ndarray, *, cores: Sequence[int], streams: Sequence[int], seconds: float = 5.0
) -> list[Throughput]:
    """Return the rate of every pair of cores and streams, the first row being one core with one stream.

    Args:
        file: ``.onnx`` or ``.xml``.
        images: (B, 3, H, W) float32, as the network takes them; every run gets them all.
        cores: Numbers of threads to measure, one on each core.
        streams: Numbers of runs at the same time; those above the number of cores are left out.
        seconds: How long each pair is measured, after a warm-up.

    Raises:
        ImportError: If OpenVINO is not installed.
    """
    pairs = [(core, stream) for core in cores for stream in streams if stream <= core and (core, stream) != (1, 1)]
    alone = _rate(file, images, 1, 1, seconds)
    rates = [(1, 1, alone), *((core, stream, _rate(file, images, core, stream, seconds)) for core, stream in pairs)]
    return [
        Throughput(
            cores=core, streams=stream, batch=len(images), images_per_second=rate, efficiency=rate / (core * alone)
        )
        for core, stream, rate in rates
    ]


def _rate(file: str | Path, images: np.ndarray, cores: int, streams: int, seconds: float) -> float:
    """Return images per second with so many threads and runs at the same time."""
    openvino = require("openvino")
    config = {"INFERENCE_NUM_THREADS": cores, "NUM_STREAMS": streams, "INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino_core().compile_model(str(file), "CPU", config)
    queue = openvino.AsyncInferQueue(compiled, streams)
    for _ in range(2 * streams):
        queue.start_async({0: images})
    queue.wait_all()

    runs, started = 0, time.perf_counter()
    while runs == 0 or time.perf_counter() - started < seconds:
        queue.start_async({0: images})  # waits for a free stream
        runs += 1
    queue.wait_all()
    return runs * len(images) / (time.perf_counter() - started)
