"""Several processes: NCCL with one process, gloo with two that share the device."""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from effdet.config import Optimizer
from effdet.training.distributed import World
from gpu_check.training import make_batch, make_trainer

STEPS = 3
# AdamW would turn the rounding of a gradient near 0 into a whole step of that weight.
SETTINGS: dict[str, Any] = {"optimizer": Optimizer.sgd, "lr": 0.08, "freeze_bn": True}


def check(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare steps on one and two processes with the same steps in one process without a group."""
    device = torch.device(args.device)
    reference = _alone(device)
    for backend, count in (("nccl", 1), ("gloo", 2)):
        if backend == "nccl" and device.type != "cuda":
            continue
        with tempfile.TemporaryDirectory() as folder:
            mp.spawn(_work, args=(count, backend, args.device, folder), nprocs=count)
            weights = torch.load(Path(folder) / "weights.pt", weights_only=True)
        difference = max((weights[name] - value).abs().max().item() for name, value in reference.items())
        yield {
            "check": f"{STEPS} steps, {backend}, {count} process{'es' if count > 1 else ''}",
            "value": difference,
            "unit": "largest difference of a weight",
            "ok": difference <= 1e-4,
        }


def _alone(device: torch.device) -> dict[str, torch.Tensor]:
    trainer, batch = make_trainer(device, **SETTINGS), make_batch((128, 128), 4)
    return _train(trainer, [batch])


def _train(trainer: Any, batches: list[Any]) -> dict[str, torch.Tensor]:
    trainer.model.eval()  # BN by its running statistics: each process sees other images
    for number in range(STEPS):
        trainer.step(batches, number)
    return {name: value.detach().cpu() for name, value in trainer.model.named_parameters()}


def _work(rank: int, count: int, backend: str, device_name: str, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
    device = torch.device(device_name)
    trainer = make_trainer(device, world=World(device, rank, count, count), **SETTINGS)
    whole = make_batch((128, 128), 4)
    rows = slice(rank * 4 // count, (rank + 1) * 4 // count)
    part = type(whole)(
        whole.images[rows],
        whole.content_sizes[rows],
        whole.scales[rows],
        whole.original_sizes[rows],
        whole.image_ids[rows],
        whole.targets[rows],
    )
    weights = _train(trainer, [part])
    if rank == 0:
        torch.save(weights, Path(folder) / "weights.pt")
    dist.destroy_process_group()
