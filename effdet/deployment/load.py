"""Load a detector from weights or from an exported file, and choose the runtime that computes it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.deployment.description import Description
from effdet.deployment.detector import DeployedDetector
from effdet.deployment.formats import RUNTIMES, format_of, is_exported
from effdet.deployment.precision import check_auto, choose_precision
from effdet.deployment.runtimes import OpenVino, RefusedError, Runtime, is_installed, require

if TYPE_CHECKING:
    from effdet.detector.efficientdet import EfficientDet

AUTO = "auto"


def load(
    weights: str | Path,
    *,
    runtime: str = AUTO,
    num_threads: int | None = None,
    precision: str | None = None,
    trust: bool = False,
) -> EfficientDet | DeployedDetector:
    """Return a detector from weights or from an exported file; all detectors have the same ``predict``.

        model = effdet.load("blood.safetensors")                         # the PyTorch model
        detector = effdet.load("blood.safetensors", runtime="openvino")  # converted in memory, which takes seconds
        detector = effdet.load("blood.onnx")                             # an exported file

    Args:
        weights: An exported file (``.onnx``, ``.xml`` with its ``.bin``, ``.pt2``, ``.tflite``, ``.pte``), or weights
            as ``EfficientDet.from_pretrained`` takes them.
        runtime: What computes the network: "torch", "onnxruntime", "openvino", "litert" or "executorch". "auto" is
            PyTorch for weights, and for an exported file the first installed runtime that can run it. An ``.onnx``
            file runs in onnxruntime or openvino, an ``.xml`` file in openvino, a ``.pt2`` file in torch, a ``.tflite``
            file in litert, a ``.pte`` file in executorch.
        num_threads: Threads of one run in another runtime than torch; None: one per core.
        precision: None: that of the file. "auto", in onnxruntime and openvino: bf16 instead of fp32 where the runtime
            and the processor have it, and the file says that on photos it cost no more than 0.002 AP (``effdet export
            --precision auto --check DATA``). A line in the log says what was chosen, and why.
        trust: Open a ``.pt2`` file even if it holds parts that could run code, because you know who made it. Files
            that this package writes hold none.

    Returns:
        The PyTorch model for weights in "torch", else a ``DeployedDetector``.

    Raises:
        FileNotFoundError: If there is no such file.
        ImportError: If the runtime is not installed; the message says how to install it.
        ValueError: If the file holds no model of this package, the runtime cannot run it, or it has no choice of
            precision.
    """
    return load_and_change(
        weights, lambda _: None, runtime=runtime, num_threads=num_threads, precision=precision, trust=trust
    )


def load_and_change(
    weights: str | Path,
    change: Callable[[EfficientDet | DeployedDetector], None],
    *,
    runtime: str = AUTO,
    num_threads: int | None = None,
    precision: str | None = None,
    trust: bool = False,
) -> EfficientDet | DeployedDetector:
    """Return a detector as ``load`` does; ``change`` may set its attributes before its network is converted."""
    _check_names(runtime, num_threads)
    if is_exported(weights):
        exported = load_exported(weights, runtime=runtime, num_threads=num_threads, precision=precision, trust=trust)
        change(exported)
        return exported
    runtime = "torch" if runtime == AUTO else runtime
    check_auto(precision, runtime)
    _check_threads(runtime, num_threads)
    require(RUNTIMES[runtime].module)
    from effdet.detector.efficientdet import EfficientDet

    model = EfficientDet.from_pretrained(weights)
    change(model)
    if runtime == "torch":
        return model
    detector = deploy(model, runtime, num_threads=num_threads)
    if precision is not None:
        choose_precision(detector.description, runtime, str(weights))  # fp32, as weights hold no check of bf16
    return detector


def deploy(model: EfficientDet, runtime: str, *, num_threads: int | None = None) -> DeployedDetector:
    """Return a detector that computes the network of a model in another runtime, on the CPU.

    The network is copied and converted, which takes seconds: weights that change later do not reach the result. The
    input size is that of the model; images go through the network one at a time, whatever the ``batch_size`` of
    ``predict``.

    Args:
        model: The detector, on any device; it is not changed.
        runtime: "onnxruntime", "openvino" or "litert".
        num_threads: Threads of one run; None: one per core.

    Raises:
        ImportError: If the runtime or the exporter is not installed; the message says how to install it.
        ValueError: If there is no such runtime.
    """
    from effdet.deployment.export import ExportOptions, describe

    valid = [name for name, info in RUNTIMES.items() if info.converter]
    if runtime not in valid:
        raise ValueError(f"a model is converted for one of {', '.join(valid)}, got runtime '{runtime}'")
    require(RUNTIMES[runtime].module)
    info = RUNTIMES[runtime]
    description = describe(model, ExportOptions(format=info.converted, postprocess=False))
    return DeployedDetector(description, info.open(info.convert(model, description), num_threads=num_threads))


def load_exported(
    file: str | Path,
    *,
    runtime: str = AUTO,
    num_threads: int | None = None,
    precision: str | None = None,
    trust: bool = False,
) -> DeployedDetector:
    """Return the detector of an exported file; see ``load``."""
    file = Path(file).expanduser()
    if not file.exists():
        raise FileNotFoundError(f"model {file} does not exist")
    _check_companions(file)
    _check_names(runtime, num_threads)
    runtime = _runtime_of(file, runtime)
    _check_threads(runtime, num_threads)
    check_auto(precision, runtime)
    options: dict[str, Any] = {"num_threads": num_threads} if RUNTIMES[runtime].takes_threads else {}
    if RUNTIMES[runtime].asks_for_trust:
        options["trust"] = trust

    compiled = _open(file, runtime, options)
    description = _description(file, compiled)
    if precision is not None:
        description = replace(description, precision=choose_precision(description, runtime, str(file)))
    if description.precision == "bf16" and isinstance(compiled, OpenVino):
        compiled = _open(file, runtime, {**options, "bf16": True})
    return DeployedDetector(description, compiled)


def _description(file: Path, compiled: Runtime) -> Description:
    """Return the description that this package wrote into a file, or the one that a file of others amounts to."""
    found: Description | None = None
    if compiled.description is None:
        try:
            found = format_of(file).describe_stranger(compiled)
        except ValueError as error:
            raise ValueError(f"{file} does not say enough to be used: {error}") from error
    return found or Description.from_json(compiled.description, str(file))


def _check_companions(file: Path) -> None:
    for suffix in format_of(file).companions:
        companion = file.with_suffix(suffix)
        if not companion.is_file():
            raise FileNotFoundError(f"{file} must have its weights beside it in {companion.name}, which does not exist")


def _check_names(runtime: str, num_threads: int | None) -> None:
    valid = (AUTO, *RUNTIMES)
    if runtime not in valid:
        raise ValueError(f"runtime must be one of {', '.join(valid)}, got '{runtime}'")
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be 1 or more, or None for one per core, got {num_threads}")


def _check_threads(runtime: str, num_threads: int | None) -> None:
    if num_threads is not None and not RUNTIMES[runtime].takes_threads:
        valid = ", ".join(name for name, info in RUNTIMES.items() if info.takes_threads)
        raise ValueError(f"num_threads goes with {valid}, got {num_threads} for runtime '{runtime}'")


def _runtime_of(file: Path, runtime: str) -> str:
    """Return the runtime for a file: the one that was asked for, or the first that is installed.

    Raises:
        ValueError: If the runtime that was asked for cannot run this format.
    """
    valid = format_of(file).runtimes
    if not valid:
        raise ValueError(f"{file} runs {format_of(file).runs_elsewhere}; load the weights that it was exported from")
    if runtime == AUTO:
        return next((name for name in valid if is_installed(RUNTIMES[name].module)), valid[0])
    if runtime not in valid:
        raise ValueError(f"{file} is run by {' or '.join(valid)}, got runtime '{runtime}'; export it to another format")
    return runtime


def _open(file: Path, runtime: str, options: dict[str, Any]) -> Runtime:
    """Return the runtime of a file; its own error about an unreadable file becomes one sentence."""
    read: Callable[..., Runtime] = RUNTIMES[runtime].open
    try:
        return read(file, **options)
    except (ImportError, OSError):
        raise
    except RefusedError as error:
        raise ValueError(f"{file} {error}") from error
    except Exception as error:
        first_line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{file} is not a readable {file.suffix} file: {first_line}") from error
