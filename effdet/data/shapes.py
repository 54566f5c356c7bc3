"""Draw shapes on cluttered backgrounds: the pictures of the demo set, with their boxes.

The class depends only on the shape, not on colour, texture, size, place or rotation. A box is the smallest one around
the visible pixels of its object.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

# Category ids have gaps, as in many data sets, so that every run maps ids to labels and back.
CATEGORIES = {2: "circle", 3: "ring", 5: "rectangle", 8: "star", 13: "triangle"}

_MAX_OVERLAP = 0.15  # of the smaller of two boxes
_EXTENTS = (0.13, 0.55)  # of the image's shorter side
_OVERSAMPLING = 4  # of the masks, per axis


@dataclass(frozen=True)
class Scene:
    """One picture with its visible objects."""

    image: np.ndarray  # (H, W, 3) uint8 RGB
    owner: np.ndarray  # (H, W) int32: number of the object that is visible in a pixel, -1 for the background
    category_ids: tuple[int, ...]  # M


def draw_scene(rng: np.random.Generator, size: tuple[int, int], category_ids: tuple[int, ...]) -> Scene:
    """Draw shapes of the given categories, in this order, on a cluttered background.

    A shape is left out if there is no free place for it.

    Args:
        rng: Source of everything random. The background does not depend on the shapes.
        size: (height, width) in pixels.
        category_ids: Keys of ``CATEGORIES``.
    """
    background_rng, shape_rng = rng.spawn(2)
    canvas, grain = _background(background_rng, size)
    owner = np.full(size, -1, np.int32)
    boxes: list[tuple[int, int, int, int]] = []
    drawn: list[int] = []
    for category_id in category_ids:
        extent = _random_extent(shape_rng, size)
        fill, edge = _masks(_contours(shape_rng, CATEGORIES[category_id]), extent, edge=shape_rng.random() < 0.5)
        place = _find_place(shape_rng, fill.shape[0], size, boxes)
        if place is None:
            continue
        _paint(canvas, owner, len(drawn), place, fill, edge, shape_rng)
        boxes.append((*place, place[0] + fill.shape[0], place[1] + fill.shape[1]))
        drawn.append(category_id)
    image = np.clip(canvas + grain, 0, 255).astype(np.uint8)
    return Scene(image, owner, tuple(drawn))


def annotate(scene: Scene) -> list[dict[str, Any]]:
    """Return the COCO annotations, without ids, of the visible objects; ``bbox`` (x, y, w, h) is in whole pixels."""
    rows = []
    for number, category_id in enumerate(scene.category_ids):
        seen = scene.owner == number
        columns, lines = np.flatnonzero(seen.any(axis=0)), np.flatnonzero(seen.any(axis=1))
        if len(columns) == 0:
            continue
        x, y = int(columns[0]), int(lines[0])
        bbox = [x, y, int(columns[-1]) + 1 - x, int(lines[-1]) + 1 - y]
        rows.append({"category_id": category_id, "bbox": bbox, "area": int(seen.sum()), "iscrowd": 0})
    return rows


# --- shapes --------------------------------------------------------------------------------------------------------


def _contours(rng: np.random.Generator, name: str) -> list[np.ndarray]:
    """Return the outlines of a shape, each (n, 2) float64 x, y, turned by a random angle; the second one is a hole."""
    if name == "circle":
        outlines = [_polygon(64)]
    elif name == "ring":
        outlines = [_polygon(64), _polygon(64) * rng.uniform(0.5, 0.65)]
    elif name == "triangle":
        outlines = [_polygon(3, jitter=rng.uniform(-0.25, 0.25, 3))]
    elif name == "star":
        radii = np.where(np.arange(10) % 2 == 0, 1.0, rng.uniform(0.38, 0.5))
        outlines = [_polygon(10) * radii[:, None]]
    else:
        outlines = [_polygon(4, jitter=np.full(4, np.pi / 4)) * [1.0, rng.uniform(0.5, 1.0)]]
    angle = rng.uniform(0, 2 * np.pi)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    return [outline @ turn for outline in outlines]


def _polygon(corners: int, jitter: np.ndarray | float = 0.0) -> np.ndarray:
    """Return (corners, 2) points x, y on the unit circle, each moved along it by ``jitter`` radians."""
    angles = np.arange(corners) * 2 * np.pi / corners + jitter
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


def _masks(contours: list[np.ndarray], extent: float, *, edge: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return how much of each pixel the shape and its outline cover, two (P, P) float32 in [0, 1].

    The longer side of the shape's box is ``extent`` pixels; P is a little more.
    """
    low, high = contours[0].min(axis=0), contours[0].max(axis=0)
    scale, centre = extent / (high - low).max(), (low + high) / 2
    side = int(extent) + 3
    fine = side * _OVERSAMPLING
    points = [(((c - centre) * scale + side / 2) * _OVERSAMPLING).round().astype(np.int32) for c in contours]
    fill = cv2.fillPoly(np.zeros((fine, fine), np.uint8), points, 255)
    if not edge:
        return _shrink(fill, side), np.zeros((side, side), np.float32)
    thickness = max(2, round(extent * 0.05)) * _OVERSAMPLING
    line = cv2.polylines(np.zeros((fine, fine), np.uint8), points, True, 255, thickness)
    return _shrink(fill, side), _shrink(np.minimum(line, fill), side)


