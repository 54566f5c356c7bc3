import pytest
import torch
import torchvision

from effdet.ops.anchors import level_sizes, make_anchors
from effdet.structures import Target
from effdet.training import targets
from effdet.training.targets import assign


def random_target(generator, num_boxes, size=128, num_classes=5, num_crowds=0):
    def boxes(count):
        corner = torch.rand(count, 2, generator=generator) * size * 0.8
        side = 4 + torch.rand(count, 2, generator=generator) * size * 0.4
        return torch.cat([corner, corner + side], dim=1)

    classes = torch.randint(0, num_classes, (num_boxes,), generator=generator)
    crowds = boxes(num_crowds)
    crowds[:, 2:] += size / 2
    return Target(boxes(num_boxes), classes, crowds)


def match_literally(anchors, target, positive_iou):
    """The matching of one image, anchor by anchor: {anchor: box}, and the set of ignored anchors."""
    iou = torchvision.ops.box_iou(target.boxes, anchors)
    matches = {}
    for n in range(len(anchors)):
        column = iou[:, n].tolist()
        if column and max(column) >= positive_iou:
            matches[n] = column.index(max(column))
    for m in reversed(range(len(target.boxes))):  # the lowest index writes last, so it wins a contested anchor
        row = iou[m].tolist()
        if max(row) > 0:
            matches[row.index(max(row))] = m

    ignored = set()
    for n, (x1, y1, x2, y2) in enumerate(anchors.tolist()):
        for cx1, cy1, cx2, cy2 in target.crowd_boxes.tolist():
            shared = max(0, min(x2, cx2) - max(x1, cx1)) * max(0, min(y2, cy2) - max(y1, cy1))
            if n not in matches and shared >= 0.5 * (x2 - x1) * (y2 - y1):
                ignored.add(n)
    return matches, ignored


def by_image(assignment, anchors):
    """Read an assignment back as [(image, anchor, class, box)] and {(image, anchor)}."""
    n = len(anchors)
    positive = [
        (flat // n, flat % n, label, box)
        for flat, label, box in zip(
            assignment.positive.tolist(), assignment.classes.tolist(), assignment.boxes.tolist(), strict=True
        )
    ]
    return positive, {(flat // n, flat % n) for flat in assignment.ignored.tolist()}


@pytest.mark.parametrize("max_block", [targets.MAX_BLOCK, 997, 1])
@pytest.mark.parametrize("positive_iou", [0.5, 0.3])
def test_assignment_equals_a_literal_loop(monkeypatch, max_block, positive_iou):
    monkeypatch.setattr(targets, "MAX_BLOCK", max_block)
    generator = torch.Generator().manual_seed(0)
    size = (64, 64) if max_block == 1 else (128, 96)
    anchors = make_anchors(size, level_sizes(size, 3, 7))
    batch = [
        random_target(generator, m, size=min(size), num_crowds=c) for m, c in [(3, 0), (0, 2), (17, 1), (1, 3), (0, 0)]
    ]

    positive, ignored = by_image(assign(anchors, batch, positive_iou=positive_iou), anchors)

    expected, expected_ignored = [], set()
    for image, target in enumerate(batch):
        matches, crowd = match_literally(anchors, target, positive_iou)
        expected += [(image, n, int(target.classes[m]), target.boxes[m].tolist()) for n, m in sorted(matches.items())]
        expected_ignored |= {(image, n) for n in crowd}
    assert positive == expected
    assert ignored == expected_ignored
    assert len(expected) > 21
    assert len(expected_ignored) > 5


def awkward_boxes(generator, anchors):
    """Boxes of every size, some twice, some equal to an anchor, on whole pixels (ties), far outside or without area."""
    corner, side = torch.rand(20, 2, generator=generator) * 90, 10 ** (torch.rand(20, 2, generator=generator) * 4 - 1)
    boxes = torch.cat([corner, corner + side], dim=1)
    anchor = anchors[torch.randint(0, len(anchors), (4,), generator=generator)]
    outside, flat = torch.tensor([[5000.0, 5000, 5010, 5010]]), torch.tensor([[20.0, 20, 20, 40]])
    boxes = torch.cat([boxes, boxes[:3], anchor, (boxes[:10] / 8).round() * 8, outside, flat])
    return boxes[torch.randperm(len(boxes), generator=generator)]


@pytest.mark.parametrize("group", [targets.GROUP, 7, 1])
@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_no_bound_hides_a_match_of_awkward_boxes(monkeypatch, group, shuffled, seed):
    monkeypatch.setattr(targets, "GROUP", group)
    generator = torch.Generator().manual_seed(seed)
    anchors = make_anchors((96, 64), level_sizes((96, 64), 3, 7))
    if shuffled:
        anchors = anchors[torch.randperm(len(anchors), generator=generator)]
    boxes = awkward_boxes(generator, anchors)
    target = Target(boxes, torch.arange(len(boxes)), boxes[:1])

    positive, ignored = by_image(assign(anchors, [target], positive_iou=0.4), anchors)

    matches, expected_ignored = match_literally(anchors, target, 0.4)
    assert [(n, label) for _, n, label, _ in positive] == sorted(matches.items())
    assert ignored == {(0, n) for n in expected_ignored}


def test_each_box_claims_its_best_anchor_below_the_threshold():
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10], [20, 0, 30, 10]])
    assignment = assign(anchors, [Target(torch.tensor([[11.0, 1, 14, 4]]), torch.tensor([2]))])
    assert assignment.positive.tolist() == [1]  # IoU 0.09
    assert assignment.classes.tolist() == [2]
    assert assignment.num_positives == 1


