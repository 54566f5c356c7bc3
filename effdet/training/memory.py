"""How a training process gets its memory."""

from __future__ import annotations

import os


def use_huge_pages() -> None:
    """Let PyTorch ask for pages of 2 MiB for large tensors on the CPU; before the process makes its first tensor.

    Each step frees and allocates the same large maps, and the system fills every page with zeros and maps it anew.
    With 4 KiB pages that takes up to a fifth of a training step. A ``THP_MEM_ALLOC_ENABLE`` that is set already stays;
    where the system has no such pages, nothing changes.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
