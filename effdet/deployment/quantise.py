"""Int8 by calibration on the user's images (NNCF), for OpenVINO."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effdet.deployment.runtimes import require

MIN_IMAGES = 100  # fewer calibration images give ranges that other images leave


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """What a graph is calibrated with."""

    inputs: Sequence[np.ndarray]  # each (B, 3, H, W) float32, normalised, as the network takes them
    accurate: bool = False  # correct the biases layer by layer: slower, a little nearer to float
    float_outputs: bool = True  # leave the last convolution of each head in float: little time, most of the lost AP


def quantise(graph: Any, quantisation: Quantisation) -> Any:
    """Return an ``openvino.Model`` whose convolutions compute in int8.

    Before, x · sigmoid(x) becomes one ``Swish``: else both factors are quantised, no convolution can absorb its
    activation any more, and int8 is hardly faster than float.

    Args:
        graph: The ``openvino.Model`` in float32; its operations are fused in place.
        quantisation: Calibration images.
    """
    os.environ.setdefault("NNCF_CI", "1")  # the switch by which NNCF sends no usage statistics
    nncf = require("nncf")
    require("openvino._offline_transformations").apply_moc_transformations(graph, False)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    return nncf.quantize(
        graph,
        nncf.Dataset(quantisation.inputs),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(quantisation.inputs),
        fast_bias_correction=not quantisation.accurate,
        ignored_scope=nncf.IgnoredScope(names=output_convolutions(graph) if quantisation.float_outputs else []),
    )


def output_convolutions(graph: Any) -> list[str]:
    """Return the names of the convolutions that logits and deltas come from, one for each head and level.

    They are the ones whose result, with the bias added, has its channels moved to the end.
    """
    names = []
    for node in graph.get_ops():
        if node.get_type_name() == "Transpose":
            source = node.input_value(0).get_node()
            if source.get_type_name() == "Add":
                source = source.input_value(0).get_node()
            if source.get_type_name() == "Convolution":
                names.append(source.get_friendly_name())
    return names
