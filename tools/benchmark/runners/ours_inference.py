"""Our side of ``network`` and ``predict``."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from benchmark.exports import exported_file
from benchmark.runners.stopwatch import Stopwatch
from effdet.deployment import detector as deployed
from effdet.deployment.load import load_exported
from effdet.detector.batches import make_batch
from effdet.detector.efficientdet import EfficientDet
from effdet.images.preprocessing import Preprocessing
from effdet.ops.settings import PostprocessSettings

EAGER = ("eager", "channels_last", "compile")
Detector: TypeAlias = Any  # EfficientDet or DeployedDetector

PASSES = 5  # over the photos, to measure the parts of a prediction


def open_detector(folder: Path, runtime: str, threads: int) -> Detector:
    """Return the model in a runtime: a name in EAGER or EXPORTS, or the path of an exported file."""
    if runtime not in EAGER:
        file = exported_file(folder, runtime)
        return load_exported(file, num_threads=None if file.suffix == ".pt2" else threads)
    model = EfficientDet.from_pretrained(folder / "weights.safetensors")
    if runtime == "channels_last":
        model.network.to(memory_format=torch.channels_last)
    if runtime == "compile":
        model.network.forward = torch.compile(model.network.forward)  # type: ignore[method-assign]
    return model


class NetworkAlone:
    """Class logits and box deltas of a normalised batch.

    Args:
        folder: What ``Prepare`` wrote.
        runtime: See ``open_detector``.
        threads: Number of threads, for runtimes with such an argument; the others use OMP_NUM_THREADS.
        batch: Images.
        name: Stem of the file that ``result`` writes.
    """

    def __init__(self, *, folder: str, runtime: str, threads: int, batch: int, name: str) -> None:
        self.folder, self.name = Path(folder), name
        detector = open_detector(self.folder, runtime, threads)
        images = network_input(detector, np.load(self.folder / "inputs.npy")[:batch])
        if runtime == "channels_last":
            images = images.contiguous(memory_format=torch.channels_last)
        self.run = _network(detector, images)
        self.outputs: list[Any] = []

    def step(self) -> None:
        """Run the network once."""
        self.outputs = self.run()

    def result(self) -> str:
        """Write the outputs and return the file's name."""
        logits, deltas = (np.asarray(output, dtype=np.float32) for output in self.outputs)
        file = self.folder / f"{self.name}.npz"
        np.savez(file, logits=logits, deltas=deltas)
        return str(file)


def network_input(detector: Detector, images: NDArray[np.uint8]) -> Tensor:
    """Return (B, H, W, 3) uint8 images as (B, 3, H, W), normalised unless the graph does that."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    if not isinstance(detector, EfficientDet) and detector.description.input == "pixels":
        return tensor if getattr(detector.runtime, "takes_uint8", False) else tensor.float()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (detector.letterbox.mean, detector.letterbox.std))
    return (tensor.float() - mean) / std


def _network(detector: Detector, images: Tensor) -> Callable[[], list[Any]]:
    if not isinstance(detector, EfficientDet):
        array = images.contiguous().numpy()
        return lambda: list(detector.runtime.run(array))

    @torch.inference_mode()
    def run() -> list[Any]:
        predictions = detector.network(images)
        return [predictions.class_logits, predictions.box_deltas]

    return run


class Predict:
    """From a JPEG file to boxes; one photo a step.

    Args:
        folder: What ``Prepare`` wrote.
        runtime: See ``open_detector``.
        threads: Number of threads, for runtimes with such an argument.
        photos: The files.
        preset: Resizing and post-processing: "default" (ours), "fast" (ours with reduced decoding) or "effdet" (the
            peer's).
        score_threshold: Detections below it are left out.
    """

    def __init__(
        self, *, folder: str, runtime: str, threads: int, photos: list[str], preset: str, score_threshold: float
    ) -> None:
        self.photos, self.turn, self.score_threshold = photos, 0, score_threshold
        self.detector = open_detector(Path(folder), runtime, threads)
        self.detector.settings = PostprocessSettings.preset(preset)
        self.detector.preprocessing = Preprocessing.preset(preset)

    def step(self) -> None:
        """Predict on the next photo."""
        self.detector.predict(self.photos[self.turn % len(self.photos)], score_threshold=self.score_threshold)
        self.turn += 1

    def result(self) -> dict[str, Any]:
        """Return the detections of every photo, and the seconds of each part of a prediction."""
        found = [self.detector.predict(photo, score_threshold=self.score_threshold)[0] for photo in self.photos]
        with self._timed_network() as network:
            self._in_parts(self.photos[0], network)  # not counted: the detector copies a network that was changed
            parts = [self._in_parts(photo, network) for _ in range(PASSES) for photo in self.photos]
        return {
            "detections": [
                {"boxes": f.boxes.tolist(), "labels": f.labels.tolist(), "scores": f.scores.tolist()} for f in found
            ],
            "parts": {name: [part[name] for part in parts] for name in parts[0]},
        }

    def _in_parts(self, photo: str, network: Stopwatch) -> dict[str, float]:
        network.seconds.clear()
        parts = Stopwatch()
        with parts.measure("decode"):
            picture = self.detector.letterbox.read(photo)
        with parts.measure("resize"):
            batch = make_batch([(photo, picture.pixels)], self.detector.letterbox, [picture.original_size])
        with parts.measure("detect"):
            self.detector.detect(batch, least_score=self.score_threshold)
        detect, alone = parts.seconds.pop("detect"), network.seconds["network"]
        return {**parts.seconds, "network": alone, "normalise and post-process": detect - alone}

    @contextlib.contextmanager
    def _timed_network(self) -> Iterator[Stopwatch]:
        """Give a stopwatch that measures the network."""
        stopwatch, is_eager = Stopwatch(), isinstance(self.detector, EfficientDet)
        owner, name = (self.detector.network, "forward") if is_eager else (deployed, "outputs_for")
        original = getattr(owner, name)
        setattr(owner, name, (stopwatch.around if is_eager else stopwatch.around_entry)(original, "network"))
        try:
            yield stopwatch
        finally:
            setattr(owner, name, original)


TASKS = {"network": NetworkAlone, "predict": Predict}
