"""Run a ``.pt2`` file of ``torch.export`` in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from effdet.deployment.description import KEY
from effdet.deployment.harmless_pt2 import harmless_copy
from effdet.deployment.runtimes import Arrays


class TorchExport:
    """A ``.pt2`` file of ``torch.export`` in PyTorch.

    Args:
        file: The file.
        trust: Let PyTorch open the file itself, code included. Otherwise it sees only parts that cannot run any.
    """

    name = "torch"

    def __init__(self, file: str | Path, *, trust: bool = False) -> None:
        files: dict[str, Any] = {KEY: ""}
        program = torch.export.load(file if trust else harmless_copy(Path(file)), extra_files=files)
        self._module = program.module()
        self.description = files[KEY]

    @torch.inference_mode()
    def run(self, images: np.ndarray) -> Arrays:
        """Return the outputs for (B, 3, H, W) float32 images."""
        return [output.numpy() for output in self._module(torch.from_numpy(images))]
