"""Boxes around the shapes that labelling tools draw: turned rectangles, ellipses, polygons and circles."""

from __future__ import annotations

import math
from collections.abc import Sequence

Box = tuple[float, float, float, float]  # x, y, width, height


def box_around(points: Sequence[tuple[float, float]]) -> Box | None:
    """Return the box around points; None without any."""
    if not points:
        return None
    xs, ys = [x for x, _ in points], [y for _, y in points]
    return min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)


def turned_rectangle(corner: tuple[float, float], sides: tuple[float, float], degrees: float) -> Box:
    """Return the box around a rectangle that is turned clockwise about its top left corner.

    Args:
        corner: x, y of that corner.
        sides: Width and height before it is turned.
        degrees: Angle; y points down.
    """
    if degrees % 360 == 0:
        return (*corner, *sides)
    turn = math.radians(degrees)
    along, down = (math.cos(turn), math.sin(turn)), (-math.sin(turn), math.cos(turn))
    points = [
        (
            corner[0] + u * sides[0] * along[0] + v * sides[1] * down[0],
            corner[1] + u * sides[0] * along[1] + v * sides[1] * down[1],
        )
        for u in (0, 1)
        for v in (0, 1)
    ]
    return box_around(points) or (*corner, 0.0, 0.0)


def turned_ellipse(centre: tuple[float, float], radii: tuple[float, float], degrees: float) -> Box:
    """Return the box around an ellipse that is turned about its centre.

    Its half sides are √(a² cos² φ + b² sin² φ) and √(a² sin² φ + b² cos² φ).

    Args:
        centre: x, y.
        radii: a and b.
        degrees: φ.
    """
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    half_width, half_height = math.hypot(radii[0] * cos, radii[1] * sin), math.hypot(radii[0] * sin, radii[1] * cos)
    return centre[0] - half_width, centre[1] - half_height, 2 * half_width, 2 * half_height
