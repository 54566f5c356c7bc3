"""The peer's side: PyPI's ``effdet``, used through its public names, in its own environment.

This file runs under the peer's interpreter, where ``effdet`` is the peer's package and ours is not importable.
"""

from __future__ import annotations

import contextlib
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

peer: Any = importlib.import_module("effdet")  # a type checker would take an import statement for ours
MODES = ("default", "channels_last", "bf16", "compile")  # all but the first use channels_last


def _create(variant: str, num_classes: int, image_size: list[int], folder: str) -> Any:
    config = peer.get_efficientdet_config(variant)
    config.num_classes = num_classes
    config.image_size = image_size
    config.backbone_args = {"drop_path_rate": 0.0}  # as ours, so that both losses are the same
    model = peer.EfficientDet(config, pretrained_backbone=False)
    model.load_state_dict(torch.load(Path(folder) / "peer.pt", weights_only=True))
    return model


def _autocast(mode: str) -> Any:
    return torch.autocast("cpu", dtype=torch.bfloat16) if mode == "bf16" else contextlib.nullcontext()


def _load_inputs(folder: str, batch: int) -> torch.Tensor:
    """Return the uint8 images (B, 3, H, W) that ``Prepare`` wrote."""
    return torch.from_numpy(np.load(Path(folder) / "inputs.npy")[:batch]).permute(0, 3, 1, 2).contiguous()


def _normalise(images: torch.Tensor, mean: list[float], std: list[float]) -> torch.Tensor:
    shape = (1, 3, 1, 1)
    return images.float().sub_(torch.tensor(mean).view(shape)).div_(torch.tensor(std).view(shape))


class NetworkAlone:
    """Class and box maps of a normalised batch."""

    def __init__(
        self,
        *,
        folder: str,
        variant: str,
        num_classes: int,
        image_size: list[int],
        mean: list[float],
        std: list[float],
        batch: int,
        mode: str,
        name: str,
    ) -> None:
        self.folder, self.name, self.mode = Path(folder), name, mode
        self.num_classes = num_classes
        model = _create(variant, num_classes, image_size, folder).eval()
        self.images = _normalise(_load_inputs(folder, batch), mean, std)
        if mode != "default":
            model = model.to(memory_format=torch.channels_last)
            self.images = self.images.contiguous(memory_format=torch.channels_last)
        self.model = torch.compile(model) if mode == "compile" else model

    @torch.inference_mode()
    def step(self) -> None:
        """Run the network once."""
        with _autocast(self.mode):
            self.outputs = self.model(self.images)

    def result(self) -> str:
        """Write the outputs, in our order of anchors and deltas, and return the file's name."""
        logits, deltas = (
            torch.cat([x.float().permute(0, 2, 3, 1).reshape(len(x), -1, width) for x in maps], dim=1)
            for maps, width in zip(self.outputs, (self.num_classes, 4), strict=True)
        )
        file = self.folder / f"{self.name}.npz"
        np.savez(file, logits=logits.numpy(), deltas=deltas[..., [1, 0, 3, 2]].numpy())
        return str(file)


class Predict:
    """From a JPEG file to boxes, by Pillow, the peer's evaluation transform, and its bench."""

    def __init__(
        self,
        *,
        folder: str,
        variant: str,
        num_classes: int,
        image_size: list[int],
        mean: list[float],
        std: list[float],
        mode: str,
        photos: list[str],
        score_threshold: float,
    ) -> None:
        transforms = importlib.import_module("effdet.data.transforms")
        self.photos, self.mode, self.turn, self.score_threshold = photos, mode, 0, score_threshold
        self.mean, self.std = mean, std
        model = _create(variant, num_classes, image_size, folder)
        self.bench = peer.DetBenchPredict(model).eval()
        if mode != "default":
            self.bench = self.bench.to(memory_format=torch.channels_last)
        if mode == "compile":
            self.bench.model = torch.compile(self.bench.model)
        self.transform = transforms.transforms_coco_eval(
            image_size, mean=[value / 255 for value in mean], std=[value / 255 for value in std], use_prefetcher=True
        )

    def step(self) -> dict[str, float]:
        """Predict on the next photo, and return the seconds of each part."""
        photo = self.photos[self.turn % len(self.photos)]
        self.turn += 1
        return self._predict(photo)[1]

    @torch.inference_mode()
    def _predict(self, photo: str) -> tuple[torch.Tensor, dict[str, float]]:
        clock = [time.perf_counter()]
        image = Image.open(photo).convert("RGB")
        width, height = image.size
        clock.append(time.perf_counter())
        array, annotation = self.transform(image, {})
        images = _normalise(torch.from_numpy(array)[None], self.mean, self.std)
        if self.mode != "default":
            images = images.contiguous(memory_format=torch.channels_last)
        info = {
            "img_scale": torch.tensor([annotation["img_scale"]]),
            "img_size": torch.tensor([[width, height]], dtype=torch.float32),
        }
        clock.append(time.perf_counter())
        network_seconds = 0.0

        def before(*_: Any) -> None:
            nonlocal network_seconds
            network_seconds = -time.perf_counter()

        def after(*_: Any) -> None:
            nonlocal network_seconds
            network_seconds += time.perf_counter()

        hooks = (self.bench.model.register_forward_pre_hook(before), self.bench.model.register_forward_hook(after))
        with _autocast(self.mode):
            rows = self.bench(images, info)[0]
        rows = rows[(rows[:, 4] > 0) & (rows[:, 4] >= self.score_threshold)]  # its bench fills up with zeros
        for hook in hooks:
            hook.remove()
        clock.append(time.perf_counter())
        return rows, {
            "decode": clock[1] - clock[0],
            "resize and normalise": clock[2] - clock[1],
            "network": network_seconds,
            "post-processing": clock[3] - clock[2] - network_seconds,
        }

    def result(self) -> dict[str, Any]:
        """Return the detections of every photo; labels from 0."""
        rows = [self._predict(photo)[0].float() for photo in self.photos]
        return {
            "detections": [
                {"boxes": row[:, :4].tolist(), "scores": row[:, 4].tolist(), "labels": [int(c) - 1 for c in row[:, 5]]}
                for row in rows
            ]
        }


