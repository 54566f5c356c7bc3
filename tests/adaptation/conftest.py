"""A network that is small enough to adapt in a test."""

import pytest
import torch

from effdet import Architecture, EfficientDet

BLOCKS = (
    ("ds_r1_k3_s2_c16_se0.25",),
    ("ir_r1_k3_s2_e2_c16", "ir_r1_k3_s1_e3_c16"),
    ("ir_r1_k5_s2_e2_c24_se0.25", "ir_r1_k3_s1_e2_c24"),
    ("ir_r1_k3_s2_e2_c40",),
)


@pytest.fixture(scope="session")
def small_architecture() -> Architecture:
    return Architecture(
        backbone="efficientnet_b0",
        backbone_blocks=BLOCKS,
        stem_channels=16,
        image_size=(64, 96),
        channels=32,
        neck_repeats=2,
        head_repeats=2,
        stochastic_depth=0.0,
    )


@pytest.fixture
def small_model(small_architecture) -> EfficientDet:
    """A detector whose BNs have seen data, in evaluation mode."""
    torch.manual_seed(0)
    model = EfficientDet(small_architecture, num_classes=3).train()
    with torch.no_grad():
        for _ in range(3):
            model.network(torch.randn(2, 3, 64, 96))
        for parameter in model.network.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()
