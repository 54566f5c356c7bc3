"""ExecuTorch files (``.pte``) for the CPUs of phones and boards: written, quantised and run by XNNPACK."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from effdet.atomic_write import replace_file
from effdet.deployment.description import KEY, Description
from effdet.deployment.folding import folded_network
from effdet.deployment.quantise import Quantisation
from effdet.deployment.runtimes import Arrays, require
from effdet.detector.efficientdet import EfficientDet


def write_executorch(
    model: EfficientDet, file: Path, description: Description, quantisation: Quantisation | None
) -> None:
    """Write a ``.pte`` file: the method ``forward``, and the description as the method ``effdet``.

    ``forward`` takes (B, 3, H, W) float32 normalised images, and gives class logits (B, N, K) and box deltas (B, N, 4).
    ``effdet`` gives the UTF-8 bytes of the description's JSON text, uint8.

    Raises:
        ValueError: If int8 is asked for a network with weighted fusion: XNNPACK cannot read its quantised weights.
    """
    assert description.batch is not None
    if quantisation is not None and model.architecture.fusion != "sum":
        raise ValueError(
            "int8 of executorch needs a neck that adds maps without weights (fusion: sum), as in the Lite models, got "
            f"fusion '{model.architecture.fusion}'; export int8 to tflite or openvino"
        )
    images = torch.zeros(description.batch, model.architecture.in_channels, *description.image_size)
    text = torch.frombuffer(bytearray(description.to_json().encode()), dtype=torch.uint8)
    with quiet(), torch.no_grad():
        exir = require("executorch.exir")
        partition = require("executorch.backends.xnnpack.partition.xnnpack_partitioner")
        network: nn.Module = folded_network(model)
        if quantisation is not None:
            network = _quantised(network, images, quantisation)
        program = torch.export.export(network, (images,))
        lowered = exir.to_edge_transform_and_lower(
            program, partitioner=[partition.XnnpackPartitioner()], constant_methods={KEY: text}
        )
        data: bytes = lowered.to_executorch().buffer
    with replace_file(file) as stream:
        stream.write(data)


def _quantised(network: nn.Module, images: torch.Tensor, quantisation: Quantisation) -> nn.Module:
    """Return the network with int8 weights, one scale for each channel, and int8 activations.

    Raises:
        ValueError: If the loss of AP is to be limited, which this format cannot do.
    """
    if quantisation.control is not None:
        raise ValueError(
            "max_drop goes with the formats openvino and tflite, got executorch; leave it out, then evaluate the file"
        )
    quantizer = require("executorch.backends.xnnpack.quantizer.xnnpack_quantizer")
    pt2e = require("torchao.quantization.pt2e.quantize_pt2e")
    settings = quantizer.get_symmetric_quantization_config(is_per_channel=True)
    chosen = quantizer.XNNPACKQuantizer().set_global(settings)
    if quantisation.float_outputs:
        annotate = chosen.annotate
        chosen.annotate = lambda module: _annotate_all_but_outputs(module, annotate)
    prepared = pt2e.prepare_pt2e(torch.export.export(network, (images,)).module(), chosen)
    for batch in quantisation.inputs:
        prepared(torch.from_numpy(batch))
    result: nn.Module = pt2e.convert_pt2e(prepared)
    return result


def _annotate_all_but_outputs(module: Any, annotate: Callable[[Any], Any]) -> Any:
    """Say what is quantised, but not the convolutions that outputs come from, nor what lies behind them."""
    annotated = annotate(module)
    waiting = list(next(node for node in annotated.graph.nodes if node.op == "output").all_input_nodes)
    while waiting:
        node = waiting.pop()
        node.meta.pop("quantization_annotation", None)
        if "conv" not in node.name:
            waiting += node.all_input_nodes
    return annotated


class ExecuTorch:
    """A ``.pte`` file in ExecuTorch.

    Args:
        file: The file.
        num_threads: Threads of every run of this process, also of other files; None: as ExecuTorch chooses.
    """

    name = "executorch"

    def __init__(self, file: str | Path, *, num_threads: int | None = None) -> None:
        with quiet():
            runtime = require("executorch.runtime").Runtime.get()
        if num_threads is not None:
            require("executorch.extension.pybindings.portable_lib")._unsafe_reset_threadpool(num_threads)
        self._program = runtime.load_program(Path(file).read_bytes())
        self._forward = self._program.load_method("forward")
        self._lock = threading.Lock()
        self.description = self._read_description()

    def _read_description(self) -> str | None:
        if KEY not in self._program.method_names:
            return None
        text: Any = self._program.load_method(KEY).execute([])[0]
        return bytes(text.numpy()).decode()

    def run(self, images: np.ndarray) -> Arrays:
        """Return the outputs for (B, 3, H, W) float32 images; runs of several threads come one after the other."""
        with self._lock:  # all runs write their outputs to the same memory
            return [output.numpy().copy() for output in self._forward.execute([torch.from_numpy(images)])]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the logs, warnings and prints of converters; their exceptions are raised as ever."""
    before = logging.root.manager.disable
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(before)
