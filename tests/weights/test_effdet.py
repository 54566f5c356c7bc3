import pytest
import torch

from effdet.models.architecture import Architecture
from effdet.models.network import Network
from effdet.models.published import list_variants
from effdet.weights.checkpoint import network_shapes
from effdet.weights.effdet import convert, effdet_name, recognises, to_effdet
from effdet.weights.effdet_names import fed_nodes, node_names

K = 5


def our_state(name, num_classes=K):
    """A state dict by our names with a value of its own in every tensor."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.rand(shape, generator=generator) + 0.5 if shape else torch.tensor(7)
        for key, shape in network_shapes(Architecture.named(name), num_classes).items()
    }


def their_state(name, num_classes=K):
    return to_effdet(our_state(name, num_classes), name)


def without_biases(state):
    """As the peer's ``redundant_bias=False`` leaves it: only the predictions keep theirs."""
    ends = ("conv_pw.bias", "conv.conv.bias")
    return {
        key: value
        for key, value in state.items()
        if key.startswith("backbone.") or "predict" in key or not key.endswith(ends)
    }


# From the published layout of tf_efficientdet_d0, of which these say where each kind of tensor stands.
D0_TENSORS = {
    "backbone.conv_stem.weight": (32, 3, 3, 3),
    "backbone.blocks.1.0.conv_pwl.weight": (24, 96, 1, 1),
    "fpn.resample.3.conv.conv.weight": (64, 320, 1, 1),
    "fpn.resample.3.conv.conv.bias": (64,),
    "fpn.resample.3.conv.bn.running_var": (64,),
    "fpn.cell.0.fnode.0.combine.edge_weights": (2,),
    "fpn.cell.0.fnode.1.combine.resample.2.conv.conv.weight": (64, 320, 1, 1),
    "fpn.cell.0.fnode.2.combine.resample.1.conv.conv.weight": (64, 112, 1, 1),
    "fpn.cell.0.fnode.3.combine.resample.0.conv.conv.weight": (64, 40, 1, 1),
    "fpn.cell.0.fnode.4.combine.resample.1.conv.bn.weight": (64,),
    "fpn.cell.0.fnode.5.combine.resample.2.conv.conv.weight": (64, 320, 1, 1),
    "fpn.cell.0.fnode.5.combine.edge_weights": (3,),
    "fpn.cell.2.fnode.7.combine.edge_weights": (2,),
    "fpn.cell.2.fnode.7.after_combine.conv.conv_dw.weight": (64, 1, 3, 3),
    "fpn.cell.2.fnode.7.after_combine.conv.conv_pw.bias": (64,),
    "fpn.cell.2.fnode.7.after_combine.conv.bn.running_mean": (64,),
    "class_net.conv_rep.2.conv_pw.weight": (64, 64, 1, 1),
    "class_net.bn_rep.2.4.bn.num_batches_tracked": (),
    "class_net.predict.conv_pw.weight": (45, 64, 1, 1),
    "box_net.predict.conv_dw.weight": (64, 1, 3, 3),
    "box_net.predict.conv_pw.bias": (36,),
}


def test_names_and_shapes_are_those_of_the_published_layout():
    shapes = {key: tuple(value.shape) for key, value in their_state("tf_efficientdet_d0").items()}
    assert {key: shapes.get(key) for key in D0_TENSORS} == D0_TENSORS
    assert len(shapes) == 784
    assert recognises(shapes)


def test_nodes_stand_in_the_published_order():
    assert node_names("bifpn", 5) == [
        *["top_down.0", "top_down.1", "top_down.2", "top_down.3"],
        *["bottom_up.0", "bottom_up.1", "bottom_up.2", "coarsest"],
    ]
    for neck, levels, count in [("bifpn", 6, 10), ("pan", 5, 10), ("quad", 5, 21)]:
        assert len(set(node_names(neck, levels))) == count


def test_quad_laterals_stand_beside_the_nodes_that_they_feed():
    """Published: the second half of a quad layer runs P4, P5, P6, P7 (nodes 8–11), then P6, P5, P4, P3 (12–15)."""
    nodes = node_names("quad", 5)
    assert {lateral: nodes.index(node) for lateral, node in fed_nodes("quad", 5).items()} == {
        **{"input_laterals.0": 3, "input_laterals.1": 2, "input_laterals.2": 1},
        **{"skip_laterals.0": 4, "skip_laterals.1": 5},
        **{"mirror_laterals.0": 8, "mirror_laterals.1": 8, "mirror_laterals.2": 9},
        **{"mirror_skip_laterals.0": 15, "mirror_skip_laterals.1": 14, "mirror_skip_laterals.2": 13},
    }


