"""Training on the device: the loss falls in every precision, no step waits for the device, a run can be resumed."""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from effdet import Config, EfficientDet, evaluate, load_config, train
from effdet.config import DataConfig, Optimizer, Precision, TrainConfig
from effdet.data.demo import draw_demo
from effdet.runs.build import build_trainer
from effdet.structures import Batch, Target
from effdet.training.distributed import World
from effdet.training.step import Trainer

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "demo.yaml"
MODES: dict[str, dict[str, Any]] = {
    "fp32": {"precision": Precision.fp32},
    "bf16": {"precision": Precision.bf16},
    "fp16": {"precision": Precision.fp16},
    "bf16, checkpointing, two micro-batches": {
        "precision": Precision.bf16,
        "gradient_checkpointing": True,
        "accumulate": 2,
    },
    "bf16, compiled": {"precision": Precision.bf16, "compile": True},
}


def check(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Train some steps in every mode, and look at waits, resuming and memory."""
    device = torch.device(args.device)
    yield _waits_in_a_step(device)
    yield from _waits_in_prediction(device)
    yield _resumed_steps_are_equal(device)
    if device.type == "cuda":
        yield _advice_when_memory_is_short()
    for name, settings in MODES.items():
        on_cpu = device.type == "cpu" and (settings.get("precision") is Precision.fp16 or settings.get("compile"))
        if not on_cpu:
            yield _losses_fall(name, settings, device, 4 if args.quick else 30)


def make_trainer(
    device: torch.device,
    *,
    name: str = "lite0",
    size: tuple[int, int] = (128, 128),
    num_classes: int = 3,
    world: World | None = None,
    **settings: Any,
) -> Trainer:
    """Return the trainer that a run would build, on a model with random weights."""
    torch.manual_seed(0)
    train_settings = {"epochs": 10, "batch_size": 8, "lr": 0.005, "optimizer": Optimizer.adamw, "warmup_epochs": 0.0}
    config = Config(data=DataConfig(image_size=size), train=TrainConfig(**{**train_settings, **settings}))
    model = EfficientDet(name, num_classes, image_size=size, stochastic_depth=0.0).to(device)
    return build_trainer(config, model, world or World(device), steps_per_epoch=100)


def make_batch(size: tuple[int, int], count: int, num_boxes: int = 7) -> Batch:
    """Return a batch of drawn rectangles, each of which is an object."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 60, (count, 3, *size), generator=generator, dtype=torch.uint8)
    targets = []
    for image in images:
        corner = (torch.rand(num_boxes, 2, generator=generator) * torch.tensor([size[1] * 0.6, size[0] * 0.6])).long()
        side = (torch.rand(num_boxes, 2, generator=generator) * 0.3 * min(size)).long() + 10
        classes = torch.randint(0, 3, (num_boxes,), generator=generator)
        boxes = torch.cat([corner, corner + side], dim=1)
        for (x1, y1, x2, y2), label in zip(boxes.tolist(), classes.tolist(), strict=True):
            image[label, y1:y2, x1:x2] = 220
        targets.append(Target(boxes.float(), classes))
    sizes = torch.tensor([list(size)] * count)
    if torch.cuda.is_available():
        images = images.pin_memory()  # as the loader does
    return Batch(images, sizes, torch.ones(count), sizes, tuple(range(count)), targets)


def _losses_fall(name: str, settings: dict[str, Any], device: torch.device, steps: int) -> dict[str, Any]:
    trainer = make_trainer(device, **settings)
    parts = settings.get("accumulate", 1)
    batches = [make_batch((128, 128), 8 // parts) for _ in range(parts)]
    trainer.train_mode()
    started = time.perf_counter()
    losses = [sum(trainer.step(batches, number).losses.values()) for number in range(steps)]
    return {
        "check": f"{steps} steps, {name}",
        "value": f"{losses[0]:.1f} → {losses[-1]:.1f}",
        "unit": "loss",
        "seconds": time.perf_counter() - started,
        "ok": losses[-1] < 0.8 * losses[0] or steps < 10,
    }


@contextmanager
def recorded_waits(device: torch.device) -> Iterator[Counter[str]]:
    """Count the places where the host waits for a CUDA device."""
    places: Counter[str] = Counter()
    if device.type != "cuda":
        yield places
        return
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            yield places
        finally:
            torch.cuda.set_sync_debug_mode("default")
    for warning in caught:
        if "called a synchronizing CUDA operation" in str(warning.message):
            places[f"{Path(warning.filename).parent.name}/{Path(warning.filename).name}:{warning.lineno}"] += 1


def _waits_row(check: str, places: Counter[str], limit: int) -> dict[str, Any]:
    total = sum(places.values())
    where = ", ".join(f"{place} ×{count}" for place, count in places.most_common(6))
    return {"check": check, "value": total, "limit": limit, "unit": where, "ok": total <= limit}


def _waits_in_a_step(device: torch.device) -> dict[str, Any]:
    trainer, batch = make_trainer(device, precision=Precision.bf16), make_batch((128, 128), 8)
    trainer.train_mode()
    for number in range(3):
        trainer.step([batch], number)
    with recorded_waits(device) as places:
        trainer.step([batch], 3)
    return _waits_row("waits in a training step", places, 1)


def _waits_in_prediction(device: torch.device) -> list[dict[str, Any]]:
    model = EfficientDet("lite0", num_classes=3, image_size=(128, 128)).to(device).eval()
    batch, images = make_batch((128, 128), 8), torch.rand(8, 3, 128, 128, device=device)
    with torch.inference_mode():
        model.detect(batch), model(images)
        with recorded_waits(device) as detecting:
            model.detect(batch)
        with recorded_waits(device) as forward:
            model(images)
        with recorded_waits(device) as network:
            model.network(model.network_input(batch))
    return [
        _waits_row("waits in the network", network, 0),
        _waits_row("waits in detect, 8 images", detecting, 4),
        _waits_row("waits in model(images), 8 images", forward, 2),
    ]


def _resumed_steps_are_equal(device: torch.device) -> dict[str, Any]:
    """Go on from a copy of the state after five steps, with deterministic convolutions."""
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    batch = make_batch((128, 128), 8)
    trainer = make_trainer(device, precision=Precision.fp32)
    trainer.train_mode()
    for number in range(5):
        trainer.step([batch], number)
    weights, optimizer = copy.deepcopy(trainer.model.state_dict()), copy.deepcopy(trainer.optimizer.state_dict())
    for number in range(5, 10):
        trainer.step([batch], number)
    other = make_trainer(device, precision=Precision.fp32)
    other.model.load_state_dict(weights)
    other.optimizer.load_state_dict(optimizer)
    other.train_mode()
    for number in range(5, 10):
        other.step([batch], number)
    pairs = zip(trainer.model.parameters(), other.model.parameters(), strict=True)
    worst = max((a - b).abs().max().item() for a, b in pairs)
    torch.backends.cudnn.deterministic = False
    return {
        "check": "resumed after 5 of 10 steps",
        "value": worst,
        "unit": "largest difference of a weight",
        "ok": worst <= 1e-4,
    }


def _advice_when_memory_is_short() -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        draw_demo(Path(folder) / "demo", num_train=64, num_val=2)
        overrides = [
            "train.batch_size=64",
            "data.image_size=[1024,1024]",
            "train.epochs=1",
            "model.backbone_weights=null",
        ]
        config = load_config(CONFIG, [*overrides, f"data.root={folder}/demo", f"run.dir={folder}", "run.device=cuda"])
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction(0.03)
        try:
            train(config)
            sentence = "the run did not fail"
        except RuntimeError as error:
            sentence = str(error)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    return {"check": "advice when memory is short", "value": sentence[:160], "ok": "train.batch_size" in sentence}


def run_demo(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Train on the drawn demo set from random weights, and evaluate the result on the device and on the CPU."""
    with tempfile.TemporaryDirectory() as folder:
        counts: dict[str, Any] = {"num_train": 16, "num_val": 4} if args.quick else {}
        draw_demo(Path(folder) / "demo", **counts)
        overrides = ["model.backbone_weights=null", "train.freeze=none", "train.freeze_bn=false", "train.batch_size=16"]
        overrides += ["train.epochs=1" if args.quick else "train.epochs=40", "eval.every=20", "train.lr=0.01"]
        overrides += [f"data.root={folder}/demo", f"run.dir={folder}", f"run.device={args.device}"]
        overrides += [] if args.device == "cpu" else ["train.precision=bf16"]
        started = time.perf_counter()
        run = train(load_config(CONFIG, overrides))
        seconds = time.perf_counter() - started
        on_device = evaluate(run.best.to(args.device), f"{folder}/demo").ap
        on_cpu = evaluate(run.best.to("cpu"), f"{folder}/demo").ap
    images = max(row["images_per_second"] for row in run.history)
    return [
        {"check": "demo from random weights", "value": seconds, "unit": "s"},
        {"check": "demo, best epoch", "value": images, "unit": "images/s"},
        {"check": "AP on the device", "value": on_device, "ok": on_device > 0.2 or args.quick},
        {
            "check": "AP on the CPU less AP on the device",
            "value": on_cpu - on_device,
            "ok": abs(on_cpu - on_device) < 0.003,
        },
    ]
