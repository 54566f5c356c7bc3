import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effdet.models.network import Network
from effdet.models.variants import VARIANTS, get_variant, list_variants

# Trainable parameters at 90 classes, and multiply-adds (10⁹) of one image, from the published code.
PUBLISHED_PARAMETERS = {
    "d0": 3_880_067, "d1": 6_625_898, "d2": 8_097_039, "d3": 12_032_296, "d4": 20_723_675, "d5": 33_653_315,
    "d6": 51_871_782, "d7": 51_871_782, "d7x": 77_147_166, "lite0": 3_243_470, "lite1": 4_248_318,
    "lite2": 5_252_334, "lite3": 8_350_862, "lite3x": 9_280_862, "lite4": 15_130_894,
}  # fmt: skip
PUBLISHED_GMACS = {
    "d0": 2.54, "d1": 6.10, "d2": 11.0, "d3": 24.9, "d4": 55.2, "d5": 135, "d6": 226, "d7": 325, "d7x": 410,
}  # fmt: skip
PUBLISHED_ANCHORS = {
    "d0": 49_104, "d1": 76_725, "d2": 110_484, "d3": 150_381, "d4": 196_416, "d5": 306_900, "d6": 306_900,
    "d7": 441_936, "d7x": 442_260, "lite0": 19_206, "lite1": 27_621, "lite2": 37_629, "lite3": 49_104,
    "lite3x": 76_725, "lite4": 76_725,
}  # fmt: skip


def network_without_storage(name: str) -> Network:
    variant = get_variant(name)
    with torch.device("meta"):
        return Network(variant, 90, stochastic_depth=variant.stochastic_depth).eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_parameters_and_anchors_equal_the_published_ones(name):
    network = network_without_storage(name)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PUBLISHED_PARAMETERS[name]
    with torch.no_grad():
        predictions = network(torch.empty(1, 3, *get_variant(name).image_size, device="meta"))
    assert predictions.class_logits.shape == (1, PUBLISHED_ANCHORS[name], 90)
    assert predictions.box_deltas.shape == (1, PUBLISHED_ANCHORS[name], 4)


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_multiply_adds_lie_within_two_percent_of_the_published_column(name):
    network = network_without_storage(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, *get_variant(name).image_size, device="meta"))
    gmacs = counter.get_total_flops() / 2e9  # the counter takes a multiply-add for two
    assert gmacs == pytest.approx(PUBLISHED_GMACS[name], rel=0.02)


def test_list_variants_has_the_fifteen_published_models():
    assert list_variants() == list(PUBLISHED_PARAMETERS)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(ValueError, match=r"unknown model 'D0'; did you mean 'd0'\? known: d0, d1"):
        get_variant("D0")
