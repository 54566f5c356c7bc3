"""Run an exported file: ONNX Runtime or OpenVINO, behind one call; none of them needs PyTorch.

LiteRT is in ``tflite/runtime.py``, and PyTorch in ``torch_export.py``.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol

import numpy as np

from effdet.deployment.description import KEY
from effdet.install import hint

Arrays = list[np.ndarray]


class RefusedError(ValueError):
    """A file holds a part that could run code; the message continues "FILE …"."""


class Runtime(Protocol):
    """A compiled graph."""

    name: str
    description: str | None  # JSON text that the file holds, if it does

    def run(self, images: np.ndarray) -> Arrays:
        """Return the outputs for (B, 3, H, W) float32 images; several threads may call it at once."""


@contextlib.contextmanager
def outputs_for(runtime: Runtime, images: np.ndarray) -> Iterator[Arrays]:
    """Yield the outputs of a run for use in the ``with`` block only, uncopied where the runtime can lend them."""
    if isinstance(runtime, OpenVino):
        with runtime.outputs_for(images) as outputs:
            yield outputs
    else:
        yield runtime.run(images)


class OnnxRuntime:
    """An ONNX file in ONNX Runtime.

    Args:
        model: The file, or its bytes.
        num_threads: Threads of one run; None: one per core.
    """

    name = "onnxruntime"

    def __init__(self, model: str | Path | bytes, *, num_threads: int | None = None) -> None:
        ort = require("onnxruntime")
        options = ort.SessionOptions()
        options.intra_op_num_threads = num_threads or 0
        options.log_severity_level = 3  # errors only
        source = model if isinstance(model, bytes) else str(model)
        self._session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self.description = self._session.get_modelmeta().custom_metadata_map.get(KEY)

    def run(self, images: np.ndarray) -> Arrays:
        """Return the outputs for (B, 3, H, W) float32 images."""
        outputs: Arrays = self._session.run(None, {self._input: images})
        return outputs


class OpenVino:
    """An OpenVINO (.xml with its .bin) or ONNX file in OpenVINO, on the CPU.

    Args:
        model: The file, an ``openvino.Model``, or the bytes of an ONNX file.
        num_threads: Threads of one run; None: one per core.
        bf16: Compute in bfloat16 where the processor can.
    """

    name = "openvino"

    def __init__(self, model: Any, *, num_threads: int | None = None, bf16: bool = False) -> None:
        core = openvino_core()
        graph = core.read_model(model) if isinstance(model, str | Path | bytes) else model
        config: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        config["INFERENCE_PRECISION_HINT"] = "bf16" if bf16 else "f32"
        if num_threads:
            config["INFERENCE_NUM_THREADS"] = num_threads
        self._use(core.compile_model(graph, "CPU", config), _openvino_description(graph))

    @classmethod
    def from_compiled(cls, compiled: Any) -> OpenVino:
        """Return the runtime of an ``openvino.CompiledModel``."""
        runtime = cls.__new__(cls)
        runtime._use(compiled, None)
        return runtime

    def _use(self, compiled: Any, description: str | None) -> None:
        self.description = description
        self._compiled = compiled
        self._outputs = range(len(compiled.outputs))
        self._idle: deque[Any] = deque()  # requests that no thread uses; each has buffers of its own

    def run(self, images: np.ndarray) -> Arrays:
        """Return the outputs for (B, 3, H, W) float32 images."""
        with self.outputs_for(images) as outputs:
            return [output.copy() for output in outputs]

    @contextlib.contextmanager
    def outputs_for(self, images: np.ndarray) -> Iterator[Arrays]:
        """Yield the outputs in OpenVINO's own memory; after the ``with`` block another run may overwrite them."""
        try:
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        request.infer({0: images}, share_inputs=True)
        try:
            yield [request.get_output_tensor(index).data for index in self._outputs]
        finally:
            self._idle.append(request)


_INSTALL = {  # for modules that the extra ``deploy`` does not hold
    "ai_edge_litert": "pip install ai-edge-litert",
    "ai_edge_quantizer": hint("edge"),
    "executorch": hint("executorch"),
    "torchao": hint("executorch"),
    "coremltools": hint("coreml"),
}


def require(module: str) -> ModuleType:
    """Return a module of the extra ``deploy`` or ``edge``.

    Raises:
        ImportError: If it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        how = _INSTALL.get(module.partition(".")[0], hint("deploy"))
        raise ImportError(f"this needs {module}; install it with: {how}", name=module) from error


@functools.cache
def openvino_core() -> Any:
    """Return the ``openvino.Core`` of this process, which is kept until it ends.

    While OpenVINO's plugin for the CPU is loaded, signals are handled on a stack of its own. Where two cores load it
    and the older one goes first, the younger one leaves a stack that no longer exists, and the next signal (Ctrl-C, or
    the end of a loader process) ends the program with a segmentation fault (seen with OpenVINO 2026.4.1).

    Raises:
        ImportError: If OpenVINO is not installed.
    """
    return require("openvino").Core()


def is_installed(module: str) -> bool:
    """Return whether a module of the extra ``deploy`` or ``edge`` can be imported, without importing it."""
    return importlib.util.find_spec(module) is not None


def _openvino_description(graph: Any) -> str | None:
    """Return the text in an OpenVINO file; for an ONNX file OpenVINO keeps its metadata under "framework"."""
    for place in ([KEY], ["framework", KEY]):
        if graph.has_rt_info(place):
            return str(graph.get_rt_info(place).astype(str))
    return None
