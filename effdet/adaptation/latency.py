"""The latency of a network as the sum of the latencies of its parts, which are measured once and kept in a file.

    table = LatencyTable(file=Path("latency.json"), runtime="onnxruntime", num_threads=1)
    table.predict(Architecture.named("lite0"), num_classes=3)  # milliseconds

A runtime fuses layers and lays out maps in its own way, so a part cannot be measured alone: it would begin and end with
copies that the network does not have. Each part is measured between convolutions that make its inputs from a small
image and others that read its outputs, and what these take without the part is subtracted:

    latency(part) = t(part between its convolutions) - ½·t(those of its inputs) - ½·t(those of its outputs)

All measurements of a call take turns, and the least time of each counts: on a machine with other work, that is the one
that was disturbed least.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from effdet.adaptation.measurement import torch_threads
from effdet.adaptation.network_parts import Map, Maps, Part, parts_of
from effdet.atomic_write import replace_file
from effdet.deployment.formats import RUNTIMES
from effdet.deployment.load import deploy
from effdet.deployment.speed import network_runner
from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture
from effdet.structures import Predictions

logger = logging.getLogger(__name__)

WARMUP = 3  # runs before the first that counts
SINK_CHANNELS = 8  # of the convolutions that read the outputs of a part


@dataclass(kw_only=True)
class LatencyTable:
    """Measured latencies of parts of networks in one runtime on one machine.

    Args:
        file: JSON file in which the latencies are kept; None: in memory. It is read if it exists.
        runtime: "torch", or one that ``effdet.deployment.load.deploy`` takes, such as "onnxruntime".
        num_threads: Threads of one run; None: one per core.
        rounds: How often each part is measured.

    Raises:
        ValueError: If the file was written for another runtime, version, number of threads or machine.
    """

    file: Path | None = None
    runtime: str = "onnxruntime"
    num_threads: int | None = None
    rounds: int = 40
    milliseconds: dict[str, float] = field(default_factory=dict)  # of each part, by its key

    def __post_init__(self) -> None:
        if self.file is not None and self.file.exists():
            self._read(self.file)

    def predict(self, architecture: Architecture, num_classes: int, image_size: tuple[int, int] | None = None) -> float:
        """Return the milliseconds of one image; parts that are not in the table are measured first.

        Args:
            architecture: What the network is.
            num_classes: K.
            image_size: Network input (height, width); None: that of the architecture.
        """
        parts = parts_of(architecture, num_classes, image_size or architecture.image_size)
        self.measure(parts)
        return sum(self.latency(part) for part in parts)

    def latency(self, part: Part) -> float:
        """Return the milliseconds of a part that has been measured."""
        frames = [self.milliseconds[_frame_key(maps)] for maps in (part.inputs, part.outputs) if maps]
        return self.milliseconds[part.key] - sum(frames) / 2

    def measure(self, parts: Sequence[Part]) -> None:
        """Measure the parts that are not in the table yet, and write the file."""
        wanted: dict[str, Callable[[], EfficientDet]] = {}
        for part in parts:
            wanted[part.key] = partial(_detector_of_part, part)
            wanted |= {_frame_key(maps): partial(_detector_of_frame, maps) for maps in _ends(part)}
        missing = {key: build for key, build in wanted.items() if key not in self.milliseconds}
        if not missing:
            return
        logger.info("measuring %d parts of networks in %s", len(missing), self.runtime)
        detectors = [build() for build in missing.values()]
        times = measure_latencies(detectors, runtime=self.runtime, num_threads=self.num_threads, rounds=self.rounds)
        self.milliseconds |= dict(zip(missing, times, strict=True))
        self._write()

    def _conditions(self) -> dict[str, Any]:
        """Return what the latencies depend on beside the parts."""
        return {
            "runtime": self.runtime,
            "num_threads": self.num_threads or os.cpu_count(),
            "versions": {self.runtime: version(RUNTIMES[self.runtime].module), "torch": torch.__version__},
            "machine": processor_name(),
        }

    def _read(self, file: Path) -> None:
        stored = json.loads(file.read_text(encoding="utf-8"))
        now = self._conditions()
        differing = [name for name, value in now.items() if stored.get(name) != value]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{file} must have been measured with {name} {now[name]}, got {stored.get(name)}; choose another file, "
                "so that the parts are measured anew"
            )
        self.milliseconds |= stored["milliseconds"]

    def _write(self) -> None:
        if self.file is None:
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        content = {**self._conditions(), "rounds": self.rounds, "milliseconds": self.milliseconds}
        with replace_file(self.file) as file:
            file.write(json.dumps(content, indent=1, ensure_ascii=False).encode())


def measure_latencies(
    detectors: Sequence[EfficientDet], *, runtime: str, num_threads: int | None = None, rounds: int = 40
) -> list[float]:
    """Return the least milliseconds of one image of each detector's network, in ``rounds`` runs that take turns.

    Args:
        detectors: On the CPU; each has the input size that it is measured at.
        runtime: "torch", or one that ``effdet.deployment.load.deploy`` takes.
        num_threads: Threads of one run; None: one per core.
        rounds: How often each is run, after a warm-up of three.

    Raises:
        ImportError: If the runtime is not installed; the message says how to install it.
        ValueError: If there is no such runtime, or a number is below 1.
    """
    if rounds < 1 or (num_threads is not None and num_threads < 1):
        raise ValueError(f"rounds and num_threads must be 1 or more, got {rounds} and {num_threads}")
    with torch_threads(num_threads):
        runs = [_runner(detector, runtime, num_threads) for detector in detectors]
        return time_in_turns(runs, rounds)


def time_in_turns(runs: Sequence[Callable[[], Any]], rounds: int) -> list[float]:
    """Return the least milliseconds of each run, of as many as there are rounds, after a warm-up of three."""
    times = [[_milliseconds(run) for run in runs] for _ in range(WARMUP + rounds)]
    return [min(column) for column in zip(*times[WARMUP:], strict=True)]


def processor_name() -> str:
    """Return the name of the processor, as the system gives it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _runner(detector: EfficientDet, runtime: str, num_threads: int | None) -> Callable[[], Any]:
    """Return a function that runs the network of a detector once, on noise."""
    images = torch.rand((1, len(detector.mean), *detector.image_size), generator=torch.Generator().manual_seed(0))
    deployed = detector if runtime == "torch" else deploy(detector, runtime, num_threads=num_threads)
    return network_runner(deployed, images)


