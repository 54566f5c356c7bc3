"""Settings of the whole process that a run needs, and gives back when it ends."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator

import torch

HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"


@contextlib.contextmanager
def process_state(device: torch.device, *, seed: int, threads: int | None) -> Iterator[None]:
    """Prepare this process for a run: random numbers, threads, gradients, algorithms of cuDNN.

    At the end everything is as it was before, so that several runs in one process do not depend on each other.

    Args:
        device: Where the network runs.
        seed: Of torch's random numbers.
        threads: CPU threads of torch; None: those that it has.
    """
    old_threads, old_benchmark = torch.get_num_threads(), torch.backends.cudnn.benchmark
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        try:
            if threads is not None:
                torch.set_num_threads(threads)
            torch.backends.cudnn.benchmark = device.type == "cuda"  # every batch has the same size
            torch.manual_seed(seed)
            yield
        finally:
            torch.set_num_threads(old_threads)
            torch.backends.cudnn.benchmark = old_benchmark


@contextlib.contextmanager
def huge_pages() -> Iterator[None]:
    """Let PyTorch ask for pages of 2 MiB for large tensors on the CPU, if the process has made no tensor yet.

    Each step frees and allocates the same large maps, and the system fills every page with zeros and maps it anew.
    With 4 KiB pages that takes up to a fifth of a training step. A ``THP_MEM_ALLOC_ENABLE`` that is set already stays;
    where the system has no such pages, nothing changes.
    """
    if HUGE_PAGES in os.environ:
        yield
        return
    os.environ[HUGE_PAGES] = "1"
    try:
        yield
    finally:
        os.environ.pop(HUGE_PAGES, None)


@contextlib.contextmanager
def log_level(*, is_main: bool) -> Iterator[None]:
    """Let the main process of a run log its lines, and the others their errors only."""
    logger = logging.getLogger("effdet")
    level = logger.level
    wanted = logging.INFO if is_main else logging.ERROR
    if not is_main or logger.getEffectiveLevel() > wanted:
        logger.setLevel(wanted)
    try:
        yield
    finally:
        logger.setLevel(level)
