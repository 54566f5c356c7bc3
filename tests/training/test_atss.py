import math
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from effdet.structures import Target
from effdet.training import matching
from effdet.training.atss import Atss

sys.path.insert(0, str(Path(__file__).parent))
from assigner_cases import ANCHORS, SIZE, assert_equals_loop, centre_inside, random_targets

LEVELS = [(-(-SIZE[0] // 2**level)) * -(-SIZE[1] // 2**level) for level in range(3, 8)]  # cells


def distance(anchor, box):
    """Of the centres."""
    return math.hypot((anchor[0] + anchor[2] - box[0] - box[2]) / 2, (anchor[1] + anchor[3] - box[1] - box[3]) / 2)


def candidates(anchors, box, topk):
    """On each level, all anchors of the nearest cells."""
    found, start = [], 0
    for cells in LEVELS:
        away = {cell: distance(anchors[9 * cell], box) for cell in range(start, start + cells)}
        nearest = sorted(away, key=away.__getitem__)[:topk]
        found += [9 * cell + member for cell in nearest for member in range(9)]
        start += cells
    return found


def literally(target, topk):
    """Algorithm 1 of the paper for one image: {anchor: box}."""
    ious, anchors, chosen = torchvision.ops.box_iou(target.boxes, ANCHORS).tolist(), ANCHORS.tolist(), {}
    for m, box in enumerate(target.boxes.tolist()):
        near = candidates(anchors, box, topk)
        overlaps = [ious[m][n] for n in near]
        mean = sum(overlaps) / len(overlaps)
        threshold = mean + math.sqrt(sum((u - mean) ** 2 for u in overlaps) / (len(overlaps) - 1))
        for n in near:
            positive = ious[m][n] >= threshold and centre_inside(anchors[n], box)
            if positive and (n not in chosen or ious[m][n] > ious[chosen[n]][n]):
                chosen[n] = m
    return chosen


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("topk", "pairs"), [(9, 2**21), (3, 1)])
def test_assignment_equals_a_literal_loop(monkeypatch, topk, pairs, dense):
    monkeypatch.setattr(matching, "MAX_PAIRS", pairs)
    targets = random_targets(torch.Generator().manual_seed(topk))
    assigned = Atss(topk=topk)(ANCHORS, targets, dense=dense)

    def loop(image):
        return {anchor: (box, None) for anchor, box in literally(targets[image], topk).items()}

    learned, _ = assert_equals_loop(assigned, targets, loop)
    assert len(learned) > 40


def test_a_single_anchor_is_its_own_threshold():
    anchor = torch.tensor([[0.0, 0, 10, 10]])
    assignment = Atss()(anchor, [Target(torch.tensor([[2.0, 2, 12, 12]]), torch.tensor([1]))])
    assert (assignment.positive.tolist(), assignment.classes.tolist()) == ([0], [1])
