"""Fine-tune the peer's Lite0 in a simple loop, and print the AP after every evaluation.

This file runs under the peer's interpreter; the settings are one JSON object on the command line. Model, bench with
labeler, loss, data set, transforms and collate are the peer's. The rest is a simple recipe: AdamW, one cycle of the
learning rate, flips, clipped gradients, channels_last. Each evaluation prints one line of JSON to stdout, in the form
of ``ours_quality``.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch

peer: Any = importlib.import_module("effdet")  # a type checker would take an import statement for ours


class Run:
    """One run. Settings: annotations and images of both splits, backbone, variant, size, epochs, batch, lr, every."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        torch.manual_seed(0)
        config = peer.get_efficientdet_config(settings["variant"])
        config.image_size = settings["size"]
        self.mean, self.std = (torch.tensor([255 * v for v in values]) for values in (config.mean, config.std))
        self.train_data, self.val_data = (self._dataset(split, config) for split in ("train", "val"))
        config.num_classes = max(self.train_data.parser.cat_ids)
        self.model = peer.EfficientDet(config, pretrained_backbone=False)
        self.model.backbone.load_state_dict(torch.load(settings["backbone"], weights_only=True))
        self.bench = peer.DetBenchTrain(self.model, create_labeler=True).to(memory_format=torch.channels_last)
        self.predictor = peer.DetBenchPredict(self.model)
        self.loader = self._loader(self.train_data, shuffle=True)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=settings["lr"], weight_decay=0.01)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, settings["lr"], total_steps=settings["epochs"] * len(self.loader)
        )

    def _dataset(self, split: str, config: Any) -> Any:
        data = importlib.import_module("effdet.data")
        transforms = importlib.import_module("effdet.data.transforms")
        cfg = importlib.import_module("effdet.data.parsers.parser_config").CocoParserCfg(
            ann_filename=self.settings[split]["annotations"]
        )
        dataset = data.DetectionDatset(
            data_dir=Path(self.settings[split]["images"]), parser=data.create_parser("coco", cfg=cfg)
        )
        fill = tuple(round(255 * value) for value in config.mean)
        steps = [transforms.ResizePad(tuple(self.settings["size"]), fill_color=fill), transforms.ImageToNumpy()]
        if split == "train":
            steps.insert(0, transforms.RandomFlip(horizontal=True, prob=0.5))
        dataset.transform = transforms.Compose(steps)
        return dataset

    def _loader(self, dataset: Any, *, shuffle: bool) -> Any:
        collate = importlib.import_module("effdet.data.loader").DetectionFastCollate()
        return torch.utils.data.DataLoader(
            dataset,
            batch_size=self.settings["batch"],
            shuffle=shuffle,
            drop_last=shuffle,
            num_workers=1,
            collate_fn=collate,
        )

    def _input(self, images: torch.Tensor) -> torch.Tensor:
        normalised = images.float().sub_(self.mean.view(1, 3, 1, 1)).div_(self.std.view(1, 3, 1, 1))
        return normalised.contiguous(memory_format=torch.channels_last)

    def train_epoch(self) -> None:
        """Train for one epoch."""
        self.bench.train()
        for images, target in self.loader:
            loss = self.bench(self._input(images), target)["loss"]
            self.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), 10.0)
            self.optimizer.step()
            self.schedule.step()

    @torch.inference_mode()
    def evaluate(self) -> tuple[float, float]:
        """Return AP and AP50 on the validation images."""
        from pycocotools.cocoeval import COCOeval

        self.predictor.eval()
        rows: list[dict[str, Any]] = []
        for images, target in self._loader(self.val_data, shuffle=False):
            info = {"img_scale": target["img_scale"], "img_size": target["img_size"].float()}
            found = self.predictor(self._input(images), info)
            for index, detections in zip(target["img_idx"].tolist(), found.tolist(), strict=True):
                image_id = self.val_data.parser.img_ids[index]
                rows += [
                    {"image_id": image_id, "category_id": int(c), "bbox": [x1, y1, x2 - x1, y2 - y1], "score": s}
                    for x1, y1, x2, y2, s, c in detections
                    if s > 0.001
                ]
        with contextlib.redirect_stdout(io.StringIO()):
            truth = self.val_data.parser.coco
            evaluation = COCOeval(truth, truth.loadRes(rows), "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        return float(evaluation.stats[0]), float(evaluation.stats[1])


def main() -> None:
    """Train, and print the evaluations to the original stdout."""
    settings = json.loads(sys.argv[1])
    started, spent = float(os.environ.get("BENCHMARK_STARTED", time.time())), 0.0
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    run = Run(settings)
    for epoch in range(1, settings["epochs"] + 1):
        run.train_epoch()
        if epoch % settings["every"] == 0 or epoch == settings["epochs"]:
            before = time.time()
            ap, ap50 = run.evaluate()
            now = time.time()
            line = {"seconds": now - started, "training_seconds": before - started - spent, "ap": ap, "ap50": ap50}
            spent += now - before
            print(json.dumps({**line, "epoch": epoch}), file=answers, flush=True)


if __name__ == "__main__":
    main()