@pytest.mark.parametrize(
    "name",
    [
        "tf_efficientdet_d0",
        "tf_efficientdet_lite1",
        "efficientdet_q0",
        "cspresdext50pan",
        "resdet50",
        "efficientdetv2_dt",
        "mobiledetv3_large",
    ],
)
def test_every_tensor_comes_back(name):
    ours, theirs = our_state(name), their_state(name)
    checkpoint = convert(theirs, hint=name)
    assert (checkpoint.family, checkpoint.variant, checkpoint.num_classes) == ("effdet", name, K)
    assert checkpoint.state.keys() == ours.keys()
    assert all(torch.equal(checkpoint.state[key], value) for key, value in ours.items())
    assert checkpoint.sources.keys() == ours.keys()
    assert set(checkpoint.sources.values()) == theirs.keys()


@pytest.mark.slow
@pytest.mark.parametrize("name", list_variants("effdet"))
def test_every_model_is_found_from_names_and_shapes_with_its_own_name_as_hint(name):
    theirs = {key: value.to("meta") for key, value in their_state(name).items()}
    assert convert(theirs, hint=name).variant == name
    assert convert(theirs, hint=f"{name}-0123abcd.pth").variant == name
    unaided = convert(theirs)
    assert name in (unaided.variant, *unaided.alternatives)


@pytest.mark.parametrize("prefix", ["module.", "model.", "model.model.", "module.model.", "_orig_mod."])
def test_wrappers_and_the_anchors_of_a_bench_are_left_out(prefix):
    theirs = {prefix + key: value for key, value in their_state("tf_efficientdet_d0").items()}
    bench = prefix.removesuffix("model.") + "anchors.boxes"
    assert recognises(theirs)
    checkpoint = convert(theirs | {bench: torch.zeros(9, 4)})
    assert checkpoint.skipped == (bench,)
    assert checkpoint.state.keys() == our_state("tf_efficientdet_d0").keys()
    assert checkpoint.sources["class_head.bns.2.4.weight"] == f"{prefix}class_net.bn_rep.2.4.bn.weight"


def test_box_channels_change_from_ty_tx_th_tw_to_dx_dy_dw_dh():
    theirs = their_state("tf_efficientdet_d0")
    theirs["box_net.predict.conv_pw.bias"] = torch.arange(36.0)
    state = convert(theirs).state
    assert state["box_head.predict.pointwise.bias"][:8].tolist() == [1, 0, 3, 2, 5, 4, 7, 6]
    weight = theirs["box_net.predict.conv_pw.weight"]
    assert torch.equal(state["box_head.predict.pointwise.weight"][6], weight[7])


@pytest.mark.parametrize("name", ["tf_efficientdet_d0", "efficientdet_q0"])
def test_either_order_of_the_heads_bn_is_read(name):
    """The peer can toggle it for TorchScript, and then a checkpoint has the other one."""
    theirs, toggled = their_state(name), {}
    for key, value in theirs.items():
        net, _, rest = key.partition(".bn_rep.")
        if rest:
            first, second, leaf = rest.replace(".bn.", ".").split(".", 2)
            key = f"{net}.bn_rep.{second}.{first}.{'' if '.bn.' in rest else 'bn.'}{leaf}"
        toggled[key] = value
    assert toggled.keys() != theirs.keys()
    expected, found = convert(theirs).state, convert(toggled).state
    assert all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize(
    ("name", "hint", "expected"),
    [
        ("tf_efficientdet_d0_ap", "", "tf_efficientdet_d0"),
        ("tf_efficientdet_d0", "tf_efficientdet_d0_ap-d0cdbd0a.pth", "tf_efficientdet_d0_ap"),
        ("tf_efficientdet_d0", "d0_advprop.pth", "tf_efficientdet_d0_ap"),
        ("tf_efficientdet_d0", "tf_efficientdet_d0_34-f153e0cf.pth", "tf_efficientdet_d0"),
        ("tf_efficientdet_d0", "efficientdet_d0.pth", "tf_efficientdet_d0"),  # its biases speak louder
        ("tf_efficientdet_d0", "tf_efficientdet_d5.pth", "tf_efficientdet_d0"),  # and its shapes louder still
        ("tf_efficientdet_d4", "", "tf_efficientdet_d4"),
        ("tf_efficientdet_d4", "efficientdet_d4", "efficientdet_d4"),
        ("tf_efficientdet_d7", "", "tf_efficientdet_d6"),
        ("tf_efficientdet_d7", "tf_efficientdet_d7_53-6d1d7a95.pth", "tf_efficientdet_d7"),
        ("tf_efficientdet_d7", "best-d7.pth", "tf_efficientdet_d7"),
    ],
)
def test_a_hint_decides_between_models_that_fit_equally(name, hint, expected):
    meta = {key: value.to("meta") for key, value in their_state(name).items()}
    assert convert(meta, hint=hint).variant == expected


def test_alternatives_name_the_models_that_fit_as_well():
    assert convert(their_state("tf_efficientdet_d0")).alternatives == ("tf_efficientdet_d0_ap",)
    assert convert(without_biases(their_state("tf_efficientdet_d0"))).alternatives == ()


