"""How a list of anchors is laid out: its cells, their centres, and the pyramid levels."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

TOLERANCE = 0.01  # pixels by which the centres of a cell's anchors may differ


@dataclass(frozen=True)
class AnchorLayout:
    """Cells of a list of anchors; anchor ``per_cell``·c + a is the a-th of cell c."""

    per_cell: int  # A
    levels: tuple[slice, ...]  # the cells of each level, fine to coarse
    centres: Tensor  # (cells, 2) float32 x, y in pixels of the network input
    strides: Tensor  # (cells, 2) float32 distance of neighbouring cells of the level along x and y, in pixels

    def cells_inside(self, boxes: Tensor) -> Tensor:
        """Return which cells have their centre inside each of (r, 4) xyxy boxes, borders included: (r, cells) bool.

        A side that is shorter than the finest stride counts as that long, so that a small box between the centres has
        a cell too.
        """
        middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
        half = torch.maximum(half, self.strides[0] / 2)
        low, high = middle - half, middle + half  # (r, 2)
        x, y = self.centres.unbind(1)
        columns = (x >= low[:, :1]) & (x <= high[:, :1])  # (r, cells)
        return columns & (y >= low[:, 1:]) & (y <= high[:, 1:])

    def cells_near(self, boxes: Tensor, radius: float) -> Tensor:
        """Return which cells lie less than ``radius`` strides along x and y from each box's centre: (r, cells)."""
        middle = (boxes[:, :2] + boxes[:, 2:]) / 2
        reach = radius * self.strides
        x, y = ((self.centres[:, axis] - middle[:, axis, None]).abs() < reach[:, axis] for axis in (0, 1))
        return x & y


_known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def layout_of(anchors: Tensor) -> AnchorLayout:
    """Return the layout of anchors in the order of ``effdet.ops.anchors.make_anchors``.

    It is read from the anchors themselves, on the host, and remembered for as long as the tensor lives. Anchors with
    one centre that follow each other are a cell. A level ends where the next cell lies neither to the right of the cell
    before nor below it.

    Args:
        anchors: (N, 4) float32 xyxy pixels.
    """
    if anchors not in _known:
        _known[anchors] = _read_layout(anchors)
    layout: AnchorLayout = _known[anchors]
    return layout


def _read_layout(anchors: Tensor) -> AnchorLayout:
    boxes = anchors.cpu().double()
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    elsewhere = ((centres - centres[:1]).abs() > TOLERANCE).any(dim=1).nonzero()
    per_cell = int(elsewhere[0]) if len(elsewhere) else max(1, len(anchors))
    if len(anchors) % per_cell:
        per_cell = 1
    cells = centres[::per_cell]
    right, below = ((cells[1:] - cells[:-1]) > TOLERANCE).unbind(1)
    same_row = (cells[1:, 1] - cells[:-1, 1]).abs() <= TOLERANCE
    starts = [0, *((~(below | (right & same_row))).nonzero().flatten() + 1).tolist(), len(cells)]
    levels = tuple(slice(a, b) for a, b in itertools.pairwise(starts) if b > a)
    strides = torch.ones_like(cells)
    before = torch.full((2,), 1.0, dtype=cells.dtype)
    for level in levels:
        before = strides[level] = _stride(cells[level], before * 2)
    return AnchorLayout(per_cell, levels, *(x.float().to(anchors.device) for x in (cells, strides)))


def _stride(cells: Tensor, unknown: Tensor) -> Tensor:
    """Return the distance of neighbours along x and y, (2,), of a level's (cells, 2) centres.

    Where there is one column or one row, it is that of the other axis; for a single cell it is ``unknown``.
    """
    first, last = cells.amin(dim=0), cells.amax(dim=0)
    columns = int(((cells[:, 1] - first[1]).abs() <= TOLERANCE).sum())
    counts = torch.tensor([columns, len(cells) // columns])
    steps = (last - first) / (counts - 1).clamp(min=1)
    return torch.where(counts > 1, steps, torch.where(counts.flip(0) > 1, steps.flip(0), unknown))
