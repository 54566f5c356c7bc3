"""On a GPU nothing may wait for values: assignment and losses run on PyTorch's meta device, which has none."""

import contextlib
import sys
from pathlib import Path

import pytest
import torch

from effdet.structures import Predictions
from effdet.training import anchor_layout
from effdet.training.distillation import Teacher
from effdet.training.losses import DetectionLoss

sys.path.insert(0, str(Path(__file__).parent))
from assigner_cases import ANCHORS, random_predictions, random_targets

META = torch.device("meta")


@pytest.fixture
def anchors():
    """Anchors without values, whose layout is known: it is read once for a size, before the first step."""
    layout = anchor_layout.layout_of(ANCHORS)
    there = ANCHORS.to(META)
    anchor_layout._known[there] = anchor_layout.AnchorLayout(
        layout.per_cell, layout.levels, layout.centres.to(META), layout.strides.to(META)
    )
    return there


@pytest.mark.parametrize(
    ("class_loss", "box_loss"), [("focal", "huber"), ("quality_focal", "giou"), ("varifocal", "ciou"), ("focal", "iou")]
)
@pytest.mark.parametrize("assigner", ["iou", "atss", "task_aligned", "simota"])
def test_no_size_and_no_branch_depends_on_values(monkeypatch, anchors, assigner, class_loss, box_loss):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # it does not know this device
    generator = torch.Generator().manual_seed(0)
    targets = random_targets(generator)
    predictions = random_predictions(generator, len(targets))
    there = Predictions(predictions.class_logits.to(META), predictions.box_deltas.to(META))
    criterion = DetectionLoss(assigner=assigner, class_loss=class_loss, box_loss=box_loss)
    assignment = criterion.assign(anchors, targets, there)
    assert assignment.is_positive.shape == (len(targets) * len(ANCHORS),)
    losses = criterion(there, anchors, targets, assignment=assignment)
    assert all(loss.device == META for loss in losses.values())


@pytest.mark.parametrize("box_loss", ["huber", "ciou"])
def test_no_size_and_no_branch_depends_on_what_a_teacher_predicts(monkeypatch, anchors, box_loss):
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())
    shape = (2, len(ANCHORS))
    predictions, taught = (
        Predictions(torch.empty(*shape, 4, device=META), torch.empty(*shape, 4, device=META)) for _ in range(2)
    )
    teacher = Teacher(torch.nn.Identity(), torch.arange(4))
    losses = teacher.losses(predictions, taught, anchors, criterion=DetectionLoss(box_loss=box_loss), normaliser=1.0)
    assert all(loss.device == META for loss in losses.values())