def _milliseconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return 1000 * (time.perf_counter() - started)


def _ends(part: Part) -> list[Maps]:
    return [maps for maps in (part.inputs, part.outputs) if maps]


def _frame_key(maps: Maps) -> str:
    return "nothing between " + " ".join("×".join(map(str, size)) for size in maps)


def _detector_of_part(part: Part) -> EfficientDet:
    return _detector(_Bench(part.inputs, part.build(), part.outputs), part.image or _image_for(part.inputs))


def _detector_of_frame(maps: Maps) -> EfficientDet:
    return _detector(_Bench(maps, nn.Identity(), maps), _image_for(maps))


def _image_for(maps: Maps) -> Map:
    return 3, *maps[0][1:]


def _detector(network: nn.Module, image: Map) -> EfficientDet:
    """Return a detector with another network, so that every runtime takes it as it takes any detector."""
    detector = copy.copy(_host(image[0]))
    detector._modules = {**detector._modules, "network": network.eval()}
    detector.image_size = image[1:]
    return detector


@lru_cache(maxsize=4)
def _host(in_channels: int) -> EfficientDet:
    numbers = (1.0,) * in_channels
    architecture = replace(Architecture.named("lite0"), in_channels=in_channels, mean=numbers, std=numbers)
    return EfficientDet(architecture, num_classes=1).eval()


class _Bench(nn.Module):
    """A part between convolutions that make its inputs from an image and others that read its outputs."""

    def __init__(self, inputs: Maps, part: nn.Module, outputs: Maps) -> None:
        super().__init__()
        strides = [max(-(-inputs[0][axis] // size[axis]) for axis in (1, 2)) for size in inputs]
        self.sources = nn.ModuleList(
            nn.Conv2d(3, size[0], 1, stride=stride) for size, stride in zip(inputs, strides, strict=True)
        )
        self.part = part
        self.sinks = nn.ModuleList(nn.Conv2d(size[0], SINK_CHANNELS, 1) for size in outputs)

    def forward(self, image: Tensor) -> Predictions:
        """Return the outputs of the part as if they were predictions, (1, N, O) and a small part of them."""
        result = self.part([source(image) for source in self.sources] if self.sources else image)
        if self.sinks:
            flat = [sink(x).flatten(2) for sink, x in zip(self.sinks, result, strict=True)]
            result = torch.cat(flat, dim=2)  # (1, SINK_CHANNELS, N)
        return Predictions(result, result[:, :, :1])
