import math
from dataclasses import fields, replace

import numpy as np
import pytest

from effdet import Architecture
from effdet.models.cost import network_cost
from effdet.models.published import GOOGLE_MODELS
from effdet.models.scaling import DEPARTURES, ScalingRule, bifpn_width, compound_scale, scale

BASE = replace(Architecture.named("lite0"), image_size=(192, 256))


def test_widths_are_those_of_the_formula_by_hand():
    # 64·1.35^φ worked out with a pocket calculator.
    by_hand = [64.00, 86.40, 116.64, 157.464, 212.5764, 286.97814]
    assert [bifpn_width(phi) for phi in range(6)] == pytest.approx(by_hand)


@pytest.mark.parametrize(
    ("phi", "channels", "neck", "head", "side"),
    [
        (0.5, 72, 4, 3, 640),  # 74.4, 3.5, 576: halves are rounded up
        (0.9, 80, 4, 3, 640),  # 83.8, 3.9, 627
        (1.5, 104, 5, 3, 768),  # 100.4, 4.5, 704
        (2.4, 128, 5, 3, 768),  # 131.5, 5.4, 819
        (3.7, 192, 7, 4, 1024),  # 194.3, 6.7, 986
        (6.5, 448, 10, 5, 1408),  # 450.1, 9.5, 1344
        (8, 704, 11, 5, 1536),  # 706.1
    ],
)
def test_a_detector_between_the_published_ones_has_these_sizes(phi, channels, neck, head, side):
    found = Architecture.from_phi(phi)
    assert (found.channels, found.neck_repeats, found.head_repeats) == (channels, neck, head)
    assert found.image_size == (side, side)


@pytest.mark.parametrize(("stride", "side"), [(128, 768), (64, 704), (32, 704), (100, 700), (1, 704)])
def test_the_input_is_a_multiple_of_the_stride(stride, side):
    assert Architecture.from_phi(1.5, stride=stride).image_size == (side, side)


def test_a_published_input_is_rounded_to_the_stride_too():
    assert Architecture.from_phi(5).image_size == (1280, 1280)
    assert Architecture.from_phi(5, stride=96).image_size == (1248, 1248)


@pytest.mark.parametrize("phi", range(8))
def test_a_whole_phi_is_the_published_model(phi):
    assert Architecture.from_phi(phi) == Architecture.from_phi(float(phi)) == GOOGLE_MODELS[f"d{phi}"]
    assert Architecture.from_phi(np.int64(phi)) == Architecture.named(f"d{phi}")


@pytest.mark.parametrize("phi", range(8))
def test_the_formulas_differ_from_the_published_models_where_the_table_says(phi):
    formula, published = Architecture.from_phi(phi, formula=True), GOOGLE_MODELS[f"d{phi}"]
    pairs = {field.name: (getattr(formula, field.name), getattr(published, field.name)) for field in fields(formula)}
    assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == DEPARTURES.get(phi, {})


def test_the_table_of_departures_is_that_of_the_paper_by_hand():
    assert {phi: set(departures) for phi, departures in DEPARTURES.items()} == {
        2: {"channels"},
        4: {"channels"},
        5: {"neck_repeats", "image_size"},
        6: {"neck_repeats"},
        7: {"backbone", "channels", "neck_repeats", "image_size", "anchor_scale"},
    }
    assert DEPARTURES[4]["channels"] == (216, 224)
    assert DEPARTURES[7]["image_size"] == ((1408, 1408), (1536, 1536))


def test_beyond_d7_the_formulas_go_on():
    assert Architecture.from_phi(8) == Architecture.from_phi(8, formula=True)
    assert Architecture.from_phi(8).backbone == "tf_efficientnet_b8"
    assert (Architecture.from_phi(9).channels, Architecture.from_phi(9).fusion) == (952, "sum")  # 953.2


def test_d7x_is_on_no_phi():
    assert all(Architecture.from_phi(phi) != Architecture.named("d7x") for phi in (7, 7.5, 8))


