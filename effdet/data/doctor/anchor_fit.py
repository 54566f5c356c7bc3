"""How well the anchors of a network fit the boxes of a split, and which ones would fit better."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset, clip_boxes
from effdet.data.doctor.box_checks import namer
from effdet.data.findings import Finding, Severity, found_at
from effdet.images.preprocessing import Fit
from effdet.ops.anchors import level_sizes

Array = NDArray[Any]

REACHED = 0.5  # IoU from which an anchor counts as a match
MAX_BOXES = 20_000  # compared with the anchors, spread over the set

_TINY = 4.0  # pixels of the network input, shorter side
_MANY = 0.05  # of the boxes
_BETTER = 0.02  # of the boxes: other anchors must reach that many more to be suggested
_SCALES = (1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, 5.0, 6.0)  # anchor_scale that are tried
_SPREADS = (1.0, 0.75, 1.33)  # of the ratios around those of the boxes


@dataclass(frozen=True, kw_only=True)
class Network:
    """What the doctor has to know of the network that will be trained; fields as in ``effdet.Architecture``."""

    name: str  # for messages
    image_size: tuple[int, int]  # input, height and width
    fit: Fit = "letterbox"
    min_level: int = 3
    max_level: int = 7
    anchor_scale: float = 4.0
    scales_per_octave: int = 3
    aspect_ratios: tuple[tuple[float, float], ...]
    max_detections: int = 100


@dataclass(frozen=True)
class AnchorFit:
    """How many boxes some anchor reaches with IoU 0.5."""

    recall: float  # best possible recall: part of the boxes, in [0, 1]
    num_boxes: int  # that were compared
    suggestion: dict[str, Any]  # keys of model.architecture; empty: no other anchors are much better
    suggested_recall: float  # with these

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, ready for JSON."""
        return {
            "best_possible_recall": round(self.recall, 4),
            "boxes": self.num_boxes,
            "suggestion": self.suggestion,
            "suggested_recall": round(self.suggested_recall, 4),
        }

    def overrides(self) -> str:
        """Return the suggestion as arguments of a training command."""
        texts = (f"model.architecture.{key}={value}".replace(" ", "") for key, value in self.suggestion.items())
        return " ".join(texts)


def boxes_in_input(dataset: Dataset, network: Network) -> tuple[Array, Array]:
    """Return the rows of the boxes that training learns, (M,), and these boxes in pixels of the network input.

    Returns:
        (M,) row numbers and (M, 4) float64 x, y, width, height, clipped to their image.
    """
    sizes = dataset.sizes[dataset.image_of_box]
    clipped, has_area = clip_boxes(dataset.boxes_xywh, sizes)
    rows = np.flatnonzero((sizes > 0).all(axis=1) & has_area & ~dataset.is_crowd)
    scales = np.array(network.image_size) / sizes[rows]  # along y and x
    if network.fit == "letterbox":
        scales = np.repeat(scales.min(axis=1, keepdims=True), 2, axis=1)
    corners = clipped[rows] * scales[:, [1, 0, 1, 0]]
    return rows, np.concatenate([corners[:, :2], corners[:, 2:] - corners[:, :2]], axis=1)


def check_network_input(dataset: Dataset, network: Network) -> Iterator[Finding]:
    """Compare the boxes, brought into the network input, with its pixels."""
    rows, boxes = boxes_in_input(dataset, network)
    size = f"{network.image_size[0]}×{network.image_size[1]}"
    tiny = rows[boxes[:, 2:].min(axis=1, initial=math.inf) < _TINY] if len(rows) else rows
    text = f"boxes are narrower than {_TINY:g} pixels once the image is resized to {size}"
    severity: Severity = "warning" if len(tiny) > _MANY * len(rows) else "note"
    advice = (
        "hardly anything is left of them: raise data.image_size or data.max_long_side, or cut the images into tiles"
    )
    yield from found_at(severity, text, tiny, namer(dataset), advice)


def check_anchors(dataset: Dataset, network: Network) -> tuple[list[Finding], AnchorFit | None]:
    """Return what is to be said about the boxes that no anchor reaches, and the numbers; None without boxes."""
    rows, boxes = boxes_in_input(dataset, network)
    if not len(rows):
        return [], None
    sample = np.unique(np.linspace(0, len(rows) - 1, MAX_BOXES).astype(int))
    overlap = best_overlap(boxes[sample], network)
    missed = np.flatnonzero(overlap < REACHED)
    recall = 1 - len(missed) / len(sample)
    suggestion, better = suggest_anchors(boxes[sample], network) if len(missed) else ({}, recall)
    if better < recall + _BETTER:
        suggestion, better = {}, recall
    fit = AnchorFit(recall, len(sample), suggestion, better)
    name = namer(dataset)
    places = [(int(rows[sample[place]]), float(overlap[place])) for place in missed.tolist()]
    text = (
        f"of {len(sample):,} boxes, these are reached by no anchor of {network.name} with IoU {REACHED} at "
        f"{network.image_size[0]}×{network.image_size[1]} (best possible recall {recall:.1%})"
    )
    severity: Severity = "warning" if len(missed) > _MANY * len(sample) else "note"
    examples = found_at(severity, text, places, lambda place: f"{name(place[0])}, IoU {place[1]:.2f}", _advice(fit))
    return examples, fit