def _shrink(mask: np.ndarray, side: int) -> np.ndarray:
    return cv2.resize(mask, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def _random_extent(rng: np.random.Generator, size: tuple[int, int]) -> float:
    """Return the longer side of a shape in pixels, log-uniform: small ones are as frequent as large ones."""
    low, high = np.log(_EXTENTS)
    return float(np.exp(rng.uniform(low, high))) * min(size)


def _find_place(
    rng: np.random.Generator, side: int, size: tuple[int, int], boxes: list[tuple[int, int, int, int]]
) -> tuple[int, int] | None:
    """Return (row, column) of the upper left corner of a patch, or None when the picture is full."""
    beyond = side // 4 if rng.random() < 0.15 else 0  # some shapes are cut off by the border
    for _ in range(40):
        row = int(rng.integers(-beyond, size[0] - side + beyond + 1))
        column = int(rng.integers(-beyond, size[1] - side + beyond + 1))
        if all(_overlap((row, column, row + side, column + side), box) <= _MAX_OVERLAP for box in boxes):
            return row, column
    return None


def _overlap(a: tuple[int, int, int, int], b: tuple[int, int, int, int]) -> float:
    """Return the intersection of two boxes (row, column, row, column) over the area of the smaller one."""
    height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(height, 0) * max(width, 0) / smaller


def _paint(
    canvas: np.ndarray,
    owner: np.ndarray,
    number: int,
    place: tuple[int, int],
    fill: np.ndarray,
    edge: np.ndarray,
    rng: np.random.Generator,
) -> None:
    """Blend a textured shape into the canvas, in place; write its number to pixels that it covers by half or more."""
    row, column = max(place[0], 0), max(place[1], 0)
    inside = (
        slice(row - place[0], min(fill.shape[0], canvas.shape[0] - place[0])),
        slice(column - place[1], min(fill.shape[1], canvas.shape[1] - place[1])),
    )
    fill, edge = fill[inside], edge[inside]
    target = (slice(row, row + fill.shape[0]), slice(column, column + fill.shape[1]))
    behind = canvas[target]

    mean = (behind * fill[..., None]).sum(axis=(0, 1)) / fill.sum()
    color = _distinct_color(rng, mean)
    paint = _texture(rng, fill.shape, color)
    paint += edge[..., None] * (color * 0.35 - paint)
    behind += fill[..., None] * (paint - behind)
    owner[target][fill >= 0.5] = number


# --- paint ---------------------------------------------------------------------------------------------------------


def _random_color(rng: np.random.Generator) -> np.ndarray:
    """Return a (3,) float32 RGB colour; muted and vivid ones, neither black nor white."""
    hsv = np.array([[[rng.integers(180), rng.integers(40, 230), rng.integers(70, 245)]]], np.uint8)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)[0, 0].astype(np.float32)


