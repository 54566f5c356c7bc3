"""The formats of exported files and the runtimes that run them; the exporter, the loader and the commands read this.

Nothing here imports PyTorch, so that a command can list formats in its ``--help`` at once. Functions and classes are
named as ``module:name`` and imported when they are used.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

FormatName: TypeAlias = Literal["onnx", "openvino", "torch-export"]
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """What one format of exported files can hold, and who writes and runs it."""

    suffix: str
    companions: tuple[str, ...]  # suffixes of the files that must lie beside it
    precisions: tuple[Precision, ...]
    postprocess: bool  # whether NMS can be part of the file
    dynamic_size: bool  # whether height and width can be left open
    runtimes: tuple[str, ...]  # that can run it, best first
    writer: str  # called with (model, file, description, quantisation)

    def write(self, *arguments: Any) -> None:
        """Write a file."""
        pkgutil.resolve_name(self.writer)(*arguments)


@dataclass(frozen=True, kw_only=True)
class RuntimeInfo:
    """A program that runs exported files."""

    module: str  # that must be installed
    opener: str  # called with the file; a ``Runtime`` of ``effdet.deployment.runtimes``
    takes_threads: bool  # whether the opener takes num_threads

    def open(self, file: Any, **options: Any) -> Any:
        """Return the ``Runtime`` of a file."""
        return pkgutil.resolve_name(self.opener)(file, **options)


FORMATS: dict[FormatName, Format] = {
    "onnx": Format(
        suffix=".onnx",
        companions=(),
        precisions=("fp32", "fp16"),
        postprocess=True,
        dynamic_size=True,
        runtimes=("onnxruntime", "openvino"),
        writer="effdet.deployment.export:write_onnx",
    ),
    "openvino": Format(
        suffix=".xml",
        companions=(".bin",),
        precisions=("fp32", "fp16", "bf16", "int8"),
        postprocess=True,
        dynamic_size=True,
        runtimes=("openvino",),
        writer="effdet.deployment.export:write_openvino",
    ),
    "torch-export": Format(
        suffix=".pt2",
        companions=(),
        precisions=("fp32", "fp16", "bf16"),
        postprocess=False,
        dynamic_size=False,
        runtimes=("torch",),
        writer="effdet.deployment.export:write_torch_export",
    ),
}

RUNTIMES: dict[str, RuntimeInfo] = {
    "torch": RuntimeInfo(module="torch", opener="effdet.deployment.runtimes:TorchExport", takes_threads=False),
    "onnxruntime": RuntimeInfo(
        module="onnxruntime", opener="effdet.deployment.runtimes:OnnxRuntime", takes_threads=True
    ),
    "openvino": RuntimeInfo(module="openvino", opener="effdet.deployment.runtimes:OpenVino", takes_threads=True),
}


def is_exported(file: str | Path) -> bool:
    """Return whether the name is that of an exported file rather than of weights."""
    return Path(file).suffix.lower() in {format.suffix for format in FORMATS.values()}


def format_of(file: str | Path) -> Format:
    """Return the format of an exported file, by its suffix.

    Raises:
        ValueError: If no format has this suffix.
    """
    suffix = Path(file).suffix.lower()
    for format in FORMATS.values():
        if format.suffix == suffix:
            return format
    valid = ", ".join(format.suffix for format in FORMATS.values())
    raise ValueError(f"the name of an exported file must end in one of {valid}, got {file}")
