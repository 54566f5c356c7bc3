"""What an architecture costs: its multiply-adds, and its milliseconds in the runtime that will be used."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from effdet.deployment.load import deploy
from effdet.deployment.speed import Timing, measure_network
from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Stopwatch:
    """How latencies are measured.

    Args:
        runtime: "torch", or one that ``deploy`` takes, such as "onnxruntime" or "openvino".
        num_threads: Threads of the network; None: one per core.
        runs: Measured runs of a network, after a warm-up.
    """

    runtime: str = "torch"
    num_threads: int | None = None
    runs: int = 20

    def measure(self, architecture: Architecture, num_classes: int) -> Timing:
        """Return the milliseconds of the network alone, for one image, with random weights.

        Raises:
            ImportError: If the runtime is not installed; the message says how to install it.
            ValueError: If there is no such runtime, or a number is out of its range.
        """
        if self.num_threads is not None and self.num_threads < 1:
            raise ValueError(f"num_threads must be 1 or more, or None for one per core, got {self.num_threads}")
        model = EfficientDet(architecture, num_classes).eval()
        if self.runtime == "torch":
            with torch_threads(self.num_threads):
                return measure_network(model, runs=self.runs)
        return measure_network(deploy(model, self.runtime, num_threads=self.num_threads), runs=self.runs)


IN_TORCH = Stopwatch()


@contextlib.contextmanager
def torch_threads(number: int | None) -> Iterator[None]:
    """Let torch use this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
