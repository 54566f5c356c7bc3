"""The reward of MnasNet: one number for how accurate a network is and how much it costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Reward:
    """ACC · (LAT / TAR)^w, where w is α up to the target and β above it (MnasNet, equations 2 and 3).

    With α = β = −0.07 the target is soft: twice the cost is worth 5 % more accuracy, as 2^0.07 = 1.05. MobileNetV3 used
    −0.15 for its small models. With α = 0 and β = −1 it is hard: below the target only accuracy counts, and above it
    the reward falls in proportion to the cost.

    Raises:
        ValueError: If the target is not positive, or an exponent is positive or not finite.
    """

    target: float  # TAR, in the unit of the cost
    alpha: float = -0.07
    beta: float = -0.07

    def __post_init__(self) -> None:
        if not 0 < self.target < math.inf:
            raise ValueError(f"the target of a search must be a positive number, got {self.target}")
        for name in ("alpha", "beta"):
            value = getattr(self, name)
            if not -math.inf < value <= 0:
                raise ValueError(f"the exponent {name} must be 0 or negative, such as -0.07, got {value}")

    def __call__(self, accuracy: float, cost: float) -> float:
        """Return the reward.

        Args:
            accuracy: ACC, such as AP in [0, 1].
            cost: LAT, positive, in the unit of the target.
        """
        exponent = self.alpha if cost <= self.target else self.beta
        return float(accuracy * (cost / self.target) ** exponent)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the indices of the points that no other point beats, cheapest first.

    A point beats another if it is at least as accurate and at most as expensive, and not equal in both. Of equal points
    the first is returned.

    Args:
        points: (accuracy, cost) of each.
    """
    order = sorted(range(len(points)), key=lambda index: (points[index][1], -points[index][0]))
    front: list[int] = []
    for index in order:
        if not front or points[index][0] > points[front[-1]][0]:
            front.append(index)
    return front
