import pytest
import torch
from timm.layers.drop import DropPath

from effdet.models.architecture import Architecture
from effdet.models.backbones import build_backbone


def build(backbone, rate):
    small = {"image_size": (64, 64), "channels": 8, "neck_repeats": 1, "head_repeats": 1}
    return build_backbone(Architecture(backbone=backbone, **small), rate)


def literal_rates(num_blocks, last_survival):
    """Huang et al., eq. 4: p_l = 1 − (l/L)(1 − p_L), for l = 1 … L; returned is 1 − p_l."""
    rates = []
    for block in range(1, num_blocks + 1):
        survival = 1 - (block / num_blocks) * (1 - last_survival)
        rates.append(1 - survival)
    return rates


def test_every_block_of_an_efficientnet_drops_by_the_formula():
    backbone = build("tf_efficientnet_b0", 0.2)
    blocks = [block for stage in backbone.blocks for block in stage]
    for block, rate in zip(blocks, literal_rates(16, 0.8), strict=True):
        found = block.drop_path.drop_prob if isinstance(block.drop_path, DropPath) else None
        assert found == (pytest.approx(rate) if block.has_skip else None)
    assert [block.drop_path.drop_prob for block in blocks if block.has_skip][-1] == pytest.approx(0.2 * 15 / 16)


@pytest.mark.parametrize(("backbone", "count"), [("resnet18", 8), ("convnext_atto", 12), ("regnetx_002", 13)])
def test_all_blocks_of_other_families_drop_by_the_formula(backbone, count):
    rates = [module.drop_prob for module in build(backbone, 0.2).modules() if isinstance(module, DropPath)]
    assert rates == pytest.approx(literal_rates(count, 0.8))


def test_a_block_gives_in_expectation_what_it_gives_in_prediction():
    backbone = build("tf_efficientnet_b0", 0.5)
    block = backbone.blocks[5][2].eval()
    x = torch.randn(1, 192, 4, 4, generator=torch.Generator().manual_seed(0))
    rate = 0.5 * 14 / 16  # the 14th of 16
    with torch.no_grad():
        branch = block(x) - x
        block.drop_path.train()
        torch.manual_seed(0)
        outputs = block(x.expand(4000, -1, -1, -1)) - x
    kept = outputs.flatten(1).abs().amax(1) > 0
    assert kept.double().mean() == pytest.approx(1 - rate, abs=0.03)
    torch.testing.assert_close(
        outputs[kept], (branch / (1 - rate)).expand(int(kept.sum()), -1, -1, -1), atol=1e-5, rtol=1e-4
    )
    assert (outputs[~kept] == 0).all()
    literal = torch.stack([branch / (1 - rate) if survives else 0 * branch for survives in kept]).mean(0)
    torch.testing.assert_close(outputs.mean(0, keepdim=True), literal, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(outputs.mean(0, keepdim=True), branch, atol=0.05 * float(branch.abs().max()), rtol=0.05)


def test_without_a_rate_nothing_drops():
    assert not any(isinstance(module, DropPath) for module in build("tf_efficientnet_b0", 0.0).modules())


@pytest.mark.parametrize("backbone", ["vgg11", "densenet121", "mobilenetv1_100"])
def test_a_backbone_without_skip_connections_cannot_drop_blocks(backbone):
    with pytest.raises(ValueError, match=f"stochastic_depth must be 0 for the backbone '{backbone}', .* got 0.1"):
        build(backbone, 0.1)
