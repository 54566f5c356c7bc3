"""Our side of ``network`` and ``predict``."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from effdet.models.efficientdet import EfficientDet

EAGER = ("eager", "channels_last", "compile")
Run: TypeAlias = Callable[[Tensor], tuple[Any, Any]]


class NetworkAlone:
    """Class logits and box deltas of a normalised batch.

    Args:
        folder: What ``Prepare`` wrote.
        runtime: One of EAGER, or a runtime of ``effdet.deployment``.
        batch: Images.
        name: Stem of the file that ``result`` writes.
    """

    def __init__(self, *, folder: str, runtime: str, batch: int, name: str) -> None:
        self.folder, self.name = Path(folder), name
        model = EfficientDet.from_pretrained(self.folder / "weights.safetensors")
        self.images = normalised(model, np.load(self.folder / "inputs.npy")[:batch])
        if runtime == "channels_last":
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.run = open_network(model, runtime, self.images)
        self.outputs: tuple[Any, Any] | None = None

    @torch.inference_mode()
    def step(self) -> None:
        """Run the network once."""
        self.outputs = self.run(self.images)

    def result(self) -> str:
        """Write the outputs and return the file's name."""
        assert self.outputs is not None
        logits, deltas = (np.asarray(output, dtype=np.float32) for output in self.outputs)
        file = self.folder / f"{self.name}.npz"
        np.savez(file, logits=logits, deltas=deltas)
        return str(file)


def normalised(model: EfficientDet, images: NDArray[np.uint8]) -> Tensor:
    """Return (B, H, W, 3) uint8 images as the network's input (B, 3, H, W)."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return model.normalise(tensor, torch.tensor([images.shape[1:3]] * len(images)))


def open_network(model: EfficientDet, runtime: str, example: Tensor) -> Run:
    """Return the network of a model as a function of its input."""
    network = model.network.eval()
    if runtime in EAGER:
        if runtime == "channels_last":
            network.to(memory_format=torch.channels_last)
        call: Any = torch.compile(network) if runtime == "compile" else network
        return lambda images: (lambda p: (p.class_logits, p.box_deltas))(call(images))
    raise NotImplementedError(runtime)


class Predict:
    """From a JPEG file to boxes; one photo a step.

    Args:
        folder: What ``Prepare`` wrote.
        runtime: A runtime of ``model.predict``; "eager" is plain PyTorch.
        photos: The files.
        preset: How candidates become detections: "default", or as a peer does it.
        parts: Measure the parts of a prediction instead of the whole.
    """

    def __init__(self, *, folder: str, runtime: str, photos: list[str], preset: str, parts: bool) -> None:
        self.photos, self.turn, self.runtime, self.parts = photos, 0, runtime, parts
        self.model = EfficientDet.from_pretrained(Path(folder) / "weights.safetensors")
        _use_preset(self.model, preset)

    def step(self) -> dict[str, float] | None:
        """Predict on the next photo."""
        photo = self.photos[self.turn % len(self.photos)]
        self.turn += 1
        if self.parts:
            return self._in_parts(photo)
        self.model.predict(photo, score_threshold=0.0)
        return None

    @torch.inference_mode()
    def _in_parts(self, photo: str) -> dict[str, float]:
        from effdet.images import read_image
        from effdet.models.inference import make_batch

        clock = [time.perf_counter()]
        image = read_image(photo)
        clock.append(time.perf_counter())
        batch = make_batch([(photo, image)], self.model.letterbox)
        images = self.model.normalise(batch.images, batch.content_sizes)
        clock.append(time.perf_counter())
        predictions = self.model.network(images)
        clock.append(time.perf_counter())
        self.model.postprocess(predictions, batch)
        clock.append(time.perf_counter())
        names = ("decode", "resize and normalise", "network", "post-processing")
        return {name: end - start for name, start, end in zip(names, clock, clock[1:], strict=False)}

    def result(self) -> list[dict[str, Any]]:
        """Return the detections of every photo."""
        return [plain(self.model.predict(photo, score_threshold=0.0)[0]) for photo in self.photos]


def plain(detections: Any) -> dict[str, Any]:
    """Return boxes, labels and scores as lists."""
    return {
        "boxes": detections.boxes.tolist(),
        "labels": detections.labels.tolist(),
        "scores": detections.scores.tolist(),
    }


def _use_preset(model: EfficientDet, preset: str) -> None:
    if preset == "default":
        return
    raise NotImplementedError(preset)


TASKS = {"network": NetworkAlone, "predict": Predict}
