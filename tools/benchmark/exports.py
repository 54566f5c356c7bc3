"""The runtimes that run an exported file, and the files that ``Prepare`` writes for them."""

from __future__ import annotations

from pathlib import Path

from effdet.deployment.formats import FORMATS, FormatName, Precision, is_exported

EXPORTS: dict[str, tuple[FormatName, Precision]] = {
    "onnxruntime": ("onnx", "fp32"),
    "openvino": ("openvino", "fp32"),
    "torch-export": ("torch-export", "fp32"),
    "litert": ("tflite", "fp32"),
    "executorch": ("executorch", "fp32"),
    "openvino-int8": ("openvino", "int8"),
    "litert-int8": ("tflite", "int8"),
    "executorch-int8": ("executorch", "int8"),
}


def exported_file(folder: Path, runtime: str) -> Path:
    """Return the file that a runtime opens: itself if it names a file, else the one that ``Prepare`` writes.

    Raises:
        ValueError: If there is no such runtime.
    """
    if is_exported(runtime):
        return Path(runtime)
    if runtime not in EXPORTS:
        raise ValueError(f"a runtime must be one of {', '.join(EXPORTS)}, or an exported file, got {runtime}")
    format, precision = EXPORTS[runtime]
    return folder / f"model{'-int8' if precision == 'int8' else ''}{FORMATS[format].suffix}"