def test_a_file_without_redundant_biases_is_the_model_without_them():
    theirs = without_biases(their_state("tf_efficientdet_d0"))
    assert len(theirs) == 748
    assert convert(theirs, hint="tf_efficientdet_d0.pth").variant == "efficientdet_d0"
    checkpoint = convert(theirs, hint="tf_efficientdet_d0")  # an arch: trained with --no-redundant-bias
    assert checkpoint.variant == "tf_efficientdet_d0"
    assert not checkpoint.state["neck.layers.0.top_down.0.conv.pointwise.bias"].any()
    assert "neck.layers.0.top_down.0.conv.pointwise.bias" not in checkpoint.sources
    assert checkpoint.state.keys() == our_state("tf_efficientdet_d0").keys()


@pytest.mark.parametrize("name", ["efficientdet_d0", "resdet50"])
def test_redundant_biases_go_into_the_bn_without_changing_the_outputs(name):
    from dataclasses import replace

    torch.manual_seed(0)
    biased = Network(replace(Architecture.named(name), conv_bias=True), K, stochastic_depth=0.0).eval()
    for key, parameter in biased.named_parameters():
        if key.endswith("bias"):
            parameter.data.normal_(std=0.3)
    theirs = to_effdet_with_biases(biased.state_dict(), name)
    checkpoint = convert(theirs, hint=name)
    assert checkpoint.variant == name
    plain = Network(Architecture.named(name), K, stochastic_depth=0.0).eval()
    plain.load_state_dict(checkpoint.state)
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        ours, folded = biased(images), plain(images)
    torch.testing.assert_close(folded.class_logits, ours.class_logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(folded.box_deltas, ours.box_deltas, rtol=1e-4, atol=1e-4)


def to_effdet_with_biases(state, name):
    """Write a network whose biases its variant does not have, by renaming each bias beside its weight."""
    plain = {key: value for key, value in state.items() if key in network_shapes(Architecture.named(name), K)}
    theirs = to_effdet(plain, name)
    places = {id(value): key for key, value in theirs.items()}
    for key in state.keys() - plain.keys():
        weight = places[id(plain[key.removesuffix("bias") + "weight"])]
        theirs[weight.removesuffix("weight") + "bias"] = state[key]
    return theirs


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("fpn.cell.2.fnode.7.after_combine.conv.bn.weight"),
            r"fit tf_efficientdet_d0: 1 tensors missing",
        ),
        (lambda s: s.update({"backbone.extra.weight": torch.zeros(1)}), r"1 tensors unknown \(backbone.extra.weight\)"),
        (
            lambda s: s.update({"backbone.conv_stem.weight": torch.zeros(32, 4, 3, 3)}),
            r"of another shape \(backbone.conv_stem.weight \(32, 4, 3, 3\) for \(32, 3, 3, 3\)\)",
        ),
        (lambda s: s.pop("class_net.predict.conv_pw.bias"), r"must hold class_net.predict.conv.bias, which is missing"),
        (
            lambda s: s.update({"box_net.predict.conv_pw.bias": torch.zeros(48)}),
            r"must have heads for 9 anchors in each cell, got a box head for 12 and a class head with 45 outputs",
        ),
        (
            lambda s: [s.pop(key) for key in list(s) if key.startswith("fpn.cell.2.")],
            r"does not fit tf_efficientdet_d0: 64 tensors missing \(neck.layers.2",
        ),
    ],
)
def test_what_does_not_fit_is_listed(change, message):
    theirs = their_state("tf_efficientdet_d0")
    change(theirs)
    with pytest.raises(ValueError, match=message):
        convert(theirs)


def test_a_state_of_another_model_is_not_written():
    with pytest.raises(ValueError, match=r"the state is not that of tf_efficientdet_d1: \d+ tensors missing"):
        to_effdet(our_state("d0"), "tf_efficientdet_d1")


@pytest.mark.parametrize(
    ("variant", "name"),
    [
        ("d0", "tf_efficientdet_d0"),
        ("d7x", "tf_efficientdet_d7x"),
        ("lite3x", "tf_efficientdet_lite3x"),
        ("efficientdet-d8", "tf_efficientdet_d7x"),
        ("efficientdet_d0", "efficientdet_d0"),
    ],
)
def test_every_family_has_a_model_of_effdet_with_the_same_tensors(variant, name):
    assert effdet_name(variant) == name
    assert network_shapes(Architecture.named(variant), K) == network_shapes(Architecture.named(name), K)


def test_other_layouts_are_not_recognised():
    assert not recognises(our_state("d0"))
    assert not recognises(["bifpn.0.conv6_up.bn.weight", "classifier.header.pointwise_conv.conv.weight"])
    assert not recognises([])


def test_an_architecture_of_ones_own_has_no_model_in_effdet():
    with pytest.raises(ValueError, match="has none like 'custom'; save it in our own layout"):
        to_effdet({}, "custom")
