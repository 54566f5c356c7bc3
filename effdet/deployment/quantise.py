"""Int8 by calibration on the user's images (NNCF), for OpenVINO."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from effdet.deployment.runtimes import OpenVino, Runtime, require

MIN_IMAGES = 100  # fewer calibration images give ranges that other images leave
NUM_RANKING = 50  # images by which layers are ranked: each of a hundred or more layers is tried on all of them


@dataclass(frozen=True, kw_only=True)
class AccuracyControl:
    """What int8 may cost, and how that is measured."""

    score: Callable[[Runtime, Sequence[int]], float]  # AP of a compiled graph on the images with these indices
    num_images: int
    max_drop: float  # AP of the float graph minus that of the int8 one, both in [0, 1]


@dataclass(frozen=True, kw_only=True)
class Quantisation:
    """What a graph is calibrated with, and what may be lost."""

    inputs: Sequence[np.ndarray]  # each (B, 3, H, W) float32, normalised, as the network takes them
    float_outputs: bool = True  # keep the last convolution of each head in float: costs little time, saves most AP
    control: AccuracyControl | None = None  # None: the loss of AP is not measured
    correct_biases: bool = True  # OpenVINO: takes most of the time; without it AP is lower, and speed the same


def quantise(graph: Any, quantisation: Quantisation) -> Any:
    """Return an ``openvino.Model`` whose convolutions compute in int8.

    Before, x · sigmoid(x) becomes one ``Swish``: else both factors are quantised, no convolution can absorb its
    activation any more, and int8 is hardly faster than float.

    Under accuracy control the layers that cost most go back to float, one after the other, until the rest costs no more
    than it may.

    Args:
        graph: The ``openvino.Model`` in float32; its operations are fused in place.
        quantisation: Calibration images, and the loss that is allowed.
    """
    os.environ.setdefault("NNCF_CI", "1")  # the switch by which NNCF sends no usage statistics
    nncf = require("nncf")
    require("openvino._offline_transformations").apply_moc_transformations(graph, False)
    logging.getLogger("nncf").setLevel(logging.ERROR)
    settings = {
        "preset": nncf.QuantizationPreset.MIXED,
        "subset_size": len(quantisation.inputs),
        "ignored_scope": nncf.IgnoredScope(names=output_convolutions(graph) if quantisation.float_outputs else []),
    }
    calibration, control = nncf.Dataset(quantisation.inputs), quantisation.control
    if control is None:
        details = nncf.AdvancedQuantizationParameters(disable_bias_correction=not quantisation.correct_biases)
        return nncf.quantize(graph, calibration, advanced_parameters=details, **settings)

    def validate(compiled: Any, indices: Iterable[int]) -> tuple[float, None]:
        return control.score(OpenVino.from_compiled(compiled), list(indices)), None

    return nncf.quantize_with_accuracy_control(
        graph,
        calibration,
        nncf.Dataset(range(control.num_images)),
        validate,
        max_drop=control.max_drop,
        drop_type=nncf.DropType.ABSOLUTE,
        advanced_accuracy_restorer_parameters=nncf.AdvancedAccuracyRestorerParameters(ranking_subset_size=NUM_RANKING),
        **settings,
    )


def output_convolutions(graph: Any) -> list[str]:
    """Return the names of the convolutions that logits and deltas come from, one for each head and level."""
    found: list[str] = []
    seen: set[str] = set()
    waiting = [result.input_value(0).get_node() for result in graph.get_results()]
    while waiting:
        node = waiting.pop()
        name = node.get_friendly_name()
        if name in seen:
            continue
        seen.add(name)
        if node.get_type_name() == "Convolution":
            found.append(name)
        else:
            waiting += [value.get_node() for value in node.input_values()]
    return found
