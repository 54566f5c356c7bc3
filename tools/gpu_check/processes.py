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
from torch.multiprocessing.spawn import spawn

from effdet.config import Optimizer, Precision
from effdet.training.distributed import World
from gpu_check.training import make_batch, make_trainer

STEPS = 3
# AdamW would turn the rounding of a gradient near 0 into a whole step of that weight.
SETTINGS: dict[str, Any] = {"optimizer": Optimizer.sgd, "lr": 0.08, "precision": Precision.fp32}


def check(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Compare steps on one and two processes with the same steps in one process without a group."""
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases = (
        [("nccl", 1, False), ("gloo", 2, False), ("gloo", 2, True)] if device.type == "cuda" else [("gloo", 2, False)]
    )
    for backend, count, sync_bn in cases:
        reference = _alone(device, sync_bn)
        with tempfile.TemporaryDirectory() as folder:
            spawn(_work, args=(count, backend, args.device, folder, sync_bn), nprocs=count)
            weights = torch.load(Path(folder) / "weights.pt", weights_only=True)
        difference = max((weights[name] - value).abs().max().item() for name, value in reference.items())
        yield {
            "check": f"{STEPS} steps, {backend}, {count} process{'es' if count > 1 else ''}{', SyncBN' * sync_bn}",
            "value": difference,
            "limit": 1e-3 if sync_bn else 1e-4,
            "unit": "largest difference of a weight",
            "ok": difference <= (1e-3 if sync_bn else 1e-4),
        }


def _alone(device: torch.device, train_bn: bool) -> dict[str, torch.Tensor]:
    trainer, batch = make_trainer(device, **SETTINGS), make_batch((128, 128), 4)
    return _train(trainer, [batch], train_bn)


def _train(trainer: Any, batches: list[Any], train_bn: bool) -> dict[str, torch.Tensor]:
    """Do some steps; BN by its running statistics unless it is synchronised, as each process sees other images."""
    trainer.model.train(train_bn)
    for number in range(STEPS):
        trainer.step(batches, number)
    return {name: value.detach().cpu() for name, value in trainer.model.named_parameters()}


def _work(rank: int, count: int, backend: str, device_name: str, folder: str, sync_bn: bool) -> None:
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    os.environ.update(MASTER_ADDR="127.0.0.1")
    dist.init_process_group(backend, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=count)
    device = torch.device(device_name)
    trainer = make_trainer(device, world=World(device, rank, count, count), sync_bn=sync_bn, **SETTINGS)
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
    weights = _train(trainer, [part], sync_bn)
    if rank == 0:
        torch.save(weights, Path(folder) / "weights.pt")
    dist.destroy_process_group()
