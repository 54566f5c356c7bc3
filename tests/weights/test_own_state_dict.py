import pytest
import torch

from effdet import EfficientDet
from effdet.models.architecture import Architecture
from effdet.weights.checkpoint import network_shapes
from effdet.weights.own_state_dict import convert, mentioned, recognises


def empty_tensors(variant, num_classes=3):
    return {
        name: torch.empty(shape, device="meta")
        for name, shape in network_shapes(Architecture.named(variant), num_classes).items()
    }


def test_our_names_are_recognised_and_others_are_not():
    assert recognises(empty_tensors("lite0"))
    assert not recognises(["backbone.conv_stem.weight", "fpn.cell.0.fnode.0.combine.edge_weights"])


@pytest.mark.parametrize("variant", ["d0", "d1", "lite3", "lite3x", "efficientdet_q0", "cspresdext50pan", "d7x"])
def test_the_variant_follows_from_names_and_shapes(variant):
    found = convert(empty_tensors(variant, num_classes=7))
    assert (found.variant, found.num_classes, found.family) == (variant, 7, "ours")


def test_tensors_and_names_stay_as_they_are():
    state = EfficientDet("lite0", 2).network.state_dict()
    found = convert(state)
    assert found.state.keys() == state.keys()
    assert all(found.state[name] is state[name] for name in state)
    assert found.sources == {name: name for name in state}


def test_without_counters_of_batches_it_is_the_same_variant():
    state = {name: tensor for name, tensor in empty_tensors("lite0").items() if "num_batches" not in name}
    assert convert(state).variant == "lite0"


def test_a_name_decides_between_variants_that_fit_equally():
    state = empty_tensors("d6", num_classes=90)
    assert convert(state).variant == "d6"
    assert convert(state, "runs/d7.pth").variant == "d7"
    assert convert(state, "tf_efficientdet_d7_53-6d1d7a95.pth").variant == "tf_efficientdet_d7"
    assert set(convert(state).alternatives) == {
        *("d7", "tf_efficientdet_d6", "tf_efficientdet_d7", "efficientdet-d6", "efficientdet-d7")
    }


@pytest.mark.parametrize(
    ("hint", "name"),
    [("a/d0.pth", "d0"), ("d0_ap.pth", "d0_ap"), ("xd0.pth", ""), ("d01.pth", ""), ("D0", "d0"), ("", "")],
)
def test_a_name_counts_when_it_stands_alone(hint, name):
    assert mentioned(["d0", "d0_ap"], hint) == name


def test_what_differs_from_the_nearest_variant_is_listed():
    state = empty_tensors("lite0")
    state["neck.more"] = state.pop("backbone.conv_stem.weight")
    with pytest.raises(
        ValueError,
        match=r"does not fit lite0: 1 tensors missing \(backbone.conv_stem.weight\), 1 tensors unknown \(neck.more\)",
    ):
        convert(state)


def test_a_network_of_no_known_size_is_described():
    state = {name: tensor for name, tensor in empty_tensors("lite0").items() if not name.startswith("neck.layers.2.")}
    with pytest.raises(ValueError, match="fits no variant: it has 64 channels, 2 layers in the neck, 3 in a head, 5"):
        convert(state)


def test_a_file_that_cannot_tell_its_classes_is_refused():
    state = empty_tensors("lite0")
    state["class_head.predict.pointwise.bias"] = torch.empty(10)
    with pytest.raises(ValueError, match=r"each of the 9 anchors that .* has in a cell, got 10"):
        convert(state)
    del state["class_head.predict.pointwise.bias"]
    with pytest.raises(ValueError, match=r"has no class_head\.predict"):
        convert(state)