def _distinct_color(rng: np.random.Generator, other: np.ndarray) -> np.ndarray:
    """Return the first random colour that is far enough from another one, or the last of many."""
    for _ in range(50):
        color = _random_color(rng)
        if np.linalg.norm(color - other) > 100:
            break
    return color


def _texture(rng: np.random.Generator, shape: tuple[int, ...], color: np.ndarray) -> np.ndarray:
    """Return a (h, w, 3) float32 texture of two shades: plain, gradient, stripes, checks or speckles."""
    v, u = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    angle, period = rng.uniform(0, np.pi), rng.uniform(7, 14)
    along, across = u * np.cos(angle) + v * np.sin(angle), v * np.cos(angle) - u * np.sin(angle)
    kind = rng.choice(["plain", "gradient", "stripes", "checks", "speckles"])
    if kind == "gradient":
        mix = (along - along.min()) / max(np.ptp(along), 1)
    elif kind == "stripes":
        mix = np.sin(along * 2 * np.pi / period) > 0
    elif kind == "checks":
        mix = (np.sin(along * 2 * np.pi / period) > 0) ^ (np.sin(across * 2 * np.pi / period) > 0)
    elif kind == "speckles":
        mix = rng.random(shape, dtype=np.float32)
    else:
        mix = np.zeros(shape, np.float32)
    shade = color * rng.uniform(0.6, 0.8) if color.mean() > 110 else color + rng.uniform(30, 55)
    return (color + mix.astype(np.float32)[..., None] * (shade - color)).astype(np.float32)


def _background(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return (H, W, 3) float32 background without grain, and the grain to add once the shapes are drawn."""
    height, width = size
    base = _random_color(rng)
    corners = np.stack([base * 0.45 + _random_color(rng) * 0.25 + 50 for _ in range(4)]).reshape(2, 2, 3)
    canvas = cv2.resize(corners, (width, height), interpolation=cv2.INTER_LINEAR)  # a gradient between four colours
    blotches = rng.normal(0, 16, (9, 9)).astype(np.float32)
    canvas = canvas + cv2.resize(blotches, (width, height), interpolation=cv2.INTER_CUBIC)[..., None]
    scribbled = np.clip(canvas, 0, 255).astype(np.uint8)  # cv2 draws smooth lines only on uint8
    for _ in range(int(rng.integers(3, 10))):
        _scribble(rng, scribbled)
    grain = rng.standard_normal((height, width, 1), np.float32) * rng.uniform(2, 7)
    return scribbled.astype(np.float32), grain


def _scribble(rng: np.random.Generator, canvas: np.ndarray) -> None:
    """Draw a distractor, in place: a line, a zigzag, an open arc or a letter; never a filled or closed shape."""
    height, width = canvas.shape[:2]
    color = tuple(map(float, _random_color(rng)))
    thickness = int(rng.integers(1, 4))
    x, y = int(rng.integers(width)), int(rng.integers(height))
    kind = rng.choice(["line", "zigzag", "arc", "letter"])
    if kind == "line":
        end = (int(rng.integers(width)), int(rng.integers(height)))
        cv2.line(canvas, (x, y), end, color, thickness, cv2.LINE_AA)
    elif kind == "zigzag":
        points = np.array([x, y]) + np.cumsum(rng.integers(-30, 31, (6, 2)), axis=0)
        cv2.polylines(canvas, [points.astype(np.int32)], False, color, thickness, cv2.LINE_AA)
    elif kind == "arc":
        axes, start = (int(rng.integers(12, 70)), int(rng.integers(12, 70))), float(rng.uniform(0, 360))
        sweep = float(rng.uniform(40, 170))
        cv2.ellipse(canvas, (x, y), axes, 0, start, start + sweep, color, thickness, cv2.LINE_AA)
    else:
        letter, size = str(rng.choice(list("EFHKLMNSTXYZ257"))), float(rng.uniform(0.6, 2.2))
        cv2.putText(canvas, letter, (x, y), cv2.FONT_HERSHEY_SIMPLEX, size, color, thickness, cv2.LINE_AA)
