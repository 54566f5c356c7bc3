"""Run a ``.tflite`` file in LiteRT."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from effdet.deployment.runtimes import Arrays, require
from effdet.deployment.tflite.contents import Contents, read_contents
from effdet.deployment.tflite.nms import OUTPUTS, as_detections
from effdet.deployment.tflite.trial import check_runs


class Session:
    """A model in LiteRT, on the CPU; several threads may call it at once.

    Args:
        model: The bytes of a file.
        num_threads: Threads of one run.
        single_operators: Compute what XNNPACK leaves to LiteRT by one thread.
    """

    def __init__(self, model: bytes, *, num_threads: int, single_operators: bool = False) -> None:
        self._litert = require("ai_edge_litert.interpreter")
        self._model, self._num_threads, self._single_operators = model, num_threads, single_operators
        self._idle: deque[Any] = deque([self._interpreter()])  # those that no thread uses; each has buffers of its own
        self.inputs: list[dict[str, Any]] = self._idle[0].get_input_details()
        self.outputs: list[dict[str, Any]] = self._idle[0].get_output_details()

    def _interpreter(self) -> Any:
        made = self._make(self._num_threads)
        if not self._single_operators:
            return made
        # LiteRT has given the threads to XNNPACK by now, which computes the network.
        set_threads = getattr(getattr(made, "_interpreter", None), "SetNumThreads", None)
        if set_threads is None:
            return self._make(1)
        set_threads(1)
        return made

    def _make(self, num_threads: int) -> Any:
        made = self._litert.Interpreter(model_content=self._model, num_threads=num_threads)
        made.allocate_tensors()
        return made

    def run(self, image: np.ndarray) -> Arrays:
        """Return copies of the outputs for the one input, which has its shape and type."""
        try:
            interpreter = self._idle.pop()
        except IndexError:
            interpreter = self._interpreter()
        interpreter.set_tensor(self.inputs[0]["index"], image)
        interpreter.invoke()
        outputs = [interpreter.get_tensor(one["index"]) for one in self.outputs]
        self._idle.append(interpreter)
        return outputs


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
        require("ai_edge_litert.interpreter")
        self.contents: Contents = read_contents(file)
        if not self.contents.is_intact and not isinstance(file, bytes):
            check_runs(Path(file))
        self.description = self.contents.description
        # The operator for NMS leaves out the class whose label equals its number of threads: it gets one.
        self._session = Session(
            self.contents.data, num_threads=num_threads or os.cpu_count() or 1, single_operators=True
        )
        self.inputs, self.outputs = self._session.inputs, self._session.outputs
        self._order = list(range(len(self.outputs)))
        self._check_input()

    def _check_input(self) -> None:
        shapes = [tuple(one["shape"].tolist()) for one in self.inputs]
        if len(shapes) != 1 or len(shapes[0]) != 4 or shapes[0][0] != 1:
            raise ValueError(f"it must have one input (1, H, W, C) of images, got {shapes}")
        if self.inputs[0]["dtype"] not in (np.uint8, np.float32):
            raise ValueError(f"its input must be uint8 or float32, got {np.dtype(self.inputs[0]['dtype'])}")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        _, height, width, _ = self.inputs[0]["shape"].tolist()
        return height, width

    @property
    def takes_uint8(self) -> bool:
        """Whether the input takes pixels as bytes."""
        return bool(self.inputs[0]["dtype"] == np.uint8)

    def order_outputs(self, indices: Sequence[int]) -> None:
        """Give the outputs in the order of these tensors, which must be the outputs."""
        by_index = {one["index"]: place for place, one in enumerate(self.outputs)}
        if sorted(by_index) != sorted(indices):
            raise ValueError("its outputs must be those of its NMS operator, got others; export it again")
        self._order = [by_index[index] for index in indices]

    def run(self, images: np.ndarray) -> Arrays:
        """Return the outputs for (1, C, H, W) images, normalised or in 0…255 as the file takes them.

        Where the file does NMS they are those that ``nms.as_detections`` returns.
        """
        computed = self._session.run(self._as_input(images))
        outputs = [computed[place] for place in self._order]
        return as_detections(outputs, self.image_size) if len(outputs) == len(OUTPUTS) else outputs

    def _as_input(self, images: np.ndarray) -> np.ndarray:
        images, dtype = images.transpose(0, 2, 3, 1), self.inputs[0]["dtype"]
        if dtype == np.uint8 and images.dtype != np.uint8:
            images = images.round().clip(0, 255)
        return np.ascontiguousarray(images, dtype)
