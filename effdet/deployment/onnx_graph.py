"""A detector's network as an ONNX graph, in the form that runtimes compute fastest."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from effdet.deployment.dynamic_shapes import make_dynamic, say_same
from effdet.deployment.runtimes import require
from effdet.detector.efficientdet import EfficientDet
from effdet.detector.evaluation_copies import unwrapped

INPUT = "images"  # (B, 3, H, W) float32, normalised
RAW_OUTPUTS = ("class_logits", "box_deltas")  # (B, N, K) and (B, N, 4)


class RawNetwork(nn.Module):
    """The network alone, with a tuple of tensors as its result.

    Args:
        model: The detector; its network is copied.
        dtype: What it computes in; input and results are float32 all the same.
        deltas_as_yxhw: Give deltas as (dy, dx, dh, dw), as TensorFlow's operators want them.
    """

    def __init__(
        self, model: EfficientDet, dtype: torch.dtype = torch.float32, *, deltas_as_yxhw: bool = False
    ) -> None:
        super().__init__()
        self.dtype = dtype
        network: Any = copy.deepcopy(unwrapped(model.network)).cpu().to(dtype).eval().requires_grad_(False)
        if deltas_as_yxhw:
            for parameter in network.box_head.output_conv.parameters():  # one channel for each anchor and delta
                parameter.data = parameter.data.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)
        self.network = network

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (B, N, K) and box deltas (B, N, 4) for normalised images (B, 3, H, W)."""
        predictions = self.network(images.to(self.dtype))
        return predictions.class_logits.float(), predictions.box_deltas.float()


def trace_onnx(
    model: EfficientDet,
    image_size: tuple[int, int],
    *,
    batch: int | None = 1,
    dynamic_size: bool = False,
    deltas_as_yxhw: bool = False,
) -> Any:
    """Return the network as an ``onnx.ModelProto`` with BNs folded into the convolutions before them.

    Its input is ``INPUT``, its outputs are ``RAW_OUTPUTS``. Constants such as fusion weights are folded, and padding is
    an attribute of the convolution or pooling.

    Args:
        model: The detector, on any device.
        image_size: Network input (height, width).
        batch: Images of every run; None: any number.
        dynamic_size: Let height and width be anything.
        deltas_as_yxhw: Give deltas as (dy, dx, dh, dw).
    """
    require("onnxscript")
    step = model.architecture.coarsest_stride if dynamic_size else 1
    height, width = (-(-side // step) * step for side in image_size)
    with _quiet():
        program = torch.onnx.export(
            RawNetwork(model, deltas_as_yxhw=deltas_as_yxhw),
            (torch.zeros(batch or 1, model.architecture.in_channels, height, width),),
            input_names=[INPUT],
            output_names=list(RAW_OUTPUTS),
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    graph = program.model_proto
    del graph.metadata_props[:]  # notes of the exporter, with paths of this machine
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    fold_batch_norms(graph)
    say_same(graph.graph, "MaxPool")  # OpenVINO refuses a window that ceil_mode moves far beyond the edge
    if batch is None or dynamic_size:
        make_dynamic(graph, batch=batch is None, size=dynamic_size)
    return graph


def fold_batch_norms(model: Any) -> int:
    """Fold every BN that only a convolution feeds into that convolution; return how many.

    Heads share their convolutions between levels and have a BN for each: then each level gets weights of its own.
    """
    onnx = require("onnx")
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    uses = Counter(name for node in graph.node for name in node.input)
    folded = []
    for norm in graph.node:
        conv = makers.get(norm.input[0]) if norm.op_type == "BatchNormalization" else None
        if conv is None or conv.op_type != "Conv" or uses[norm.input[0]] != 1 or conv.input[1] not in constants:
            continue
        scale, shift, mean, variance = (onnx.numpy_helper.to_array(constants[name]) for name in norm.input[1:5])
        eps = next((attribute.f for attribute in norm.attribute if attribute.name == "epsilon"), 1e-5)
        factor = scale / np.sqrt(variance + np.float32(eps))
        weight = onnx.numpy_helper.to_array(constants[conv.input[1]])
        bias = onnx.numpy_helper.to_array(constants[conv.input[2]]) if len(conv.input) > 2 else 0
        name = norm.output[0]
        new_weight = weight * factor[:, None, None, None]
        new_bias = ((bias - mean) * factor + shift).astype(weight.dtype)
        graph.initializer.append(onnx.numpy_helper.from_array(new_weight, f"{name}.weight"))
        graph.initializer.append(onnx.numpy_helper.from_array(new_bias, f"{name}.bias"))
        del conv.input[1:]
        conv.input.extend([f"{name}.weight", f"{name}.bias"])
        conv.output[0] = name
        folded.append(norm)
    for norm in folded:
        graph.node.remove(norm)
    remove_unused_constants(graph)
    return len(folded)


def unshare_biases(model: Any) -> int:
    """Give each convolution a bias of its own; return how many shared theirs.

    Heads share their convolutions between levels. OpenVINO adds a bias inside the convolution only if no other one
    reads it, else in another pass over the whole output.
    """
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    biased = [node for node in graph.node if node.op_type == "Conv" and len(node.input) > 2]
    uses = Counter(node.input[2] for node in biased)
    sharing = [node for node in biased if uses[node.input[2]] > 1 and node.input[2] in constants]
    for node in sharing:
        own = graph.initializer.add()
        own.CopyFrom(constants[node.input[2]])
        own.name = f"{node.output[0]}.bias"
        node.input[2] = own.name
    remove_unused_constants(graph)
    return len(sharing)


def remove_unused_constants(graph: Any) -> None:
    """Remove the initializers that no node reads."""
    used = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    del graph.initializer[:]
    graph.initializer.extend(kept)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the logs, warnings and prints of the exporter; its exceptions are raised as ever."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
