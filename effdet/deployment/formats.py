"""The formats of exported files and the runtimes that run them; the exporter, the loader and the commands read this.

Nothing here imports PyTorch, so that a command can list formats in its ``--help`` at once. Functions and classes are
named as ``module:name`` and imported when they are used.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

FormatName: TypeAlias = Literal["onnx", "openvino", "torch-export", "tflite", "executorch", "coreml"]
Precision: TypeAlias = Literal["fp32", "fp16", "bf16", "int8"]


@dataclass(frozen=True, kw_only=True)
class Format:
    """What one format of exported files can hold, and who writes and runs it."""

    suffix: str
    companions: tuple[str, ...]  # suffixes of the files that must lie beside it
    precisions: tuple[Precision, ...]
    postprocess: bool  # whether NMS can be part of the file
    postprocess_by_default: bool = False  # whether it is, unless something else is asked for
    max_candidates: int | None = None  # most boxes that NMS in the file may see; None: all
    score_threshold: float = 0.0  # least score of NMS in the file, unless another is asked for
    one_image: bool = False  # whether every run takes one image and no more
    dynamic_size: bool  # whether height and width can be left open
    runtimes: tuple[str, ...]  # that can run it, best first
    runs_elsewhere: str | None = None  # where it runs, if no runtime of this package can
    writer: str  # called with (model, file, description, quantisation)
    input_rule: str | None = None  # called with (mean, std, precision): what the input holds; None: normalised images
    stranger: str | None = None  # called with the runtime of a file that others wrote; returns its description

    def write(self, *arguments: Any) -> None:
        """Write a file."""
        pkgutil.resolve_name(self.writer)(*arguments)

    def input_kind(self, mean: Any, std: Any, precision: Precision) -> Literal["normalised", "pixels"]:
        """Return what the input of a file holds."""
        return "normalised" if self.input_rule is None else pkgutil.resolve_name(self.input_rule)(mean, std, precision)

    def describe_stranger(self, runtime: Any) -> Any:
        """Return the ``Description`` of a file that others wrote; None where files of this format cannot have one."""
        return None if self.stranger is None else pkgutil.resolve_name(self.stranger)(runtime)


@dataclass(frozen=True, kw_only=True)
class RuntimeInfo:
    """A program that runs exported files."""

    module: str  # that must be installed
    opener: str  # called with the file; a ``Runtime`` of ``effdet.deployment.runtimes``
    takes_threads: bool  # whether the opener takes num_threads
    asks_for_trust: bool = False  # whether its files can hold code, which the opener runs only with trust=True
    converter: str | None  # called with (model, description): what the opener takes, for weights without a file
    converted: FormatName = "onnx"  # the format of what the converter makes

    def open(self, file: Any, **options: Any) -> Any:
        """Return the ``Runtime`` of a file."""
        return pkgutil.resolve_name(self.opener)(file, **options)

    def convert(self, model: Any, description: Any) -> Any:
        """Return what ``open`` takes for a model in memory."""
        assert self.converter is not None
        return pkgutil.resolve_name(self.converter)(model, description)


_TENSORRT = 3840  # most that TensorRT's TopK takes

FORMATS: dict[FormatName, Format] = {
    "onnx": Format(
        suffix=".onnx",
        companions=(),
        precisions=("fp32", "fp16"),
        postprocess=True,
        max_candidates=_TENSORRT,
        dynamic_size=True,
        runtimes=("onnxruntime", "openvino"),
        writer="effdet.deployment.export:write_onnx",
    ),
    "openvino": Format(
        suffix=".xml",
        companions=(".bin",),
        precisions=("fp32", "fp16", "bf16", "int8"),
        postprocess=True,
        max_candidates=_TENSORRT,
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
    "tflite": Format(
        suffix=".tflite",
        companions=(),
        precisions=("fp32", "fp16", "int8"),
        postprocess=True,
        postprocess_by_default=True,
        score_threshold=0.02,  # a run of NMS takes 38 ms at 0.001 and 8 ms at this
        one_image=True,
        dynamic_size=False,
        runtimes=("litert",),
        writer="effdet.deployment.tflite.write:write_tflite",
        input_rule="effdet.deployment.tflite.inputs:input_kind",
        stranger="effdet.deployment.tflite.strangers:describe",
    ),
    "executorch": Format(
        suffix=".pte",
        companions=(),
        precisions=("fp32", "int8"),
        postprocess=False,
        one_image=True,
        dynamic_size=False,
        runtimes=("executorch",),
        writer="effdet.deployment.executorch:write_executorch",
    ),
    "coreml": Format(
        suffix=".mlpackage",
        companions=(),
        precisions=("fp32", "fp16"),
        postprocess=False,
        one_image=True,
        dynamic_size=False,
        runtimes=(),
        runs_elsewhere="on macOS and iOS only",
        writer="effdet.deployment.coreml:write_coreml",
        input_rule="effdet.deployment.coreml:input_kind",
    ),
}

_ONNX = "effdet.deployment.export:onnx_bytes"

RUNTIMES: dict[str, RuntimeInfo] = {
    "torch": RuntimeInfo(
        module="torch",
        opener="effdet.deployment.torch_export:TorchExport",
        takes_threads=False,
        asks_for_trust=True,
        converter=None,
    ),
    "onnxruntime": RuntimeInfo(
        module="onnxruntime",
        opener="effdet.deployment.runtimes:OnnxRuntime",
        takes_threads=True,
        converter=_ONNX,
    ),
    "openvino": RuntimeInfo(
        module="openvino", opener="effdet.deployment.runtimes:OpenVino", takes_threads=True, converter=_ONNX
    ),
    "litert": RuntimeInfo(
        module="ai_edge_litert",
        opener="effdet.deployment.tflite.runtime:LiteRt",
        takes_threads=True,
        converter="effdet.deployment.tflite.write:tflite_bytes",
        converted="tflite",
    ),
    "executorch": RuntimeInfo(
        module="executorch", opener="effdet.deployment.executorch:ExecuTorch", takes_threads=True, converter=None
    ),
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
