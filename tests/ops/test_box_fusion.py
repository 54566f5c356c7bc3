"""Weighted boxes fusion beside the formula of the paper and the authors' package."""

import pytest
import torch
from torchvision.ops import box_iou

from effdet.ops import box_fusion

# Three passes; the answer is that of weighted_boxes_fusion of ensemble-boxes 1.0.9 with iou_thr=0.55, skip_box_thr=0.
PASSES = [
    (
        [
            [0.392, 0.542, 0.643, 0.723],
            [0.46, 0.209, 0.629, 0.372],
            [0.252, 0.534, 0.363, 0.718],
            [0.102, 0.512, 0.281, 0.714],
        ],
        [0, 1, 0, 1],
        [0.34, 0.72, 0.35, 0.48],
    ),
    (
        [[0.412, 0.562, 0.663, 0.741], [0.489, 0.214, 0.63, 0.369], [0.27, 0.514, 0.414, 0.728]],
        [0, 1, 0],
        [0.85, 0.47, 0.65],
    ),
    (
        [
            [0.395, 0.55, 0.681, 0.739],
            [0.498, 0.212, 0.658, 0.39],
            [0.24, 0.54, 0.394, 0.728],
            [0.085, 0.502, 0.301, 0.735],
        ],
        [0, 1, 0, 1],
        [0.93, 0.36, 0.7, 0.43],
    ),
]
PACKAGE_BOXES = [
    [0.401335, 0.553528, 0.667689, 0.737236],
    [0.253941, 0.528823, 0.395265, 0.725941],
    [0.477619, 0.211213, 0.636039, 0.375271],
    [0.093967, 0.507275, 0.290451, 0.723923],
]
PACKAGE_LABELS = [0, 0, 1, 1]
PACKAGE_SCORES = [0.706667, 0.566667, 0.516667, 0.303333]


def as_found(boxes, labels, scores, factor=1.0):
    return torch.tensor(boxes).reshape(-1, 4) * factor, torch.tensor(labels, dtype=torch.int64), torch.tensor(scores)


def random_passes(seed, num_passes, num_objects=9):
    """Boxes around the same objects in every pass, some missing."""
    generator = torch.Generator().manual_seed(seed)
    corners = torch.rand(num_objects, 2, generator=generator) * 300
    objects = torch.cat([corners, corners + 20 + torch.rand(num_objects, 2, generator=generator) * 80], dim=1)
    labels = torch.randint(0, 3, (num_objects,), generator=generator)
    for _ in range(num_passes):
        seen = torch.rand(num_objects, generator=generator) < 0.8
        boxes = objects[seen] + torch.randn(int(seen.sum()), 4, generator=generator) * 4
        yield boxes, labels[seen], torch.rand(len(boxes), generator=generator)


def fuse_boxes(passes):
    return [torch.from_numpy(column) for column in box_fusion.fuse_boxes([_arrays(one) for one in passes])]


def without_duplicates(found):
    return [torch.from_numpy(column) for column in box_fusion.without_duplicates(_arrays(found))]


def _arrays(found):
    boxes, labels, scores = (column.numpy() for column in found)
    return boxes, labels, scores


def literal(passes, threshold):
    """Return (box, label, score) of each cluster, step by step as §3 of the paper lists it."""
    entries = [entry for one in passes for entry in zip(*one, strict=True)]
    clusters, fused = [], []  # L and F of the paper
    for box, label, score in sorted(entries, key=lambda entry: -float(entry[2])):
        ious = [float(box_iou(box[None], f[None])) if label == own else -1.0 for f, own, _ in fused]
        best = max(range(len(ious)), key=ious.__getitem__, default=-1)
        if best < 0 or ious[best] <= threshold:
            best = len(fused)
            clusters.append([])
            fused.append(None)
        clusters[best].append((box, score))
        total = sum(c for _, c in clusters[best])
        mean_box = sum(c * b for b, c in clusters[best]) / total
        fused[best] = (mean_box, label, total / len(clusters[best]))
    return [
        (box, int(label), float(score) * min(len(cluster), len(passes)) / len(passes))
        for (box, label, score), cluster in zip(fused, clusters, strict=True)
    ]


@pytest.mark.parametrize("factor", [1.0, 640.0])
def test_the_answer_of_the_authors_package(factor):
    boxes, labels, scores = fuse_boxes([as_found(*one, factor=factor) for one in PASSES])
    torch.testing.assert_close(boxes, torch.tensor(PACKAGE_BOXES) * factor, atol=1e-6 * factor, rtol=0)
    torch.testing.assert_close(scores, torch.tensor(PACKAGE_SCORES), atol=1e-6, rtol=0)
    assert labels.tolist() == PACKAGE_LABELS


@pytest.mark.parametrize(("seed", "num_passes"), [(0, 1), (1, 2), (2, 3), (3, 5), (4, 8)])
def test_a_literal_loop_over_the_steps_of_the_paper(seed, num_passes):
    passes = list(random_passes(seed, num_passes))
    expected = sorted(literal(passes, 0.55), key=lambda entry: -entry[2])
    boxes, labels, scores = fuse_boxes(passes)
    assert labels.tolist() == [label for _, label, _ in expected]
    torch.testing.assert_close(boxes, torch.stack([box for box, _, _ in expected]))
    torch.testing.assert_close(scores, torch.tensor([score for _, _, score in expected]))


def test_an_object_of_one_pass_in_three_has_a_third_of_its_score():
    nothing = as_found([], [], [])
    boxes, labels, scores = fuse_boxes([as_found([[1.0, 2.0, 3.0, 4.0]], [5], [0.9]), nothing, nothing])
    assert (boxes.tolist(), labels.tolist()) == ([[1, 2, 3, 4]], [5])
    assert float(scores[0]) == pytest.approx(0.3)


def test_scores_of_zero_and_lines_are_no_problem():
    """A weighted mean of weights 0 is the box itself; two equal lines have no area and no IoU."""
    line = [[5.0, 5.0, 5.0, 9.0]]
    boxes, _, scores = fuse_boxes([as_found(line, [0], [0.0]), as_found(line, [0], [0.0])])
    assert boxes.tolist() == line * 2
    assert scores.tolist() == [0, 0]
    assert len(fuse_boxes([as_found([], [], [])])[0]) == 0


def test_a_pass_gives_an_object_once():
    """A duplicate with a low score, as soft-NMS leaves it, would draw the mean score of the cluster down."""
    found = as_found(
        [[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 9.0], [0.0, 0.0, 10.0, 10.0]], [0, 0, 1], [0.9, 0.1, 0.2]
    )
    _, labels, scores = without_duplicates(found)
    assert (labels.tolist(), scores.tolist()) == ([0, 1], pytest.approx([0.9, 0.2]))
    assert len(without_duplicates(as_found([], [], []))[0]) == 0
