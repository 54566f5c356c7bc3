"""torchvision's own detectors as peers, in this environment or another: ``torchvision:NAME``."""

from __future__ import annotations

import time
from typing import Any

import torch
import torchvision
from torchvision.io import ImageReadMode, read_file
from torchvision.io import decode_jpeg as decode

MODES = ("default", "channels_last", "bf16")


def _create(variant: str, num_classes: int, mode: str) -> Any:
    """Return a detector with random weights and the BN statistics of its first batch, see ``_settle``."""
    torch.manual_seed(0)
    build = getattr(torchvision.models.detection, variant)
    model = build(weights=None, weights_backbone=None, num_classes=num_classes + 1)
    return model.to(memory_format=torch.channels_last) if mode != "default" else model


def _settle(model: Any, images: list[torch.Tensor]) -> None:
    """Set the BN statistics to those of a batch, so that activations do not become denormal numbers."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    model.train()
    with torch.no_grad():
        batch, _ = model.transform(images)
        features = model.backbone(batch.tensors)
        model.head(list(features.values()))
    model.eval()


class NetworkAlone:
    """Backbone and head of a normalised batch, without resizing and post-processing."""

    def __init__(self, *, variant: str, num_classes: int, photos: list[str], batch: int, mode: str) -> None:
        self.mode = mode
        self.model = _create(variant, num_classes, mode)
        images = [_read(photos[index % len(photos)]) for index in range(batch)]
        _settle(self.model, images * (2 if batch == 1 else 1))
        self.images = self.model.transform(images)[0].tensors
        if mode != "default":
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.facts = {"input": list(self.images.shape)}

    @torch.inference_mode()
    def step(self) -> None:
        """Run the network once."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.mode == "bf16"):
            self.model.head(list(self.model.backbone(self.images).values()))

    def result(self) -> None:
        """Return nothing, because outputs of other networks cannot be compared."""


class Predict:
    """From a JPEG file to boxes."""

    def __init__(self, *, variant: str, num_classes: int, photos: list[str], mode: str) -> None:
        self.mode, self.photos, self.turn = mode, photos, 0
        self.model = _create(variant, num_classes, mode)
        _settle(self.model, [_read(photo) for photo in photos[:2]] * (1 if len(photos) > 1 else 2))

    @torch.inference_mode()
    def step(self) -> dict[str, float]:
        """Predict on the next photo."""
        started = time.perf_counter()
        image = _read(self.photos[self.turn % len(self.photos)])
        decoded = time.perf_counter()
        self.turn += 1
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.mode == "bf16"):
            self.model([image])
        return {"decode": decoded - started, "the rest": time.perf_counter() - decoded}

    def result(self) -> None:
        """Return nothing, because outputs of other networks cannot be compared."""


class Train:
    """One step of SGD on given boxes, forward, loss, backward, update."""

    def __init__(
        self,
        *,
        variant: str,
        num_classes: int,
        photos: list[str],
        image_size: list[int],
        batch: int,
        boxes: list[list[list[float]]],
        labels: list[list[int]],
        mode: str,
    ) -> None:
        self.mode = mode
        self.model = _create(variant, num_classes, mode).train()
        size = (image_size[0], image_size[1])
        files = [photos[index % len(photos)] for index in range(batch)]
        self.images = [torchvision.transforms.functional.resize(_read(file), size) for file in files]
        self.targets = [
            {"boxes": torch.tensor(rows).reshape(-1, 4), "labels": torch.tensor(classes) + 1}
            for rows, classes in zip(boxes[:batch], labels[:batch], strict=True)
        ]
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-5, momentum=0.9, weight_decay=4e-5)

    def step(self) -> None:
        """Do one step."""
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=self.mode == "bf16"):
            losses = self.model(self.images, self.targets)
        self.optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        self.optimizer.step()

    def result(self) -> None:
        """Return nothing, because losses of other networks cannot be compared."""


def _read(photo: str) -> torch.Tensor:
    image: torch.Tensor = decode(read_file(photo), mode=ImageReadMode.RGB).float() / 255
    return image


TASKS = {"network": NetworkAlone, "predict": Predict, "train": Train}
