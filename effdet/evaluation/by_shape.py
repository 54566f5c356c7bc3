"""AP, and what anchors reach, by the size and the shape of the objects."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from effdet.evaluation.average_precision import mean_ap, measured_aps
from effdet.evaluation.matching import Matches

SIZES = (0.0, 16.0, 32.0, 64.0, 96.0, 128.0, 256.0, math.inf)  # √(width · height), pixels of the image
RATIOS = (0.0, 1 / 3, 1 / 2, 2 / 3, 3 / 2, 2.0, 3.0, math.inf)  # width / height


@dataclass(frozen=True, kw_only=True)
class Group:
    """Boxes whose size or shape lies in [low, high)."""

    low: float
    high: float  # may be infinite
    num_boxes: int
    ap50: float | None  # mean over the classes that have such boxes; None without boxes
    recall: float | None  # part of the boxes that a detection of any score found


def by_size(matches: Matches) -> tuple[Group, ...]:
    """Return the groups of ``SIZES``, whose sides are √(width · height) in pixels of the image."""
    found, true = (np.sqrt(boxes[:, 2:].prod(axis=1)) for boxes in (matches.boxes, matches.true_boxes))
    return _groups(matches, found, true, SIZES)


def by_aspect_ratio(matches: Matches) -> tuple[Group, ...]:
    """Return the groups of ``RATIOS``, width / height."""
    found, true = (boxes[:, 2] / np.maximum(boxes[:, 3], 1e-9) for boxes in (matches.boxes, matches.true_boxes))
    return _groups(matches, found, true, RATIOS)


def recall_by_size(
    sizes: NDArray[np.float64], is_reached: NDArray[np.bool_], edges: Sequence[float] = SIZES
) -> tuple[tuple[float, float, int, float | None], ...]:
    """Return (low, high, boxes, part of them that is reached) of each group; None for a group without boxes."""
    rows = []
    for low, high in pairwise(edges):
        chosen = (sizes >= low) & (sizes < high)
        rows.append((low, high, int(chosen.sum()), float(is_reached[chosen].mean()) if chosen.any() else None))
    return tuple(rows)


def _groups(
    matches: Matches, values: NDArray[np.float64], true_values: NDArray[np.float64], edges: Sequence[float]
) -> tuple[Group, ...]:
    """Return the groups; a false detection belongs to that of its own size, a true one to that of its box."""
    groups = []
    for low, high in pairwise(edges):
        chosen = (true_values >= low) & (true_values < high)
        outside = ~matches.is_true & ((values < low) | (values >= high))
        count = int((chosen & ~matches.is_crowd).sum())
        groups.append(
            Group(
                low=low,
                high=high,
                num_boxes=count,
                ap50=mean_ap(measured_aps(matches, chosen, ~outside)) if count else None,
                recall=float(matches.is_found[chosen & ~matches.is_crowd].mean()) if count else None,
            )
        )
    return tuple(groups)
