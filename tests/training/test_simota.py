import math
import sys
from pathlib import Path

import pytest
import torch
import torchvision

from effdet.ops.boxes import decode
from effdet.training import matching, simota
from effdet.training.simota import SimOta

sys.path.insert(0, str(Path(__file__).parent))
from assigner_cases import ANCHORS, SIZE, assert_equals_loop, centre_inside, random_predictions, random_targets


def near(n, box, strides):
    """Whether the centre of anchor n lies less than 2.5 strides from that of the box, along x and along y."""
    x1, y1, x2, y2 = ANCHORS[n].tolist()
    off = abs(x1 + x2 - box[0] - box[2]) / 2, abs(y1 + y2 - box[1] - box[3]) / 2
    return off[0] < 2.5 * strides[n][0] and off[1] < 2.5 * strides[n][1]


def strides_of_anchors():
    """(width, height) of the cell of each anchor: the input divided by the cells of its level."""
    strides = []
    for level in range(3, 8):
        rows, columns = -(-SIZE[0] // 2**level), -(-SIZE[1] // 2**level)
        x = SIZE[1] / columns if columns > 1 else None
        y = SIZE[0] / rows if rows > 1 else None
        x, y = x or y or 2 * strides[-1][0], y or x or 2 * strides[-1][1]
        strides += [(x, y)] * (rows * columns * 9)
    return strides


def literally(target, logits, deltas, topk):
    """SimOTA for one image, box by box and anchor by anchor: {anchor: (box, IoU)}."""
    ious, strides = torchvision.ops.box_iou(target.boxes, decode(deltas, ANCHORS)).tolist(), strides_of_anchors()
    p = logits.double().sigmoid().tolist()
    cheapest = {}
    for m, (box, label) in enumerate(zip(target.boxes.tolist(), target.classes.tolist(), strict=True)):
        costs = {}
        for n, anchor in enumerate(ANCHORS.tolist()):
            inside, close = centre_inside(anchor, box), near(n, box, strides)
            if inside or close:
                ce = sum(-math.log(q if k == label else 1 - q) for k, q in enumerate(p[n]))
                costs[n] = ce - 3 * math.log(ious[m][n] + 1e-8) + (0 if inside and close else 1e5)
        count = max(1, int(sum(sorted((ious[m][n] for n in costs), reverse=True)[:topk])))
        for n in sorted(costs, key=costs.__getitem__)[:count]:
            if n not in cheapest or costs[n] < cheapest[n][0]:
                cheapest[n] = (costs[n], m)
    return {n: (m, ious[m][n]) for n, (_, m) in cheapest.items()}


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize(("topk", "pairs"), [(10, 2**21), (4, 1)])
def test_assignment_equals_a_literal_loop(monkeypatch, topk, pairs, dense):
    monkeypatch.setattr(matching, "MAX_PAIRS", pairs)
    generator = torch.Generator().manual_seed(topk)
    targets = random_targets(generator)
    predictions = random_predictions(generator, len(targets))
    assigned = SimOta(topk=topk)(ANCHORS, targets, predictions, dense=dense)

    def loop(image):
        return literally(targets[image], predictions.class_logits[image], predictions.box_deltas[image], topk)

    learned, _ = assert_equals_loop(assigned, targets, loop)
    assert len(learned) >= 16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("num_classes", [1, 80, 365])
def test_the_sum_of_softplus_is_that_of_pytorch(num_classes, dtype):
    logits = torch.randn(5000, num_classes, generator=torch.Generator().manual_seed(0)).mul(5).to(dtype)
    logits[0], logits[1], logits[2] = 0, 1000, -1000
    expected = torch.nn.functional.softplus(logits.double()).sum(dim=1)
    torch.testing.assert_close(simota._sum_of_softplus(logits).double(), expected, rtol=1e-6, atol=2e-7 * num_classes)
