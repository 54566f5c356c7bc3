"""Necks and fusions side by side: size, multiply-adds and milliseconds, beside the ratios of the paper's Table 5."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from effdet.adaptation.measurement import torch_threads
from effdet.kernels.blocks import fuse_for_training
from effdet.models.architecture import Architecture, Fusion, Neck
from effdet.models.cost import Cost, network_cost
from effdet.models.network import Network

NECKS: tuple[Neck, ...] = get_args(Neck)
FUSIONS: tuple[Fusion, ...] = get_args(Fusion)
WARMUP = 3
TRAINING_BATCH = 2  # a BN in training needs more than one value, also where the coarsest level is one cell

# Parameters and multiply-adds of a neck as shares of those of the repeated top-down FPN (Table 5).
PAPER_RATIOS: dict[tuple[Neck, Fusion], tuple[float, float]] = {
    ("fpn", "sum"): (1.0, 1.0),
    ("pan", "sum"): (1.0, 1.0),
    ("nas_fpn", "sum"): (0.71, 0.72),
    ("full", "sum"): (1.24, 1.21),
    ("bifpn", "sum"): (0.88, 0.67),
    ("bifpn", "fast"): (0.88, 0.68),
}
# Layers with half as many nodes as one of PAN: the comparison repeats them twice as often.
HALF_LAYERS: tuple[Neck, ...] = ("fpn", "full")


@dataclass(frozen=True, kw_only=True)
class NeckRow:
    """One neck with one fusion."""

    neck: Neck
    fusion: Fusion
    repeats: int  # layers
    parameters: int  # of the neck
    macs: int  # of the neck, for one image
    milliseconds: float  # of the neck's forward pass for one image; the median
    training_milliseconds: float  # of forward and backward pass, as in training, for one image of two
    parameter_ratio: float  # to the FPN that adds
    macs_ratio: float
    time_ratio: float
    paper_parameter_ratio: float | None  # None: not in the paper
    paper_macs_ratio: float | None
    network: Cost  # of the whole network, with the classes of COCO


@dataclass(frozen=True, kw_only=True)
class NeckComparison:
    """All rows, and the network that they belong to."""

    architecture: Architecture
    threads: int
    runs: int
    rows: tuple[NeckRow, ...]

    def softmax_slowdowns(self, *, training: bool) -> dict[str, float]:
        """Return for each neck that has both how much longer softmax takes than fast fusion (the paper's Table 6).

        Args:
            training: Of forward and backward pass together; otherwise of the forward pass.
        """
        times = {
            (row.neck, row.fusion): row.training_milliseconds if training else row.milliseconds for row in self.rows
        }
        return {
            neck: times[neck, "softmax"] / times[neck, "fast"]
            for neck in dict.fromkeys(row.neck for row in self.rows)
            if (neck, "softmax") in times and (neck, "fast") in times
        }


def with_neck(architecture: Architecture, neck: Neck, fusion: Fusion) -> Architecture:
    """Return the architecture with another neck of about as many nodes.

    FPN and the fully connected pyramid have a node at each level, PAN has two. So they get twice the layers. That makes
    the repeated FPN as large as the repeated PAN, as in Table 5.
    """
    factor = 2 if neck in HALF_LAYERS else 1
    return replace(
        architecture,
        neck=neck,
        fusion=fusion,
        neck_repeats=factor * architecture.neck_repeats,
        skip_edges=True,
        single_input_nodes=False,
    )


def compare_necks(
    architecture: Architecture,
    *,
    necks: Sequence[Neck] = NECKS,
    fusions: Sequence[Fusion] = FUSIONS,
    runs: int = 10,
    num_threads: int | None = None,
) -> NeckComparison:
    """Return size and speed of every neck with every fusion for one backbone, width, depth and input size.

    Sizes and times are those of the neck alone with its laterals. Times are measured in PyTorch on the CPU: each round
    runs every neck once on the same features, so that what else the machine does falls on all of them alike. Training
    takes the kernels that ``effdet train`` takes.

    Args:
        architecture: What stays the same; ``neck_repeats`` is that of a BiFPN, see ``with_neck``.
        necks: Which necks.
        fusions: Which fusions.
        runs: Measured rounds, after a warm-up of three.
        num_threads: Threads of PyTorch; None: its own choice.

    Raises:
        ValueError: If there is no neck or fusion, a number is below 1, or an architecture is impossible.
    """
    if num_threads is not None and num_threads < 1:
        raise ValueError(f"num_threads must be 1 or more, or None for PyTorch's own choice, got {num_threads}")
    if not necks or not fusions or runs < 1:
        raise ValueError(f"a comparison must have a neck, a fusion and a run, got {necks}, {fusions} and {runs}")
    pairs = [(neck, fusion) for neck in necks for fusion in fusions]
    if ("fpn", "sum") not in pairs:
        pairs.insert(0, ("fpn", "sum"))  # what all ratios refer to
    kinds = [with_neck(architecture, neck, fusion) for neck, fusion in pairs]
    costs = [neck_cost(kind) for kind in kinds]
    threads = num_threads or torch.get_num_threads()
    with torch_threads(threads):
        times, training_times = _neck_times(kinds, runs)
    base = pairs.index(("fpn", "sum"))
    rows = tuple(
        NeckRow(
            neck=kind.neck,
            fusion=kind.fusion,
            repeats=kind.neck_repeats,
            parameters=cost.parameters,
            macs=cost.macs,
            milliseconds=milliseconds,
            training_milliseconds=training,
            parameter_ratio=cost.parameters / costs[base].parameters,
            macs_ratio=cost.macs / costs[base].macs,
            time_ratio=milliseconds / times[base],
            paper_parameter_ratio=paper[0],
            paper_macs_ratio=paper[1],
            network=network_cost(kind),
        )
        for kind, cost, milliseconds, training in zip(kinds, costs, times, training_times, strict=True)
        for paper in [PAPER_RATIOS.get((kind.neck, kind.fusion), (None, None))]
    )
    return NeckComparison(architecture=architecture, threads=threads, runs=runs, rows=rows)


def neck_cost(architecture: Architecture) -> Cost:
    """Return what the neck of a network costs, laterals included; no tensor gets memory."""
    network, images = _network_on("meta", architecture)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.neck(network.backbone(images))
        counts = counter.get_flop_counts()
    macs = sum(counts[type(network.neck).__name__].values()) // 2  # a multiply-add counts as two
    return Cost(macs=macs, parameters=sum(p.numel() for p in network.neck.parameters()))


def _network_on(device: str, architecture: Architecture) -> tuple[Network, Tensor]:
    with torch.device(device):
        network = Network(architecture, 1, stochastic_depth=0.0).eval()
        return network, torch.zeros(1, architecture.in_channels, *architecture.image_size)


def _neck_times(kinds: Sequence[Architecture], runs: int) -> tuple[list[float], list[float]]:
    """Return the median milliseconds of each neck for one image: its forward pass, and a pass of training."""
    network, images = _network_on("cpu", kinds[0])
    with torch.no_grad():
        shapes = [x.shape[1:] for x in network.backbone(images)]
    features = [torch.randn(TRAINING_BATCH, *shape) for shape in shapes]
    necks = [_neck_for_training(kind) for kind in kinds]
    forward = median_times([_forward(neck.eval(), [x[:1] for x in features]) for neck in necks], runs)
    training = median_times([_forward_and_backward(neck.train(), features) for neck in necks], runs)
    return forward, [milliseconds / TRAINING_BATCH for milliseconds in training]


def _neck_for_training(architecture: Architecture) -> nn.Module:
    network, _ = _network_on("cpu", architecture)
    fuse_for_training(network)
    return network.neck


def _forward(neck: nn.Module, features: Sequence[Tensor]) -> Callable[[], Any]:
    @torch.inference_mode()
    def step() -> Any:
        return neck(features)

    return step


def _forward_and_backward(neck: nn.Module, features: Sequence[Tensor]) -> Callable[[], Any]:
    gradients = [torch.randn_like(x) for x in neck(features)]

    def step() -> None:
        neck.zero_grad()
        torch.autograd.backward(neck(features), gradients)

    return step


def median_times(steps: Sequence[Callable[[], Any]], runs: int) -> list[float]:
    """Return the median milliseconds of each step; every round runs all of them in turn, after three that do not count.

    Args:
        steps: What is measured.
        runs: Rounds that count.
    """
    milliseconds: list[list[float]] = [[] for _ in steps]
    for _ in range(WARMUP + runs):
        for step, times in zip(steps, milliseconds, strict=True):
            started = time.perf_counter()
            step()
            times.append(1000 * (time.perf_counter() - started))
    return [median(times[WARMUP:]) for times in milliseconds]