def test_a_tie_goes_to_the_first_anchor():
    anchors = torch.tensor([[0.0, 0, 10, 10], [10, 0, 20, 10]])
    assignment = assign(anchors, [Target(torch.tensor([[9.0, 0, 11, 10]]), torch.tensor([0]))])
    assert assignment.positive.tolist() == [0]


def test_a_tie_across_blocks_goes_to_the_first_anchor(monkeypatch):
    monkeypatch.setattr(targets, "MAX_BLOCK", 1)
    test_a_tie_goes_to_the_first_anchor()


def test_the_lower_box_index_wins_a_contested_anchor():
    anchors = torch.tensor([[0.0, 0, 10, 10], [100, 100, 110, 110]])
    small_then_exact = torch.tensor([[1.0, 1, 3, 3], [0, 0, 10, 10]])
    assignment = assign(anchors, [Target(small_then_exact, torch.tensor([7, 8]))])
    assert assignment.positive.tolist() == [0]
    assert assignment.classes.tolist() == [7]  # the claim overrides the perfect match of box 1


def test_a_claim_overrides_the_threshold_match_of_another_box():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 4, 9]])  # box 1 prefers anchor 1, which box 0 matches with IoU 0.9
    assignment = assign(anchors, [Target(boxes, torch.tensor([0, 1]))])
    assert assignment.positive.tolist() == [0, 1]
    assert assignment.classes.tolist() == [0, 1]


def test_a_box_that_touches_no_anchor_claims_none():
    anchors = torch.tensor([[0.0, 0, 10, 10]])
    assignment = assign(anchors, [Target(torch.tensor([[50.0, 50, 60, 60]]), torch.tensor([0]))])
    assert assignment.num_positives == 0


def test_an_iou_of_exactly_the_threshold_matches():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 5]])
    assignment = assign(anchors, [Target(torch.tensor([[0.0, 0, 10, 10]]), torch.tensor([0]))])
    assert assignment.positive.tolist() == [0, 1]


def test_an_anchor_half_inside_a_crowd_is_ignored_unless_it_is_positive():
    anchors = torch.tensor([[0.0, 0, 10, 10], [0, 0, 20, 10], [0, 0, 21, 10]])
    crowd = torch.tensor([[0.0, 0, 10, 10]])
    box = torch.tensor([[0.0, 0, 10, 10]])
    ignored = assign(anchors, [Target(box[:0], torch.tensor([], dtype=torch.int64), crowd)]).ignored
    assert ignored.tolist() == [0, 1]
    with_box = assign(anchors, [Target(box, torch.tensor([0]), crowd)], positive_iou=0.9)
    assert with_box.positive.tolist() == [0]
    assert with_box.ignored.tolist() == [1]


def test_padding_does_not_let_a_crowded_image_change_an_empty_one():
    generator = torch.Generator().manual_seed(1)
    anchors = make_anchors((64, 64), level_sizes((64, 64), 3, 7))
    crowded, empty = random_target(generator, 40, size=64), random_target(generator, 0)
    alone = assign(anchors, [crowded])
    batch = assign(anchors, [empty, crowded])
    torch.testing.assert_close(batch.positive, alone.positive + len(anchors))
    torch.testing.assert_close(batch.boxes, alone.boxes)


def test_the_iou_threshold_must_be_a_fraction():
    with pytest.raises(ValueError, match=r"positive_iou must lie in \(0, 1\], got 0"):
        assign(torch.zeros(1, 4), [], positive_iou=0)
