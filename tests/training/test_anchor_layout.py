import pytest
import torch

from effdet.ops.anchors import level_sizes, make_anchors
from effdet.training.anchor_layout import layout_of


@pytest.mark.parametrize("size", [(64, 64), (320, 416), (96, 32), (500, 333), (8, 8), (1280, 1280)])
def test_cells_and_levels_are_those_the_anchors_were_made_of(size):
    sizes = level_sizes(size, 3, 7)
    layout = layout_of(make_anchors(size, sizes))
    cells = [rows * columns for rows, columns in sizes]
    if size == (8, 8):  # all levels have one cell, at one place: they count as one
        assert (layout.per_cell, len(layout.centres)) == (45, 1)
        return
    assert layout.per_cell == 9
    assert [level.stop - level.start for level in layout.levels] == cells
    for level, (rows, columns) in zip(layout.levels, sizes, strict=True):
        if rows > 1 and columns > 1:
            expected = torch.tensor([size[1] / columns, size[0] / rows]).expand(rows * columns, 2)
            torch.testing.assert_close(layout.strides[level], expected, rtol=1e-4, atol=0)
            torch.testing.assert_close(layout.centres[level][0], expected[0] / 2, rtol=1e-4, atol=0)


def test_a_level_of_one_cell_counts_as_twice_as_coarse_as_the_one_before():
    layout = layout_of(make_anchors((64, 64), level_sizes((64, 64), 3, 7)))
    assert layout.strides[[level.start for level in layout.levels], 0].tolist() == [8, 16, 32, 64, 128]


def test_anchors_that_are_no_grid_are_cells_of_their_own():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [5, 0, 15, 10]])
    assert layout_of(anchors).per_cell == 1
    assert layout_of(anchors[:0]).centres.shape == (0, 2)


def test_the_layout_is_read_once():
    anchors = make_anchors((64, 64), level_sizes((64, 64), 3, 7))
    assert layout_of(anchors) is layout_of(anchors)
    assert layout_of(anchors) is not layout_of(anchors.clone())


def test_a_small_box_between_the_centres_has_a_cell_all_the_same():
    layout = layout_of(make_anchors((64, 64), level_sizes((64, 64), 3, 3)))  # centres at 4, 12, 20, …
    boxes = torch.tensor([[7.0, 9, 8, 10], [2, 2, 13, 13], [100, 0, 110, 10]])
    inside = layout.cells_inside(boxes)
    assert [layout.centres[row].tolist() for row in inside] == [
        [[4, 12]],
        [[4, 4], [12, 4], [4, 12], [12, 12]],
        [],
    ]