def test_a_phi_between_costs_more_than_the_one_below_and_less_than_the_one_above():
    costs = [network_cost(Architecture.from_phi(phi, stride=32)).macs for phi in (0, 0.5, 1, 1.5, 2)]
    assert costs == sorted(set(costs))


@pytest.mark.parametrize("phi", [-1, -0.01, math.nan, math.inf, 101])
def test_phi_must_not_be_negative_or_without_end(phi):
    with pytest.raises(ValueError, match=r"phi must lie in 0…100, got"):
        compound_scale(phi)


@pytest.mark.parametrize("phi", ["1.5", True])
def test_phi_must_be_a_number(phi):
    with pytest.raises(TypeError, match="phi must be a number, got"):
        Architecture.from_phi(phi)


def test_the_stride_must_be_positive():
    with pytest.raises(ValueError, match="stride must be 1 or more, got 0"):
        Architecture.from_phi(1.5, stride=0)
    with pytest.raises(ValueError, match="stride must be 1 or more, got -32"):
        scale(BASE, resolution=1, stride=-32)


# -- any base ------------------------------------------------------------------------------------------------------


def test_compound_scaling_of_a_base_has_these_sizes():
    found = scale(BASE, depth=2, width=2, resolution=2)
    assert (found.channels, found.neck_repeats, found.head_repeats) == (120, 5, 3)  # 64·1.35² = 116.6
    assert found.image_size == (256, 352)  # 253.9, 338.6
    assert [len(stage) for stage in found.backbone_blocks] == [1, 3, 3, 5, 5, 6, 1]  # ⌈1.44·n⌉; the ends of a Lite stay
    assert found.backbone_blocks[1][0].split("_c")[1] == "32"  # 1.21·24 = 29.04


def test_each_dimension_is_scaled_alone():
    wide, deep, large = scale(BASE, width=1), scale(BASE, depth=3), scale(BASE, resolution=1)
    assert (wide.channels, wide.neck_repeats, wide.head_repeats, wide.image_size) == (88, 3, 3, (192, 256))
    assert (deep.channels, deep.neck_repeats, deep.head_repeats, deep.image_size) == (64, 6, 4, (192, 256))
    assert large == replace(BASE, image_size=(224, 288))  # 220.8, 294.4


def test_scaling_by_nothing_changes_nothing():
    assert scale(BASE) == BASE


def test_a_negative_coefficient_makes_the_base_smaller():
    small = scale(BASE, depth=-1, width=-1, resolution=-1)
    assert (small.channels, small.neck_repeats, small.head_repeats, small.image_size) == (48, 2, 2, (160, 224))
    tiny = scale(BASE, depth=-9, width=-9, resolution=-30)
    assert (tiny.neck_repeats, tiny.head_repeats, tiny.image_size) == (1, 1, (32, 32))


def test_heads_with_a_width_of_their_own_grow_too():
    assert scale(replace(BASE, head_channels=32), width=1).head_channels == 40  # 43.2


def test_the_input_of_any_backbone_can_be_scaled():
    assert scale(replace(BASE, backbone="resnet18"), resolution=2).image_size == (256, 352)
    with pytest.raises(ValueError, match="backbone must be of timm's EfficientNet or MobileNet classes"):
        scale(replace(BASE, backbone="resnet18"), width=1)


def test_the_papers_rule_doubles_the_multiply_adds():
    assert ScalingRule().growth == pytest.approx(1.92027)  # 1.2·1.1²·1.15²


def test_the_bases_of_a_rule_are_1_or_more():
    with pytest.raises(ValueError, match=r"width of a scaling rule must be a number, 1 or more, got 0\.9"):
        ScalingRule(width=0.9)


def test_coefficients_are_finite():
    with pytest.raises(ValueError, match="depth must be finite, got nan"):
        scale(BASE, depth=math.nan)