class Train:
    """One optimizer step with the peer's bench and labeler, as in its training script."""

    def __init__(
        self,
        *,
        folder: str,
        variant: str,
        num_classes: int,
        image_size: list[int],
        mean: list[float],
        std: list[float],
        batch: int,
        boxes: list[list[list[float]]],
        labels: list[list[int]],
        mode: str,
    ) -> None:
        optim = importlib.import_module("timm.optim")
        self.mode, self.mean, self.std = mode, mean, std
        self.losses: dict[str, float] = {}
        model = _create(variant, num_classes, image_size, folder)
        self.bench = peer.DetBenchTrain(model, create_labeler=True).train()
        self.images = _load_inputs(folder, batch)
        if mode != "default":
            self.bench = self.bench.to(memory_format=torch.channels_last)
        if mode == "compile":
            self.bench.model = torch.compile(self.bench.model)
        self.parameters = list(self.bench.parameters())
        self.optimizer = optim.create_optimizer_v2(self.bench, opt="momentum", lr=1e-5, weight_decay=4e-5, momentum=0.9)
        most = max(len(rows) for rows in boxes)
        self.target = {"bbox": torch.full((batch, most, 4), -1.0), "cls": torch.full((batch, most), -1.0)}
        for index, (rows, classes) in enumerate(zip(boxes[:batch], labels[:batch], strict=True)):
            self.target["bbox"][index, : len(rows)] = torch.tensor(rows)[:, [1, 0, 3, 2]]
            self.target["cls"][index, : len(rows)] = torch.tensor(classes).float() + 1

    def step(self) -> dict[str, float]:
        """Do one step."""
        clock = [time.perf_counter()]
        images = _normalise(self.images, self.mean, self.std)
        if self.mode != "default":
            images = images.contiguous(memory_format=torch.channels_last)
        with _autocast(self.mode):
            output = self.bench(images, self.target)
        clock.append(time.perf_counter())
        self.optimizer.zero_grad()
        output["loss"].backward()
        clock.append(time.perf_counter())
        torch.nn.utils.clip_grad_norm_(self.parameters, 10.0)
        self.optimizer.step()
        clock.append(time.perf_counter())
        self.losses = self.losses or {name: float(value) for name, value in output.items()}
        names = ("forward and loss", "backward", "clipping and update")
        return {name: end - start for name, start, end in zip(names, clock, clock[1:], strict=False)}

    def result(self) -> dict[str, float]:
        """Return the losses of the first step: of the weights that both programs start with."""
        return self.losses


class Load:
    """Batches of augmented images: the peer's data set, training transform and collate in a plain loader.

    Its own ``create_loader`` adds a prefetcher that needs CUDA, so this class uses the parts before it.
    """

    def __init__(
        self, *, annotations: str, images: str, image_size: list[int], batch: int, num_classes: int, labeler: bool
    ) -> None:
        anchors, data = importlib.import_module("effdet.anchors"), importlib.import_module("effdet.data")
        torch.manual_seed(0)
        settings = importlib.import_module("effdet.data.parsers.parser_config").CocoParserCfg(ann_filename=annotations)
        parser = data.create_parser("coco", cfg=settings)
        dataset = data.DetectionDatset(data_dir=Path(images), parser=parser)
        dataset.transform = data.transforms.transforms_coco_train(tuple(image_size), use_prefetcher=True)
        label = None
        if labeler:
            config = peer.get_efficientdet_config("tf_efficientdet_d0")
            config.image_size = image_size
            label = anchors.AnchorLabeler(anchors.Anchors.from_config(config), num_classes, match_threshold=0.5)
        self.loader: Any = torch.utils.data.DataLoader(
            dataset,
            batch_size=batch,
            shuffle=True,
            num_workers=0,
            drop_last=True,
            collate_fn=data.loader.DetectionFastCollate(anchor_labeler=label),
        )
        self.batches = iter(self.loader)
        self.facts = {"images_per_step": batch}

    def step(self) -> None:
        """Load one batch; a new pass over the data starts when one ends."""
        try:
            next(self.batches)
        except StopIteration:
            self.batches = iter(self.loader)
            next(self.batches)

    def result(self) -> None:
        """Return nothing, because the augmentation is random."""


TASKS = {"network": NetworkAlone, "predict": Predict, "train": Train, "loader": Load}
