"""What all assigners by candidates do alike."""

import sys
from pathlib import Path

import pytest
import torch

from effdet.training import matching
from effdet.training.atss import Atss
from effdet.training.simota import SimOta
from effdet.training.task_aligned import TaskAligned

sys.path.insert(0, str(Path(__file__).parent))
from assigner_cases import ANCHORS, by_anchor, random_predictions, random_targets

BY_PREDICTIONS = [TaskAligned, SimOta]


def assigned(assigner, seed, counts, **options):
    generator = torch.Generator().manual_seed(seed)
    targets = random_targets(generator, counts)
    predictions = [random_predictions(generator, len(targets))] if assigner in BY_PREDICTIONS else []
    return assigner()(ANCHORS, targets, *predictions, **options)


@pytest.mark.parametrize("assigner", BY_PREDICTIONS)
def test_looking_at_all_pairs_gives_the_same(monkeypatch, assigner):
    """On other devices than a CPU all pairs are computed, so that no size depends on values."""
    counts = [(3, 0), (0, 2), (12, 1)]
    few = by_anchor(assigned(assigner, 3, counts))
    monkeypatch.setattr(matching, "_places", lambda wanted: torch.ones_like(wanted).nonzero(as_tuple=True))
    assert by_anchor(assigned(assigner, 3, counts)) == few


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("assigner", [Atss, *BY_PREDICTIONS])
def test_a_batch_without_boxes_has_no_positive_anchor(assigner, dense):
    learned, ignored = by_anchor(assigned(assigner, 0, [(0, 0), (0, 2)], dense=dense))
    assert not learned
    assert ignored


@pytest.mark.parametrize(("assigner", "boxes"), [(TaskAligned, 500), (SimOta, 60)])
def test_the_boxes_of_a_crowded_image_share_its_anchors(assigner, boxes):
    assignment = assigned(assigner, 5, [(boxes, 0)])
    assert 2 / 3 * boxes < assignment.num_positives <= min(10 * boxes, len(ANCHORS))
    assert len(assignment.positive.unique()) == assignment.num_positives
    assert ((assignment.scores >= 0) & (assignment.scores <= 1)).all()
