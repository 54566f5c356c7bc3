"""Tiles of an image, and NMS between them."""

import itertools

import numpy as np
import pytest
import torch
from torchvision.ops import batched_nms, box_iou

from effdet.ops import tiles as tiles_module
from effdet.ops.tiles import Tiles, tiles_from_dict


def found(*rows):
    """Rows (x1, y1, x2, y2, label, score) as boxes, labels, scores."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return table[:, :4], table[:, 4].long(), table[:, 5]


def merge_tiles(parts, *arguments, **settings):
    arrays = [[column.numpy() for column in part] for part in parts]
    return [torch.from_numpy(column) for column in tiles_module.merge_tiles(arrays, *arguments, **settings)]


def test_tiles_of_a_small_image_typed_by_hand():
    boxes = Tiles(size=(60, 100), overlap=0.25).boxes((100, 240))  # steps of at most 45 and 75
    assert boxes.tolist() == [
        [0, 0, 100, 60],
        [70, 0, 170, 60],
        [140, 0, 240, 60],
        [0, 40, 100, 100],
        [70, 40, 170, 100],
        [140, 40, 240, 100],
    ]


@pytest.mark.parametrize("size", [(1, 1), (479, 640), (480, 641), (3000, 4000), (37, 5000)])
@pytest.mark.parametrize("overlap", [0, 0.2, 0.5, 0.9])
def test_tiles_cover_every_pixel_and_overlap_as_asked(size, overlap):
    tiles = Tiles(size=(480, 640), overlap=overlap)
    boxes = tiles.boxes(size)
    assert (boxes[:, :2] >= 0).all()
    assert boxes[:, 3].max() == size[0]
    assert boxes[:, 2].max() == size[1]
    for axis, side in ((0, size[1]), (1, size[0])):
        tile = min(side, tiles.size[1 - axis])
        starts = sorted(set(boxes[:, axis].tolist()))
        assert starts[0] == 0
        assert set((boxes[:, axis + 2] - boxes[:, axis]).tolist()) == {tile}
        for first, second in itertools.pairwise(starts):
            assert first + tile - second >= np.floor(overlap * tile) - 1  # starts are whole pixels


def test_nothing_is_cut_where_the_image_is_no_larger_than_a_tile():
    assert Tiles(size=(100, 100)).boxes((100, 90)).tolist() == [[0, 0, 90, 100]]


def test_a_single_tile_changes_nothing():
    """Not even boxes that overlap, which soft-NMS leaves."""
    boxes, labels, scores = found((0, 0, 50, 50, 0, 0.9), (0, 0, 50, 49, 0, 0.4), (0, 0, 50, 50, 1, 0.2))
    merged = merge_tiles([(boxes, labels, scores)], np.array([[0, 0, 60, 60]]), (60, 60), iou_threshold=0.5)
    for got, expected in zip(merged, (boxes, labels, scores), strict=True):
        assert torch.equal(got, expected)


def test_one_object_in_two_tiles_is_reported_once_and_other_classes_are_kept():
    tiles = np.array([[0, 0, 100, 100], [60, 0, 160, 100]])
    left = found((65, 10, 90, 40, 0, 0.8), (65, 10, 90, 40, 1, 0.3))
    right = found((6, 11, 31, 41, 0, 0.9))  # the first object, a pixel off
    boxes, labels, scores = merge_tiles([left, right], tiles, (100, 160), iou_threshold=0.5)
    assert boxes.tolist() == [[66, 11, 91, 41], [65, 10, 90, 40]]
    assert (labels.tolist(), scores.tolist()) == ([0, 1], pytest.approx([0.9, 0.3]))
    agnostic, _, _ = merge_tiles([left, right], tiles, (100, 160), iou_threshold=0.5, class_agnostic=True)
    assert len(agnostic) == 1


def test_the_piece_of_a_cut_object_gives_way_to_the_whole_one():
    """The piece has the better score, and an IoU of 0.25 with the whole object, which plain NMS would keep."""
    tiles = np.array([[0, 0, 100, 100], [60, 0, 160, 100]])
    piece, whole = (90, 20, 100, 60, 0, 0.9), (30, 20, 70, 60, 0, 0.6)
    boxes, _, scores = merge_tiles([found(piece), found(whole)], tiles, (100, 160), iou_threshold=0.5)
    assert (boxes.tolist(), scores.tolist()) == ([[90, 20, 130, 60]], pytest.approx([0.6]))


def test_a_box_at_the_edge_of_the_image_is_not_cut():
    tiles = np.array([[0, 0, 100, 100], [60, 0, 160, 100]])
    at_edge, other = (0, 20, 10, 60, 0, 0.9), (30, 20, 70, 60, 0, 0.6)
    boxes, _, scores = merge_tiles([found(at_edge), found(other)], tiles, (100, 160), iou_threshold=0.5)
    assert len(boxes) == 2
    assert scores.tolist() == pytest.approx([0.9, 0.6])


def test_boxes_far_from_all_edges_are_merged_as_by_torchvision():
    """Each tile has one box of a place, so NMS between tiles is NMS between all."""
    generator = torch.Generator().manual_seed(0)
    tiles = np.array([[0, 0, 400, 400]] * 12)  # tiles as large as the image: no edge is an inner one
    centres = torch.rand(12, 6, 2, generator=generator) * 300 + 50
    sides = torch.rand(12, 6, 2, generator=generator) * 60 + 5
    parts = []
    for number in range(12):
        boxes = torch.cat([centres[number] - sides[number] / 2, centres[number] + sides[number] / 2], dim=1)
        labels = torch.randint(0, 2, (6,), generator=generator)
        apart = torch.ones(6, dtype=torch.bool)
        for index in range(6):  # within a tile, boxes do not overlap
            earlier = box_iou(boxes[index : index + 1], boxes[:index][apart[:index]])
            apart[index] = not (earlier > 0.3).any()
        parts.append((boxes[apart], labels[apart], torch.rand(int(apart.sum()), generator=generator)))
    boxes, labels, scores = (torch.cat(column) for column in zip(*parts, strict=True))
    expected = batched_nms(boxes, scores, labels, 0.3)
    merged = merge_tiles(parts, tiles, (400, 400), iou_threshold=0.3)
    assert 20 < len(expected) < len(boxes)
    for got, column in zip(merged, (boxes, labels, scores), strict=True):
        assert torch.equal(got, column[expected])


def test_nothing_found_is_nothing_merged():
    boxes, labels, scores = merge_tiles([found(), found()], np.array([[0, 0, 9, 9]] * 2), (9, 9), iou_threshold=0.5)
    assert (boxes.shape, len(labels), len(scores)) == ((0, 4), 0, 0)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"size": (0, 5)}, ValueError, r"a tile must have sides of 1 pixel or more, got \(0, 5\)"),
        ({"size": (5,)}, TypeError, r"a tile must have two whole numbers \(height, width\), got \(5,\)"),
        ({"size": (5.5, 5)}, TypeError, "a tile must have two whole numbers"),
        ({"size": (5, 5), "overlap": 1.0}, ValueError, r"overlap must lie in \[0, 0.9\], got 1.0"),
        ({"size": (5, 5), "overlap": float("nan")}, ValueError, r"overlap must lie in \[0, 0.9\], got nan"),
        ({"size": (5, 5), "overlap": "a"}, ValueError, r"overlap must lie in \[0, 0.9\], got 'a'"),
    ],
)
def test_tiles_that_cannot_be(values, error, message):
    with pytest.raises(error, match=message):
        Tiles(**values)


def test_tiles_come_back_from_plain_values():
    assert tiles_from_dict({"size": [3, 4], "overlap": 0.5}) == Tiles(size=(3, 4), overlap=0.5)
    assert tiles_from_dict(None) is None
    with pytest.raises(TypeError, match="training_tiles must have size and overlap, got 7"):
        tiles_from_dict(7)