def _advice(fit: AnchorFit) -> str:
    if not fit.suggestion:
        return "each still gets its best anchor; a larger data.image_size helps where these boxes are small"
    return f"{fit.suggested_recall:.1%} are reached with {fit.overrides()}, which training then learns anew"


def best_overlap(boxes: Array, network: Network) -> Array:
    """Return (M,) the IoU of each box with its best anchor, without making all anchors.

    The IoU with anchors of one shape falls with the distance of the centres along each axis. So only the nearest cell
    of each level has to be looked at, with all its shapes.

    Args:
        boxes: (M, 4) x, y, width, height in pixels of the network input.
        network: Its input and anchors.
    """
    best = np.zeros(len(boxes))
    centres, sides = boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]
    shapes = _shapes(network)  # (A, 2) width, height in strides
    for cells in level_sizes(network.image_size, network.min_level, network.max_level):
        stride = np.array([network.image_size[1] / cells[1], network.image_size[0] / cells[0]])
        nearest = np.clip(np.floor(centres / stride), 0, np.array(cells)[::-1] - 1)
        distance = np.abs(centres - (nearest + 0.5) * stride)  # (M, 2)
        anchors = shapes * stride
        shared = np.minimum((sides[:, None] + anchors) / 2 - distance[:, None], np.minimum(sides[:, None], anchors))
        overlap = np.clip(shared, 0, None).prod(axis=2)  # (M, A)
        union = sides.prod(axis=1)[:, None] + anchors.prod(axis=1) - overlap
        best = np.maximum(best, (overlap / union).max(axis=1))
    return best


def _shapes(network: Network) -> Array:
    octaves = 2.0 ** (np.arange(network.scales_per_octave) / network.scales_per_octave)
    return (network.anchor_scale * octaves[:, None, None] * np.array(network.aspect_ratios)).reshape(-1, 2)


def suggest_anchors(boxes: Array, network: Network) -> tuple[dict[str, Any], float]:
    """Return the ``anchor_scale`` and ``aspect_ratios`` that reach most boxes, and which part of them.

    As many ratios as the network has are tried: those of the boxes (the middle of as many groups of equal size, by
    width / height), drawn together and apart, and the network's own; each with every scale. So the heads keep their
    size. The network's own values are kept where others are no better.

    Args:
        boxes: (M, 4) x, y, width, height in pixels of the network input.
        network: Its input and anchors.
    """
    sample = boxes[np.unique(np.linspace(0, len(boxes) - 1, 2000).astype(int))]
    own = network.aspect_ratios
    candidates = [(network.anchor_scale, own), *itertools.product(_SCALES, [own, *_ratios_of(boxes, len(own))])]

    def reach(candidate: tuple[float, Sequence[tuple[float, float]]]) -> float:
        other = replace(network, anchor_scale=candidate[0], aspect_ratios=tuple(candidate[1]))
        overlap = best_overlap(sample, other)
        return float((overlap >= REACHED).mean() + 1e-3 * overlap.mean())  # of equals, the one that fits better

    scale, ratios = max(candidates, key=reach)  # the first of equals
    chosen = replace(network, anchor_scale=scale, aspect_ratios=tuple(ratios))
    suggestion: dict[str, Any] = {} if scale == network.anchor_scale else {"anchor_scale": scale}
    if ratios != own:
        suggestion["aspect_ratios"] = [round(width / height, 2) for width, height in ratios]
    return suggestion, float((best_overlap(boxes, chosen) >= REACHED).mean())


def _ratios_of(boxes: Array, count: int) -> list[tuple[tuple[float, float], ...]]:
    """Return sets of ``count`` (width, height) factors around the shapes of the boxes."""
    logs = np.sort(np.log(boxes[:, 2] / boxes[:, 3]))
    middles = np.quantile(logs, (np.arange(count) + 0.5) / count)
    sets = []
    for spread in _SPREADS:
        spreaded = np.exp(np.median(middles) + spread * (middles - np.median(middles))).round(2).clip(0.05, 20)
        sets.append(tuple((math.sqrt(ratio), 1 / math.sqrt(ratio)) for ratio in spreaded.tolist()))
    return sets
