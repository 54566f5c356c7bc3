"""Networks as CUDA graphs: the host starts all kernels of a small batch by one call.

A network has a thousand kernels. For a few images, the GPU finishes each of them before the host has started the next.
A CUDA graph records the kernels once and starts them together.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from effdet.structures import Predictions

logger = logging.getLogger(__name__)

MOST_PIXELS = 64 * 512 * 512  # of a batch; with more, the GPU takes longer than the host
MOST_GRAPHS = 4  # of one network: each shape of input has its own


@dataclass(frozen=True)
class _Graph:
    graph: torch.cuda.CUDAGraph
    images: Tensor  # what the graph reads
    predictions: Predictions  # what it writes
    addresses: tuple[int, ...]  # of the weights that it reads

    def replay(self, images: Tensor) -> Predictions:
        self.images.copy_(images)
        self.graph.replay()
        return Predictions(self.predictions.class_logits.clone(), self.predictions.box_deltas.clone())


class CudaGraphs:
    """The graphs of one network in evaluation mode. Only one thread at a time may use it.

    The second batch of a shape is recorded; the first is not, because many shapes come once. Weights may change: where
    they lie elsewhere, the network is recorded anew. A network that cannot be recorded is computed kernel by kernel.

    Args:
        network: The network in evaluation mode.
        can_record: False if its forward pass does more than to start kernels, such as calling a user's hook.
    """

    def __init__(self, network: nn.Module, *, can_record: bool = True) -> None:
        self._network = network
        self._can_record = can_record
        self._weights = [tensors for m in network.modules() for tensors in (m._parameters, m._buffers)]
        self._graphs: OrderedDict[Hashable, _Graph | None] = OrderedDict()

    def __call__(self, images: Tensor) -> Predictions:
        """Return the predictions for (B, C, H, W) normalised images on a CUDA device, without gradients."""
        if not self._can_record or images[:, 0].numel() > MOST_PIXELS:
            return self._run(images)
        key = _key(images)
        addresses = tuple(w.data_ptr() for tensors in self._weights for w in tensors.values() if w is not None)
        graph = self._graphs.get(key)
        if graph is None or graph.addresses != addresses:
            if key not in self._graphs:
                self._keep(key, None)
                return self._run(images)
            graph = self._try_to_record(images, addresses)
            if graph is None:
                return self._run(images)
            self._keep(key, graph)
        self._graphs.move_to_end(key)
        return graph.replay(images)

    def _keep(self, key: Hashable, graph: _Graph | None) -> None:
        self._graphs[key] = graph
        if len(self._graphs) > MOST_GRAPHS:
            self._graphs.popitem(last=False)

    def _try_to_record(self, images: Tensor, addresses: tuple[int, ...]) -> _Graph | None:
        try:
            return self._record(images, addresses)
        except RuntimeError as error:
            logger.info("the network is computed without a CUDA graph: %s", str(error).partition("\n")[0])
            self._can_record = False
            return None

    def _record(self, images: Tensor, addresses: tuple[int, ...]) -> _Graph:
        own = images.clone()  # in the same memory format
        kind = torch.get_autocast_dtype("cuda"), torch.is_autocast_enabled("cuda")
        # Autocast must convert the weights inside the graph, so that it sees new ones.
        with torch.autocast("cuda", dtype=kind[0], enabled=kind[1], cache_enabled=False):
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                self._run(own)  # libraries choose kernels and take memory before the recording
            torch.cuda.current_stream().wait_stream(stream)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream, capture_error_mode="thread_local"):
                predictions = self._run(own)
        return _Graph(graph, own, predictions, addresses)

    def _run(self, images: Tensor) -> Predictions:
        predictions: Predictions = self._network(images)
        return predictions


def _key(images: Tensor) -> Hashable:
    """Return all that chooses kernels."""
    return (
        images.shape,
        images.stride(),
        images.dtype,
        torch.is_autocast_enabled("cuda"),
        torch.get_autocast_dtype("cuda"),
        torch.backends.cudnn.allow_tf32,
        torch.backends.cuda.matmul.allow_tf32,
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
    )
