import math
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from effdet.ops.boxes import decode
from effdet.structures import Predictions, Target
from effdet.training import matching
from effdet.training.task_aligned import TaskAligned

sys.path.insert(0, str(Path(__file__).parent))
from assigner_cases import ANCHORS, K, assert_equals_loop, centre_inside, random_predictions, random_targets


def literally(anchors, target, logits, deltas, topk, alpha, beta):
    """One image, anchor by anchor and box by box: {anchor: (box, target score)}."""
    predicted = decode(deltas, anchors)
    t, u, chosen = {}, torchvision.ops.box_iou(target.boxes, predicted).tolist(), {}
    for m, (box, label) in enumerate(zip(target.boxes.tolist(), target.classes.tolist(), strict=True)):
        for n, anchor in enumerate(anchors.tolist()):
            if centre_inside(anchor, box):
                s = 1 / (1 + math.exp(-float(logits[n, label])))
                t[m, n] = s**alpha * u[m][n] ** beta
        best = sorted((n for m_, n in t if m_ == m and t[m, n] > 0), key=lambda n: -t[m, n])[:topk]
        for n in best:
            if n not in chosen or u[m][n] > u[chosen[n]][n]:
                chosen[n] = m
    result = {}
    for n, m in chosen.items():
        mine = [n_ for n_, m_ in chosen.items() if m_ == m]
        result[n] = (m, t[m, n] * max(u[m][n_] for n_ in mine) / max(t[m, n_] for n_ in mine))
    return result


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(
    ("topk", "alpha", "beta", "pairs"), [(13, 1.0, 6.0, 2**21), (5, 0.5, 2.0, 3 * len(ANCHORS)), (1, 1.0, 6.0, 1)]
)
def test_assignment_equals_a_literal_loop(monkeypatch, topk, alpha, beta, pairs, dense):
    monkeypatch.setattr(matching, "MAX_PAIRS", pairs)
    generator = torch.Generator().manual_seed(topk)
    targets = random_targets(generator)
    predictions = random_predictions(generator, len(targets))
    assigned = TaskAligned(topk=topk, alpha=alpha, beta=beta)(ANCHORS, targets, predictions, dense=dense)

    def loop(image):
        logits, deltas = predictions.class_logits[image], predictions.box_deltas[image]
        return literally(ANCHORS, targets[image], logits, deltas, topk, alpha, beta)

    learned, ignored = assert_equals_loop(assigned, targets, loop, tolerance=1e-3)
    assert len(learned) >= 16 * topk * 0.7
    assert len(ignored) > 5


def test_the_best_anchor_of_a_box_learns_its_iou():
    generator = torch.Generator().manual_seed(4)
    targets = [random_targets(generator, [(1, 0)])[0]]
    predictions = random_predictions(generator, 1)
    assignment = TaskAligned()(ANCHORS, targets, predictions)
    iou = torchvision.ops.box_iou(decode(predictions.box_deltas[0], ANCHORS), targets[0].boxes)[assignment.positive, 0]
    torch.testing.assert_close(assignment.scores.max(), iou.max())


def test_a_tiny_box_outside_the_reach_of_predictions_learns_nothing():
    nowhere = Target(torch.tensor([[5000.0, 5000, 5001, 5001]]), torch.tensor([0]))
    predictions = Predictions(torch.zeros(1, len(ANCHORS), K), torch.zeros(1, len(ANCHORS), 4))
    assert TaskAligned()(ANCHORS, [nowhere], predictions).num_positives == 0
