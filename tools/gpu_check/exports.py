"""Exported programs on the device, where their runtimes are installed for it."""

from __future__ import annotations

import argparse
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from effdet import EfficientDet


def check(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run the network as a program of torch.export and in ONNX Runtime, and compare with PyTorch on the device."""
    device = torch.device(args.device)
    torch.manual_seed(0)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    network = EfficientDet("lite0", num_classes=3, image_size=(128, 128)).eval().network.to(device)
    images = torch.randn(1, 3, 128, 128, device=device)
    with torch.inference_mode():
        expected = network(images).class_logits
    with torch.no_grad():
        program = torch.export.export(_Logits(network), (images,)).module()
        rows = [_row("torch.export", program(images), expected)]
    return [*rows, _onnxruntime(network, images, expected)]


class _Logits(torch.nn.Module):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits: torch.Tensor = self.network(images).class_logits
        return logits


def _onnxruntime(network: torch.nn.Module, images: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    if any(importlib.util.find_spec(name) is None for name in ("onnxruntime", "onnxscript")):
        return {"check": "ONNX Runtime", "value": "not installed"}
    import onnxruntime

    provider = "CUDAExecutionProvider" if images.device.type == "cuda" else "CPUExecutionProvider"
    if provider not in onnxruntime.get_available_providers():
        return {"check": "ONNX Runtime", "value": f"without {provider}"}
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / "network.onnx")
        torch.onnx.export(_Logits(network).cpu(), (images.cpu(),), file, dynamo=True, verbose=False)
        session = onnxruntime.InferenceSession(file, providers=[provider])
        (got,) = session.run(None, {session.get_inputs()[0].name: images.cpu().numpy()})
    return _row("ONNX Runtime", torch.from_numpy(np.asarray(got)), expected)


def _row(check: str, got: torch.Tensor, expected: torch.Tensor) -> dict[str, Any]:
    value = ((got.cpu() - expected.cpu()).abs().max() / expected.std().cpu()).item()
    return {"check": check, "value": value, "limit": 1e-3, "unit": "standard deviations", "ok": value <= 1e-3}
