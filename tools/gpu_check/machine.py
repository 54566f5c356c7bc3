"""What the machine is, and its measured limits."""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def measure(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the names of device and libraries, the rate of matrix products and the bandwidth of memory."""
    device = torch.device(args.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor()
    rows: list[dict[str, Any]] = [
        {"check": "device", "value": name},
        {"check": "cores", "value": os.cpu_count()},
        {"check": "torch", "value": torch.__version__},
        {"check": "python", "value": platform.python_version()},
    ]
    for dtype in (torch.float32, torch.bfloat16):
        rate = matrix_rate(device, dtype, quick=args.quick)
        rows.append({"check": f"matrix product {str(dtype)[6:]}, TFLOP/s", "value": rate / 1e12})
    rows.append({"check": "copy, read and written, GB/s", "value": bandwidth(device, quick=args.quick) / 1e9})
    return rows


def matrix_rate(device: torch.device, dtype: torch.dtype, *, quick: bool) -> float:
    """Return the operations per second of a large matrix product; a multiply-add is two."""
    side = 512 if quick else 8192
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / median_seconds(lambda: a @ b, device, repeats=5)


def bandwidth(device: torch.device, *, quick: bool) -> float:
    """Return the bytes per second, read and written, of a large copy in the memory of the device."""
    source = torch.empty(2**20 if quick else 2**31, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / median_seconds(lambda: target.copy_(source), device, repeats=5)


def median_seconds(call: Callable[[], Any], device: torch.device, *, repeats: int, warm_up: int = 3) -> float:
    """Return the median time of a call until the device has finished it."""
    times = []
    for index in range(warm_up + repeats):
        synchronise(device)
        started = time.perf_counter()
        call()
        synchronise(device)
        if index >= warm_up:
            times.append(time.perf_counter() - started)
    return statistics.median(times)


def synchronise(device: torch.device) -> None:
    """Wait until the device has finished."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
