"""Run a ``.tflite`` file in LiteRT."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np

from effdet.deployment.runtimes import Arrays, require
from effdet.deployment.tflite.contents import Contents, read_contents
from effdet.deployment.tflite.nms import OUTPUTS, as_detections
from effdet.deployment.tflite.trial import check_runs


class LiteRt:
    """A ``.tflite`` file in LiteRT, on the CPU.

    Args:
        file: The file, or the bytes of one that this package has written.
        num_threads: Threads of one run; None: one per core.

    Raises:
        ValueError: If the file is damaged, or is no model that can be run.
    """

    name = "litert"

    def __init__(self, file: str | Path | bytes, *, num_threads: int | None = None) -> None:
        self._litert = require("ai_edge_litert.interpreter")
        self._contents: Contents = read_contents(file)
        if not self._contents.is_intact and not isinstance(file, bytes):
            check_runs(Path(file))
        self.description = self._contents.description
        self._num_threads = num_threads or os.cpu_count() or 1
        self._idle: deque[Any] = deque([self._interpreter()])  # those that no thread uses; each has buffers of its own
        interpreter = self._idle[0]
        (self._input,) = interpreter.get_input_details()
        self._outputs = [one["index"] for one in interpreter.get_output_details()]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(1, H, W, C)."""
        return tuple(self._input["shape"].tolist())

    def _interpreter(self) -> Any:
        made = self._make(self._num_threads)
        if len(made.get_output_details()) != len(OUTPUTS):
            return made
        # The operator for NMS leaves out the class whose label equals its number of threads. LiteRT has given the
        # threads to XNNPACK by now, which computes the network, so the operators outside of it can go on with one.
        set_threads = getattr(getattr(made, "_interpreter", None), "SetNumThreads", None)
        if set_threads is None:
            return self._make(1)
        set_threads(1)
        return made

    def _make(self, num_threads: int) -> Any:
        made = self._litert.Interpreter(model_content=self._contents.data, num_threads=num_threads)
        made.allocate_tensors()
        return made

    def run(self, images: np.ndarray) -> Arrays:
        """Return the outputs for (1, C, H, W) images, normalised or in 0…255 as the file takes them.

        Where the file does NMS they are those that ``nms.as_detections`` returns.
        """
        try:
            interpreter = self._idle.pop()
        except IndexError:
            interpreter = self._interpreter()
        interpreter.set_tensor(self._input["index"], self._as_input(images))
        interpreter.invoke()
        outputs = [interpreter.get_tensor(index) for index in self._outputs]
        self._idle.append(interpreter)
        return as_detections(outputs, self.input_shape[1:3]) if len(outputs) == len(OUTPUTS) else outputs

    def _as_input(self, images: np.ndarray) -> np.ndarray:
        images, dtype = images.transpose(0, 2, 3, 1), self._input["dtype"]
        if dtype == np.uint8 and images.dtype != np.uint8:
            images = images.round().clip(0, 255)
        return np.ascontiguousarray(images, dtype)
