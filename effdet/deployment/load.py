"""Load a model of any kind of file: weights, or an export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.deployment.description import Description
from effdet.deployment.detector import DeployedDetector
from effdet.deployment.runtimes import OnnxRuntime, OpenVino, Runtime, TorchExport, is_installed

if TYPE_CHECKING:
    from effdet.detector.efficientdet import EfficientDet

SUFFIXES = (".onnx", ".xml", ".pt2")  # of exported files
RUNTIMES = ("auto", "onnxruntime", "openvino", "torch")


def is_exported(file: str | Path) -> bool:
    """Return whether the name is that of an exported file rather than of weights."""
    return Path(file).suffix.lower() in SUFFIXES


def load(file: str | Path, *, runtime: str = "auto", num_threads: int | None = None) -> EfficientDet | DeployedDetector:
    """Return the detector of a file, whichever kind it is; all have the same ``predict``.

        detector = effdet.load("blood.onnx")
        detections = detector.predict("photo.jpg")

    Args:
        file: An export (``.onnx``, ``.xml`` with its ``.bin``, ``.pt2``), or weights as
            ``EfficientDet.from_pretrained`` takes them.
        runtime: Who runs an ONNX file: "onnxruntime" or "openvino"; "auto" is the first of these that is installed.
            Other exports have one runtime, weights have "torch".
        num_threads: Threads of one run of an ONNX or OpenVINO file; None: one per core.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If its runtime is not installed; the message says how to install it.
        ValueError: If the file holds no model, is not one of ours, or its runtime is another.
    """
    if runtime not in RUNTIMES:
        raise ValueError(f"runtime must be one of {', '.join(RUNTIMES)}, got '{runtime}'")
    if not is_exported(file):
        from effdet.detector.efficientdet import EfficientDet

        _check_runtime(file, runtime, "torch")
        return EfficientDet.from_pretrained(file)
    file = Path(file)
    if not file.is_file():
        raise FileNotFoundError(f"model {file} does not exist")
    return load_exported(file, runtime=runtime, num_threads=num_threads)


def load_exported(file: Path, *, runtime: str = "auto", num_threads: int | None = None) -> DeployedDetector:
    """Return the detector of an exported file; see ``load``."""
    compiled = _compile(file, runtime, num_threads)
    description = Description.from_json(compiled.description, str(file))
    if description.precision == "bf16" and isinstance(compiled, OpenVino):
        compiled = OpenVino(file, num_threads=num_threads, bf16=True)
    return DeployedDetector(description, compiled)


def _compile(file: Path, runtime: str, num_threads: int | None) -> Runtime:
    kind = file.suffix.lower()
    if kind == ".pt2":
        _check_runtime(file, runtime, "torch")
        return _readable(file, lambda: TorchExport(file))
    if kind == ".xml":
        _check_runtime(file, runtime, "openvino")
        return _readable(file, lambda: OpenVino(file, num_threads=num_threads))
    if runtime == "auto":
        runtime = "openvino" if is_installed("openvino") and not is_installed("onnxruntime") else "onnxruntime"
    if runtime == "torch":
        raise ValueError(f"an ONNX file is run by onnxruntime or openvino, got runtime 'torch' for {file}")
    if runtime == "openvino":
        return _readable(file, lambda: OpenVino(file, num_threads=num_threads))
    return _readable(file, lambda: OnnxRuntime(file, num_threads=num_threads))


def _check_runtime(file: str | Path, asked: str, own: str) -> None:
    if asked not in ("auto", own):
        raise ValueError(f"{file} is run by {own}, got runtime '{asked}'; leave it out, or export to another format")


def _readable(file: Path, read: Callable[[], Runtime]) -> Runtime:
    """Return what a runtime reads from a file; runtimes have errors of their own for files that are none."""
    try:
        return read()
    except (ImportError, OSError):
        raise
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is not a readable {file.suffix} file: {first_line}") from error
