"""Our side of ``loader``, and the data that both sides read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import torch

from benchmark.runners.photos import draw_photos
from effdet.config import AugmentConfig
from effdet.data.formats import find_dataset
from effdet.data.loader import TrainLoader
from effdet.detector.efficientdet import EfficientDet
from effdet.structures import Batch
from effdet.weights.effdet import effdet_name

FILL = (124, 116, 104)  # the mean colour of ImageNet


class LoaderData:
    """Draws photos with annotations, or finds those of a data set, and returns their paths."""

    def __init__(
        self, *, folder: str, data: str | None, num_photos: int, photo_size: list[int], num_classes: int
    ) -> None:
        if data is None:
            draw_photos(Path(folder), num_photos, (photo_size[0], photo_size[1]), num_classes=num_classes)
        root = Path(data or folder).resolve()
        found = find_dataset(root, "train")
        places = {"annotations": str(found.annotation_file), "images": str(found.folder)}
        self.facts = {"root": str(root), **places, "count": len(found)}


class Load:
    """Batches of the published recipe on one core: flip, scale jitter 0.1–2.0, crop or padding, uint8.

    Args:
        root: A data set.
        image_size: Network input (height, width).
        batch: Images of a step.
    """

    def __init__(self, *, root: str, image_size: list[int], batch: int) -> None:
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        self.loader = make_loader(root, image_size, batch, workers=0)
        self.batches = endless(self.loader)
        self.facts = {"images_per_step": batch}

    def step(self) -> None:
        """Load one batch."""
        next(self.batches)

    def result(self) -> None:
        """Return nothing, because the augmentation is random."""


def make_loader(root: str, image_size: list[int], batch: int, *, workers: int) -> TrainLoader:
    """Return the training loader with the default augmentation."""
    return TrainLoader(
        find_dataset(root, "train"),
        image_size=(image_size[0], image_size[1]),
        batch_size=batch,
        augment=AugmentConfig(),
        seed=0,
        workers=workers,
        fill=FILL,
    )


def endless(loader: Any) -> Iterator[Batch]:
    """Yield batches, epoch after epoch."""
    epoch = 0
    while True:
        yield from loader.epoch(epoch)
        epoch += 1


class QualityData:
    """Finds both splits of a data set, and writes the ImageNet weights of a backbone by timm's names.

    Args:
        folder: Folder to write to.
        data: The data set.
        variant: Name of the model with the backbone.
    """

    def __init__(self, *, folder: str, data: str, variant: str) -> None:
        model = EfficientDet(variant, backbone_weights="imagenet")
        file = Path(folder) / "backbone.pt"
        torch.save(model.network.backbone.state_dict(), file)
        self.facts: dict[str, object] = {"backbone": str(file), "variant": effdet_name(variant)}
        for split in ("train", "val"):
            found = find_dataset(data, split)
            self.facts[split] = {"annotations": str(found.annotation_file), "images": str(found.folder)}


TASKS = {"loader_data": LoaderData, "loader": Load, "quality_data": QualityData}
