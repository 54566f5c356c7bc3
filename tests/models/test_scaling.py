import pytest

from effdet.models.published import GOOGLE_MODELS
from effdet.models.scaling import bifpn_width, compound_scale


def test_widths_are_those_of_the_formula_by_hand():
    # 64·1.35^φ worked out with a pocket calculator.
    by_hand = [64.00, 86.40, 116.64, 157.464, 212.5764, 286.97814]
    assert [bifpn_width(phi) for phi in range(6)] == pytest.approx(by_hand)


@pytest.mark.parametrize("phi", [0, 1, 3])
def test_formula_and_published_table_agree_where_the_paper_rounds_to_eight(phi):
    scale, published = compound_scale(phi), GOOGLE_MODELS[f"d{phi}"]
    assert (scale.channels, scale.neck_repeats, scale.head_repeats) == (
        published.channels,
        published.neck_repeats,
        published.head_repeats,
    )
    assert (scale.image_size, scale.image_size) == published.image_size


@pytest.mark.parametrize(
    ("phi", "name"), [(0, "d0"), (1, "d1"), (2, "d2"), (3, "d3"), (4, "d4"), (5, "d5"), (6, "d6"), (7, "d7")]
)
def test_head_depth_holds_for_every_published_model(phi, name):
    assert compound_scale(phi).head_repeats == GOOGLE_MODELS[name].head_repeats


def test_the_table_departs_from_the_formula_where_the_docstring_says():
    assert compound_scale(2).channels == 120  # published 112
    assert compound_scale(4).channels == 216  # published 224
    assert compound_scale(5).image_size == 1152  # published 1280
    assert compound_scale(7).neck_repeats == 10  # published 8


def test_phi_must_not_be_negative():
    with pytest.raises(ValueError, match="phi must be 0 or more, got -1"):
        compound_scale(-1)
