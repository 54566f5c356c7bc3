"""The training loss against DetBenchTrain of PyPI effdet, down to the gradient of every parameter."""

import pytest
import torch
from torch.nn.utils.rnn import pad_sequence

from effdet.detector.efficientdet import EfficientDet
from effdet.structures import Target
from effdet.training.losses import DetectionLoss
from effdet.weights.effdet import convert

IMAGE_SIZE = (128, 160)
CLEAR = torch.tensor([[10.3, 20.7, 60.1, 90.4], [100.2, 30.9, 150.6, 110.3], [110.7, 70.1, 125.2, 91.8]])
ON_ANCHORS = torch.tensor([[-12.0, -12.0, 20.0, 20.0], [90.0, 42.0, 130.0, 82.0]])  # the second by its centre


def test_losses_and_gradients_are_those_of_effdet(run_peer):
    for name in ("tf_efficientdet_d0", "efficientdet_q0"):
        compare_losses(run_peer, name)


def compare_losses(run_peer, name):
    """Compare in float64 with fixed BN statistics, so that no rounding error of long sums hides a difference."""
    images = torch.randn(2, 3, *IMAGE_SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    targets = [Target(rows, torch.arange(len(rows)) * 7) for rows in (CLEAR, ON_ANCHORS)]
    made = run_peer(
        "make_losses.py",
        {
            "name": name,
            "image_size": IMAGE_SIZE,
            "images": images,
            "boxes": pad_sequence([target.boxes[:, [1, 0, 3, 2]] for target in targets], True, -1.0),
            "classes": pad_sequence([target.classes.float() + 1 for target in targets], True, -1.0),
        },
    )
    state, slopes = (
        {key.removeprefix(kind): torch.from_numpy(value) for key, value in made.items() if key.startswith(kind)}
        for kind in ("state/", "gradient/")
    )
    expected = convert(state | slopes, hint=name).state

    model = EfficientDet(name, image_size=IMAGE_SIZE, stochastic_depth=0.0).double().eval()
    model.network.load_state_dict(convert(state, hint=name).state)
    predictions, anchors = model.network(images).float(), model.anchors(IMAGE_SIZE, "cpu")
    losses = DetectionLoss(mask_zero_targets=True)(predictions, anchors, targets)
    sum(losses.values()).backward()

    assert losses["class_loss"].item() == pytest.approx(made["class_loss"].item(), rel=1e-5)
    assert losses["box_loss"].item() == pytest.approx(50 * made["box_loss"].item(), rel=1e-5)
    for key, parameter in model.network.named_parameters():
        difference, size = (parameter.grad - expected[key]).norm().item(), expected[key].norm().item()
        assert difference <= 1e-4 * size, f"{key}: {difference:.2e} of {size:.2e}"

    unmasked = DetectionLoss()(predictions, anchors, targets)  # the one difference between our default and the peer
    assert unmasked["class_loss"] == losses["class_loss"]
    assert unmasked["box_loss"] > losses["box_loss"] * (1 + 1e-4)
