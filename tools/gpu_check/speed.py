"""Images per second of prediction and training, and what share of a step is the network."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from effdet import EfficientDet
from effdet.config import AugmentConfig, DataConfig, Precision
from effdet.data.loader import TrainLoader
from effdet.runs.data import read_data
from gpu_check.limits import Limits
from gpu_check.machine import median_seconds
from gpu_check.training import make_batch, make_trainer

MODELS = {"d0": (512, 64), "d2": (768, 32)}  # input side, training batch
NUM_CLASSES = 90
PHOTOS = Path(__file__).resolve().parents[2] / "tests" / "photos" / "bccd"


def measure(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Return rows of milliseconds and images per second, ours and the peer's where it is given."""
    device = torch.device(args.device)
    torch.backends.cudnn.benchmark = True
    yield from _load(args)
    limits = Limits.of(device, quick=args.quick)
    models = {"lite0": (128, 4)} if args.quick else MODELS
    for name, (side, batch) in models.items():
        yield from _train(name, side, batch, device, limits, quick=args.quick)
        yield from _predict(name, side, device, limits, quick=args.quick)
        if args.peer_path:
            yield from _peer(name, side, batch, args)


def _load(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Measure the loader of photos of 640×480 with the published augmentation, without a network."""
    seconds = 2.0 if args.quick else 8.0
    dataset, _ = read_data(DataConfig(root=str(PHOTOS)))
    for workers in (1,) if args.quick else (8, os.cpu_count() or 8):
        loader = TrainLoader(
            dataset,
            image_size=(512, 512),
            batch_size=16,
            augment=AugmentConfig(),
            seed=0,
            workers=workers,
            fill=(0, 0, 0),
            pin_memory=args.device == "cuda",
        )
        batches = (batch for epoch in itertools.count() for batch in loader.epoch(epoch))
        for _ in range(2 * workers):
            batch = next(batches)
        started, count = time.perf_counter(), 0
        while time.perf_counter() - started < seconds:
            batch, count = next(batches), count + 16
        yield {
            "measured": f"loader, {workers} processes, images pinned: {batch.images.is_pinned()}",
            "images/s": count / (time.perf_counter() - started),
        }


def _predict(name: str, side: int, device: torch.device, limits: Limits, *, quick: bool) -> Iterator[dict[str, Any]]:
    model = EfficientDet(name, num_classes=NUM_CLASSES, image_size=(side, side)).to(device).eval()
    model.network.to(memory_format=torch.channels_last)
    for batch_size in (1,) if quick else (1, 8, 32):
        batch = make_batch((side, side), batch_size)
        for dtype in (torch.float32, torch.bfloat16):

            def detect(batch: Any = batch, dtype: torch.dtype = dtype) -> None:
                with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
                    model.detect(batch)

            def network(batch: Any = batch, dtype: torch.dtype = dtype) -> None:
                with (
                    torch.inference_mode(),
                    torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32),
                ):
                    model.network(model.network_input(batch))

            seconds = median_seconds(detect, device, repeats=3 if quick else 20)
            alone = median_seconds(network, device, repeats=3 if quick else 20)
            yield {
                "measured": f"{name} detect, batch {batch_size}, {str(dtype)[6:]}",
                "ms": 1000 * seconds,
                "images/s": batch_size / seconds,
                "network ms": 1000 * alone,
                "limit ms": limits.milliseconds(model.network, model.architecture, side, batch_size, training=False),
            }


def _train(
    name: str, side: int, batch_size: int, device: torch.device, limits: Limits, *, quick: bool
) -> Iterator[dict[str, Any]]:
    batch = make_batch((side, side), batch_size)
    modes: dict[str, dict[str, Any]] = {
        "bfloat16": {"precision": Precision.bf16},
        "float32": {"precision": Precision.fp32},
    }
    if not quick and name == "d0":
        modes["bfloat16, compiled"] = {"precision": Precision.bf16, "compile": True}
    for mode, settings in modes.items():
        trainer = make_trainer(
            device, name=name, size=(side, side), num_classes=NUM_CLASSES, batch_size=batch_size, **settings
        )
        trainer.train_mode()
        numbers = iter(range(10_000))

        def step(trainer: Any = trainer, numbers: Any = numbers) -> None:
            trainer.step([batch], next(numbers))

        seconds = median_seconds(step, device, repeats=2 if quick else 5)
        memory = torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else None
        yield {
            "measured": f"{name} training step, batch {batch_size}, {mode}",
            "ms": 1000 * seconds,
            "images/s": batch_size / seconds,
            "peak GiB": memory,
            "limit ms": limits.milliseconds(
                trainer.model.network, trainer.model.architecture, side, batch_size, training=True
            ),
            **_shares(step, device),
        }
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()


def _shares(step: Any, device: torch.device) -> dict[str, Any]:
    """Return the share of device time in convolutions and matrix products, and in the largest other kernels."""
    if device.type != "cuda":
        return {}
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiler:
        step()
        torch.cuda.synchronize()
    kernels = [
        (e.key, e.self_device_time_total) for e in profiler.key_averages() if str(e.device_type).endswith("CUDA")
    ]
    total = sum(time for _, time in kernels)
    words = ("conv", "gemm", "cudnn", "cutlass", "xmma", "wgrad", "dgrad", "implicit", "nvjet", "depthwise")
    convolutions = sum(time for key, time in kernels if any(word in key.lower() for word in words))
    others = sorted(
        (item for item in kernels if not any(word in item[0].lower() for word in words)), key=lambda x: -x[1]
    )
    return {
        "device ms": total / 1000,
        "convolutions": convolutions / max(total, 1e-9),
        "largest others": "; ".join(f"{key[:50]} {time / 1000:.1f} ms" for key, time in others[:6]),
    }


def _peer(name: str, side: int, batch: int, args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the peer in a process that finds its package and not ours."""
    script = Path(__file__).with_name("peer.py")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(args.peer_path), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), f"tf_efficientdet_{name}", str(side), str(batch), args.device]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, cwd=args.peer_path)
    if result.returncode:
        return [{"measured": f"peer {name}: {result.stderr.strip().splitlines()[-1:]}"}]
    rows: list[dict[str, Any]] = json.loads(result.stdout.splitlines()[-1])
    return rows
