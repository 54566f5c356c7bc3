import math
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from effdet.ops.boxes import decode
from effdet.structures import Batch, Predictions
from effdet.training import distillation
from effdet.training.distillation import Teacher
from effdet.training.losses import DetectionLoss

sys.path.insert(0, str(Path(__file__).parent))
from assigner_cases import ANCHORS, K, random_predictions

CLASSES = torch.tensor([5, 0, 3, 2])  # the teacher's labels of the four classes


class Detector(nn.Module):
    """A teacher with six classes whose predictions depend on the mean of each image."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.network = self.predict

    def normalise(self, images, content_sizes):
        return images.float() / 100  # its own way

    def predict(self, images):
        level = images.mean(dim=(1, 2, 3))[:, None, None] * self.scale
        generator = torch.Generator().manual_seed(9)
        logits = torch.randn(1, len(ANCHORS), 6, generator=generator) * 2
        deltas = torch.randn(1, len(ANCHORS), 4, generator=generator) * 0.2
        return Predictions(logits * level, deltas * level)


def batch(count):
    images = torch.arange(100, 100 + count).view(count, 1, 1, 1).expand(count, 3, 8, 8).to(torch.uint8)
    nothing = torch.zeros(count, 2, dtype=torch.int64)
    return Batch(images, nothing, torch.ones(count, 2), nothing, tuple(range(count)), [])


def test_the_teacher_predicts_the_classes_of_the_network_from_images_that_it_normalises_itself():
    detector = Detector().train()
    taught = Teacher(detector, CLASSES).predict(batch(2))
    expected = detector.predict(torch.tensor([1.0, 1.01]).view(2, 1, 1, 1))
    torch.testing.assert_close(taught.class_logits, expected.class_logits[..., [5, 0, 3, 2]].detach())
    torch.testing.assert_close(taught.box_deltas, expected.box_deltas.detach())
    assert not detector.training
    assert not taught.class_logits.requires_grad


@pytest.mark.parametrize("box_loss", ["giou", "huber"])
def test_losses_equal_a_literal_loop(monkeypatch, box_loss):
    monkeypatch.setattr(distillation, "NUM_ANCHORS", 40)
    predictions = random_predictions(torch.Generator().manual_seed(1), 2)
    teacher = Teacher(Detector(), CLASSES, weight=0.5)
    taught = teacher.predict(batch(2))
    criterion = DetectionLoss(box_loss=box_loss, box_weight=3.0)
    got = teacher.losses(predictions, taught, ANCHORS, criterion=criterion, normaliser=7.0)

    class_sum = box_sum = 0.0
    for image in range(2):
        scores = taught.class_logits[image].sigmoid().tolist()
        confident = sorted(range(len(ANCHORS)), key=lambda n: -max(scores[n]))[:40]
        for n in confident:
            for k in range(K):
                p, y = 1 / (1 + math.exp(-float(predictions.class_logits[image, n, k]))), scores[n][k]
                class_sum -= (y - p) ** 2 * (y * math.log(p) + (1 - y) * math.log(1 - p))
            mine, theirs = predictions.box_deltas[image, n], taught.box_deltas[image, n]
            if box_loss == "giou":
                boxes = (decode(deltas, ANCHORS[n])[None] for deltas in (mine, theirs))
                loss = 1 - float(torchvision.ops.generalized_box_iou(*boxes))
            else:
                error = (mine - theirs).abs().tolist()
                loss = sum(0.5 * e * e if e <= 0.1 else 0.1 * e - 0.005 for e in error) / 4
            box_sum += max(scores[n]) * loss
    assert got["class_loss"].item() == pytest.approx(0.5 * class_sum / 7, rel=1e-4)
    assert got["box_loss"].item() == pytest.approx(0.5 * 3 * box_sum / 7, rel=1e-4)


def test_a_teacher_without_confidence_teaches_no_box():
    unsure = Predictions(torch.full((1, len(ANCHORS), K), -3.0), torch.ones(1, len(ANCHORS), 4))  # score 0.047
    teacher = Teacher(Detector(), CLASSES)
    predictions = random_predictions(torch.Generator().manual_seed(2), 1)
    added = teacher.losses(predictions, unsure, ANCHORS, criterion=DetectionLoss(), normaliser=1.0)
    assert added["box_loss"] == 0
    assert added["class_loss"] > 0


def test_the_gradient_leads_to_the_teacher():
    teacher = Teacher(Detector(), CLASSES)
    taught = teacher.predict(batch(1))
    learned = [taught.class_logits.clone(), taught.box_deltas.clone()]
    learned[0] += 1.0
    learned[1] += 0.1
    learned = [tensor.requires_grad_() for tensor in learned]
    criterion = DetectionLoss(box_loss="giou")
    added = teacher.losses(Predictions(*learned), taught, ANCHORS, criterion=criterion, normaliser=1.0)
    sum(added.values()).backward()
    better = [tensor.detach() - 0.01 * tensor.grad for tensor in learned]
    after = teacher.losses(Predictions(*better), taught, ANCHORS, criterion=criterion, normaliser=1.0)
    assert sum(after.values()) < sum(added.values())
    same = teacher.losses(taught, taught, ANCHORS, criterion=criterion, normaliser=1.0)
    assert sum(same.values()) == pytest.approx(0, abs=1e-3)
