"""Core ML files (``.mlpackage``) for Apple devices. They are written anywhere, and run on macOS and iOS only."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from effdet.deployment.description import KEY, Description
from effdet.deployment.executorch import quiet
from effdet.deployment.folding import folded_network
from effdet.deployment.onnx_graph import RAW_OUTPUTS
from effdet.deployment.quantise import Quantisation
from effdet.deployment.runtimes import require
from effdet.detector.efficientdet import EfficientDet

INPUT = "image"  # RGB pixels of the network's size, as a CVPixelBuffer


class _PixelNetwork(nn.Module):
    """The network for pixels in 0…255: the graph normalises."""

    def __init__(self, model: EfficientDet) -> None:
        super().__init__()
        self.raw = folded_network(model)
        self.mean = nn.Buffer(model.mean.detach().cpu().view(-1, 1, 1).clone())
        self.std = nn.Buffer(model.std.detach().cpu().view(-1, 1, 1).clone())

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return class logits (1, N, K) and box deltas (1, N, 4) for an RGB image (1, 3, H, W) in 0…255."""
        logits, deltas = self.raw((image - self.mean) / self.std)
        return logits, deltas


def input_kind(*_: object) -> Literal["pixels"]:
    """Return what the input holds: pixels of 0…255, as a camera gives them; the graph normalises."""
    return "pixels"


def write_coreml(model: EfficientDet, file: Path, description: Description, _: Quantisation | None) -> None:
    """Write a folder ``.mlpackage``, an ML program for iOS 16, macOS 13 and later.

    Its input ``image`` is an RGB picture of the network's size; its outputs are ``class_logits`` (1, N, K) and
    ``box_deltas`` (1, N, 4). The description's JSON text is in the metadata under "effdet".

    Raises:
        ValueError: If the network takes no RGB images.
    """
    program = convert(model, description)
    if file.exists():
        shutil.rmtree(file)
    program.save(str(file))


def convert(model: EfficientDet, description: Description) -> Any:
    """Return the ``coremltools.models.MLModel`` of a detector; it is not loaded into Core ML."""
    if model.architecture.in_channels != 3:
        raise ValueError(
            f"coreml files need a network with in_channels=3, got {model.architecture.in_channels}; take onnx"
        )
    with quiet(), torch.no_grad():
        tools = require("coremltools")
        image = torch.zeros(1, 3, *description.image_size)
        exported = torch.export.export(_PixelNetwork(model).eval(), (image,)).run_decompositions({})
        enlarge_by_whole_factors(exported.graph_module)
        program = tools.convert(
            exported,
            convert_to="mlprogram",
            inputs=[tools.ImageType(name=INPUT, shape=tuple(image.shape), color_layout=tools.colorlayout.RGB)],
            outputs=[tools.TensorType(name=name) for name in RAW_OUTPUTS],
            minimum_deployment_target=tools.target.iOS16,
            compute_precision=tools.precision.FLOAT16 if description.precision == "fp16" else tools.precision.FLOAT32,
            skip_model_load=True,
        )
    program.user_defined_metadata[KEY] = description.to_json()
    return program


def enlarge_by_whole_factors(graph_module: Any) -> int:
    """Replace each nearest-neighbour enlargement of n to 2n - 1 by one to 2n, cut by one; return how many there were.

    The two are equal: ⌊i · n / (2n - 1)⌋ = ⌊i / 2⌋ for i < 2n - 1. Which cells a factor such as 5/3 takes is left to
    the runtime; a factor of 2 has one meaning only.
    """
    aten = torch.ops.aten
    count = 0
    for node in list(graph_module.graph.nodes):
        if node.target not in (aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default):
            continue
        old, new = node.args[0].meta["val"].shape[-2:], node.meta["val"].shape[-2:]
        if new == tuple(2 * side for side in old) or any(
            after not in (2 * n - 1, 2 * n) for n, after in zip(old, new, strict=True)
        ):
            continue
        with graph_module.graph.inserting_before(node):
            result = _call(graph_module, aten.upsample_nearest2d.vec, node.args[0], None, [2.0, 2.0])
            for dim, side in ((2, new[0]), (3, new[1])):
                result = _call(graph_module, aten.slice.Tensor, result, dim, 0, side)
        node.replace_all_uses_with(result)
        graph_module.graph.erase_node(node)
        count += 1
    graph_module.recompile()
    return count


def _call(graph_module: Any, operator: Any, source: Any, *arguments: Any) -> Any:
    """Insert a call of an operator into a graph, with the shape of its result."""
    node = graph_module.graph.call_function(operator, (source, *arguments))
    node.meta["val"] = operator(source.meta["val"], *arguments)
    return node
