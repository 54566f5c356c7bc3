"""Run a PyTorch model that is in memory by a faster runtime, for as long as its weights stay as they are."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from effdet.deployment.detector import DeployedDetector
from effdet.deployment.export import ExportOptions, describe, onnx_graph
from effdet.deployment.runtimes import OnnxRuntime, OpenVino, Runtime, is_installed, require
from effdet.detector.efficientdet import EfficientDet
from effdet.detector.prediction import Detector, check_batch_size
from effdet.images.reading import VIDEO_SUFFIXES, find_files

MANY = 300  # images for which the seconds that a conversion takes are soon won back

_Kind = tuple[str, tuple[int, int], int]  # runtime, image size, batch size


class _Compiled(NamedTuple):
    stamp: bytes
    detector: DeployedDetector


_compiled: weakref.WeakKeyDictionary[EfficientDet, dict[_Kind, _Compiled]] = weakref.WeakKeyDictionary()


def choose_detector(model: EfficientDet, runtime: str, source: Any, batch_size: int) -> Detector:
    """Return who is to detect: the model itself, or its network in another runtime.

    "auto" takes what an earlier call has compiled for these weights; else it compiles when the source is known to have
    ``MANY`` images or frames; else it is PyTorch. A conversion takes seconds, and is done again when the weights, the
    input size or the batch size have changed.

    Args:
        model: The model.
        runtime: "auto", "torch", "onnxruntime" or "openvino".
        source: What it is to predict on.
        batch_size: Images that go through the network together.

    Raises:
        ValueError: If there is no such runtime, the model is not on the CPU, where the other runtimes run, or
            ``batch_size`` is below 1.
        ImportError: If the runtime is not installed.
    """
    check_batch_size(batch_size)
    if runtime == "torch":
        return model
    if runtime == "auto":
        return _automatic(model, source, batch_size)
    if runtime not in ("onnxruntime", "openvino"):
        raise ValueError(f"runtime must be auto, torch, onnxruntime or openvino, got '{runtime}'")
    if model.device.type != "cpu":
        raise ValueError(f"runtime '{runtime}' needs a model on the cpu, got one on {model.device}; call model.cpu()")
    require(runtime)
    return _compile(model, runtime, batch_size)


def _automatic(model: EfficientDet, source: Any, batch_size: int) -> Detector:
    available = [name for name in ("openvino", "onnxruntime") if is_installed(name)]
    if model.device.type != "cpu" or not available:
        return model
    kinds = [(name, model.image_size, batch_size) for name in available]
    kept = _compiled.get(model, {})
    if any(kind in kept for kind in kinds):
        stamp = weights_stamp(model)
        ready = next((kind[0] for kind in kinds if kind in kept and kept[kind].stamp == stamp), None)
        if ready is not None:
            return _compile(model, ready, batch_size)
    can_convert = is_installed("onnx") and is_installed("onnxscript")
    return _compile(model, available[0], batch_size) if can_convert and has_many(source) else model


def _compile(model: EfficientDet, runtime: str, batch_size: int) -> DeployedDetector:
    kept = _compiled.setdefault(model, {})
    kind = (runtime, model.image_size, batch_size)
    description = describe(model, ExportOptions(batch=batch_size))
    stamp = weights_stamp(model)
    known = kept.get(kind)
    if known is None or known.stamp != stamp:
        graph = onnx_graph(model, description).SerializeToString()
        compiled: Runtime = OpenVino(graph) if runtime == "openvino" else OnnxRuntime(graph)
        kept[kind] = known = _Compiled(stamp, DeployedDetector(description, compiled))
    elif known.detector.description != description:  # other settings or names for the same weights
        kept[kind] = known = known._replace(detector=DeployedDetector(description, known.detector.runtime))
    return known.detector


def weights_stamp(model: EfficientDet) -> bytes:
    """Return bytes that change when a weight or a BN statistic does.

    Autograd's version of every tensor tells most changes; its norm and its sum those that write past autograd.
    """
    tensors: list[Tensor] = [tensor.detach() for tensor in model.network.state_dict().values()]
    versions = [0 if tensor.is_inference() else tensor._version for tensor in tensors]
    places = [tensor.data_ptr() for tensor in tensors]
    floats = [tensor for tensor in tensors if tensor.is_floating_point()]
    numbers = torch.stack([*torch._foreach_norm(floats), *(tensor.sum() for tensor in floats)])
    return np.array(versions + places, dtype=np.int64).tobytes() + numbers.float().numpy().tobytes()


def has_many(source: Any) -> bool:
    """Return whether a source is known to have ``MANY`` images or frames."""
    if isinstance(source, str | Path):
        files = find_files(source)
        return sum(_num_images(file) for file in files) >= MANY
    if isinstance(source, np.ndarray | Tensor):
        return source.ndim == 4 and len(source) >= MANY
    return hasattr(source, "__len__") and len(source) >= MANY


def _num_images(file: Path) -> int:
    """Return 1 for an image; for a video the frames that it says it has, 0 where it does not or cannot be read."""
    if file.suffix.lower() not in VIDEO_SUFFIXES:
        return 1
    try:
        import av

        with av.open(str(file)) as container:
            return sum(stream.frames for stream in container.streams.video[:1])
    except (ImportError, OSError, ValueError):  # whoever reads it will say what is wrong
        return 0
