"""Keep the loss of AP of int8 below a limit: the layers that cost most are computed in float again."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np

from effdet.deployment.quantise import AccuracyControl
from effdet.deployment.runtimes import Runtime
from effdet.deployment.tflite.graph import Graph, pack
from effdet.deployment.tflite.quantise import CONVOLUTIONS, Quantiser
from effdet.deployment.tflite.runtime import Session

NUM_RANKING = 8  # images on which each layer is tried
LOGGER = logging.getLogger(__name__)


def quantise_within(quantiser: Quantiser, control: AccuracyControl, runtime_of: Callable[[Graph], Runtime]) -> Graph:
    """Return an int8 graph that loses no more AP than it may.

    Layers are ranked by the error that each of them alone makes of the outputs. The worst one, two, four, … go back to
    float until AP is high enough.

    Args:
        quantiser: Makes the graphs.
        control: How AP is measured, and the largest drop.
        runtime_of: Makes a runtime of a graph with raw outputs, which it may change.
    """
    images = range(control.num_images)
    least = control.score(runtime_of(quantiser.float_graph()), images) - control.max_drop
    layers: list[list[str]] = []
    count = 0
    while control.score(runtime_of(quantiser.quantise(_flat(layers[:count]))), images) < least:
        layers = layers or ranked_layers(quantiser)
        if count == len(layers):
            return quantiser.float_graph()
        count = min(max(1, 2 * count), len(layers))
        LOGGER.info("int8: %d of %d layers go back to float", count, len(layers))
    return quantiser.quantise(_flat(layers[:count]))


def ranked_layers(quantiser: Quantiser) -> list[list[str]]:
    """Return the layers, each as the names of what its operators compute, the one that costs most first.

    The cost of a layer is the mean squared error of the outputs over their variance, with this layer alone in int8.
    """
    graph = quantiser.float_graph()
    layers = layers_of(graph)
    everything = _flat(layers)
    samples = quantiser.samples[:: -(-len(quantiser.samples) // NUM_RANKING)]
    expected = _outputs(graph, samples)

    def cost(layer: Sequence[str]) -> float:
        rest = sorted(set(everything) - set(layer))
        return _error(_outputs(quantiser.quantise(rest), samples), expected)

    costs = [cost(layer) for layer in layers]
    return [layers[index] for index in np.argsort(costs)[::-1]]


def layers_of(graph: Graph) -> list[list[str]]:
    """Return the names of what is computed, a list for each convolution with the operators behind it."""
    layers: list[list[str]] = [[]]
    layer_of: dict[int, int] = {}
    for operator in graph.subgraph.operators:
        if graph.kind(operator) in CONVOLUTIONS:
            layers.append([])
            place = len(layers) - 1
        else:
            place = max((layer_of.get(index, 0) for index in operator.inputs), default=0)
        for index in operator.outputs:
            layer_of[index] = place
            layers[place].append(graph.subgraph.tensors[index].name)
    return [layer for layer in layers if layer]


def _outputs(graph: Graph, samples: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Return each output of a graph for all samples."""
    session = Session(pack(graph.model), num_threads=1)
    return [np.stack(arrays) for arrays in zip(*(session.run(sample) for sample in samples), strict=True)]


def _error(outputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> float:
    pairs = zip(outputs, expected, strict=True)
    return float(sum(np.square(ours - theirs).mean() / theirs.var() for ours, theirs in pairs))


def _flat(layers: Sequence[Sequence[str]]) -> list[str]:
    return [name for layer in layers for name in layer]
