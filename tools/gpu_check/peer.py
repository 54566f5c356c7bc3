"""PyPI's effdet on the same device: prediction and training step, by its public names.

This file runs where ``effdet`` is the peer's package. It prints one line of JSON.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import statistics
import sys
import time
from typing import Any

import torch

peer: Any = importlib.import_module("effdet")
NUM_CLASSES, NUM_BOXES = 90, 7


def main(variant: str, side: int, batch: int, device_name: str) -> None:
    """Measure and print."""
    assert hasattr(peer, "DetBenchTrain"), "this is not the peer's package"
    device = torch.device(device_name)
    torch.backends.cudnn.benchmark = True
    rows = []
    for mode in ("as it comes", "channels_last, bfloat16"):
        rows += [_predict(variant, side, count, device, mode) for count in (1, 8, 32)]
        rows.append(_train(variant, side, batch, device, mode))
        torch.cuda.empty_cache()
    print(json.dumps(rows))


def _model(variant: str, side: int) -> Any:
    config = peer.get_efficientdet_config(variant)
    config.num_classes, config.image_size = NUM_CLASSES, [side, side]
    return peer.EfficientDet(config, pretrained_backbone=False)


def _autocast(mode: str, device: torch.device) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16) if "bfloat16" in mode else contextlib.nullcontext()


def _layout(value: Any, mode: str) -> Any:
    return value.to(memory_format=torch.channels_last) if "channels_last" in mode else value


def _pinned(images: Any, device: torch.device) -> Any:
    return images.pin_memory() if device.type == "cuda" else images


def _row(name: str, seconds: float, count: int) -> dict[str, Any]:
    return {"measured": f"effdet: {name}", "ms": 1000 * seconds, "images/s": count / seconds}


@torch.inference_mode()
def _predict(variant: str, side: int, count: int, device: torch.device, mode: str) -> dict[str, Any]:
    bench = _layout(peer.DetBenchPredict(_model(variant, side)).to(device).eval(), mode)
    images = _pinned(torch.randint(0, 255, (count, 3, side, side), dtype=torch.uint8), device)
    info = {
        "img_scale": torch.ones(count, device=device),
        "img_size": torch.full((count, 2), float(side), device=device),
    }

    def call() -> None:
        batch = _layout(images.to(device, non_blocking=True).float().sub_(120).div_(58), mode)
        with _autocast(mode, device):
            bench(batch, info).cpu()

    return _row(f"{variant} detect, batch {count}, {mode}", _median(call, device, 20), count)


def _train(variant: str, side: int, count: int, device: torch.device, mode: str) -> dict[str, Any]:
    bench = _layout(peer.DetBenchTrain(_model(variant, side), create_labeler=True).to(device).train(), mode)
    optim = importlib.import_module("timm.optim")
    optimizer = optim.create_optimizer_v2(bench, opt="momentum", lr=1e-5, weight_decay=4e-5, momentum=0.9)
    corner = torch.rand(count, NUM_BOXES, 2) * 0.6 * side
    boxes = torch.cat([corner, corner + 10 + 0.3 * side * torch.rand(count, NUM_BOXES, 2)], dim=2)
    target = {"bbox": boxes.to(device), "cls": torch.randint(1, 4, (count, NUM_BOXES)).float().to(device)}
    images = _pinned(torch.randint(0, 255, (count, 3, side, side), dtype=torch.uint8), device)

    def step() -> None:
        batch = _layout(images.to(device, non_blocking=True).float().sub_(120).div_(58), mode)
        with _autocast(mode, device):
            loss = bench(batch, target)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bench.parameters(), 10.0)
        optimizer.step()
        loss.item()

    return _row(f"{variant} training step, batch {count}, {mode}", _median(step, device, 6), count)


def _median(call: Any, device: torch.device, repeats: int) -> float:
    times = []
    for index in range(repeats + 3):
        torch.cuda.synchronize(device)
        started = time.perf_counter()
        call()
        torch.cuda.synchronize(device)
        if index >= 3:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
