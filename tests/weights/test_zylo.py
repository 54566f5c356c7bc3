from hashlib import sha256

import pytest
import torch

from effdet.models.architecture import Architecture
from effdet.models.published import list_variants
from effdet.weights import zylo
from effdet.weights.checkpoint import network_shapes

# Names that stand in the file of D0, typed from it: ours → theirs.
TYPED = {
    "backbone.conv_stem.weight": "backbone_net.model._conv_stem.conv.weight",
    "backbone.bn1.running_var": "backbone_net.model._bn0.running_var",
    "backbone.blocks.0.0.conv_dw.weight": "backbone_net.model._blocks.0._depthwise_conv.conv.weight",
    "backbone.blocks.0.0.bn1.weight": "backbone_net.model._blocks.0._bn1.weight",
    "backbone.blocks.0.0.conv_pw.weight": "backbone_net.model._blocks.0._project_conv.conv.weight",
    "backbone.blocks.0.0.bn2.bias": "backbone_net.model._blocks.0._bn2.bias",
    "backbone.blocks.1.0.conv_pw.weight": "backbone_net.model._blocks.1._expand_conv.conv.weight",
    "backbone.blocks.1.0.bn1.weight": "backbone_net.model._blocks.1._bn0.weight",
    "backbone.blocks.1.1.se.conv_reduce.bias": "backbone_net.model._blocks.2._se_reduce.conv.bias",
    "backbone.blocks.6.0.se.conv_expand.weight": "backbone_net.model._blocks.15._se_expand.conv.weight",
    "backbone.blocks.6.0.conv_pwl.weight": "backbone_net.model._blocks.15._project_conv.conv.weight",
    "backbone.blocks.6.0.bn3.num_batches_tracked": "backbone_net.model._blocks.15._bn2.num_batches_tracked",
    "neck.to_p6.conv.bias": "bifpn.0.p5_to_p6.0.conv.bias",
    "neck.to_p6.bn.weight": "bifpn.0.p5_to_p6.1.weight",
    "neck.input_laterals.0.conv.weight": "bifpn.0.p3_down_channel.0.conv.weight",
    "neck.input_laterals.2.bn.bias": "bifpn.0.p5_down_channel.1.bias",
    "neck.skip_laterals.0.conv.weight": "bifpn.0.p4_down_channel_2.0.conv.weight",
    "neck.skip_laterals.1.bn.running_mean": "bifpn.0.p5_down_channel_2.1.running_mean",
    "neck.layers.0.top_down.0.fuse.edge_weights": "bifpn.0.p6_w1",
    "neck.layers.1.top_down.3.fuse.edge_weights": "bifpn.1.p3_w1",
    "neck.layers.2.bottom_up.0.fuse.edge_weights": "bifpn.2.p4_w2",
    "neck.layers.0.coarsest.fuse.edge_weights": "bifpn.0.p7_w2",
    "neck.layers.0.top_down.0.conv.depthwise.weight": "bifpn.0.conv6_up.depthwise_conv.conv.weight",
    "neck.layers.1.top_down.3.conv.pointwise.bias": "bifpn.1.conv3_up.pointwise_conv.conv.bias",
    "neck.layers.2.bottom_up.2.bn.weight": "bifpn.2.conv6_down.bn.weight",
    "neck.layers.0.coarsest.conv.pointwise.weight": "bifpn.0.conv7_down.pointwise_conv.conv.weight",
    "class_head.convs.1.depthwise.weight": "classifier.conv_list.1.depthwise_conv.conv.weight",
    "class_head.bns.2.4.weight": "classifier.bn_list.4.2.weight",
    "class_head.predict.pointwise.bias": "classifier.header.pointwise_conv.conv.bias",
    "box_head.bns.0.3.running_var": "regressor.bn_list.3.0.running_var",
    "box_head.predict.depthwise.weight": "regressor.header.depthwise_conv.conv.weight",
}


def fake(variant: str = "efficientdet-d0", num_classes: int = 90) -> dict[str, torch.Tensor]:
    """Return a state dict as that project saves it, without values."""
    shapes, row = network_shapes(Architecture.named(variant), num_classes), Architecture.named(variant)
    names = zylo._names_in_file(row, shapes)
    state = {names[own]: torch.empty(shape, device="meta") for own, shape in shapes.items()}
    if row.fusion == "sum":  # made by that project, and not used
        for layer in range(row.neck_repeats):
            state |= {f"bifpn.{layer}.p6_w1": torch.ones(2), f"bifpn.{layer}.p5_w2": torch.ones(3)}
    return state


# SHA-256 of the sorted lines "name shape" of all tensors that the original code saves for D0.
NAMES_OF_D0 = "65a69afd1f4672dad2e5a6b5d433180249a9a2b645b3387a7fee385c0d88ba8f"


@pytest.fixture(scope="module")
def d0():
    return fake("efficientdet-d0")


def test_names_and_shapes_are_the_originals(d0):
    lines = sorted(f"{name} {tuple(tensor.shape)}\n" for name, tensor in d0.items())
    assert sha256("".join(lines).encode()).hexdigest() == NAMES_OF_D0


def test_names_are_those_in_the_file(d0):
    checkpoint = zylo.convert(d0)
    assert {own: checkpoint.sources[own] for own in TYPED} == TYPED
    assert len(set(checkpoint.sources.values())) == len(d0)


@pytest.mark.parametrize("prefix", ["module.", "model.", "module.model."])
def test_prefixes_of_wrappers_are_taken_off(d0, prefix):
    wrapped = {f"{prefix}{name}": value for name, value in d0.items()} | {"anchors": torch.zeros(1)}
    assert zylo.recognises(wrapped)
    checkpoint = zylo.convert(wrapped)
    assert checkpoint.skipped == ("anchors",)
    assert checkpoint.sources["neck.to_p6.conv.bias"] == f"{prefix}bifpn.0.p5_to_p6.0.conv.bias"


@pytest.mark.parametrize("variant", list_variants("zylo"))
def test_every_model_is_told_from_names_and_shapes(variant):
    state = fake(variant)
    checkpoint = zylo.convert(state, hint=f"{variant}.pth")
    assert (checkpoint.variant, checkpoint.family) == (variant, "zylo")
    assert len(checkpoint.state) == len(network_shapes(Architecture.named(variant), 90))
    assert all(name.split(".")[-1] in ("p6_w1", "p5_w2") for name in checkpoint.skipped)
    assert bool(checkpoint.skipped) == (variant in ("efficientdet-d6", "efficientdet-d7", "efficientdet-d8"))


def test_d8_has_one_level_more():
    names = fake("efficientdet-d8")
    assert {"bifpn.0.conv7_up.bn.weight", "bifpn.7.conv8_down.bn.weight", "regressor.bn_list.5.4.bias"} <= names.keys()


@pytest.mark.parametrize(
    ("hint", "variant"),
    [("", "efficientdet-d6"), ("efficientdet-d7.pth", "efficientdet-d7"), ("my_d7_run", "efficientdet-d7")],
)
def test_d7_is_told_from_d6_by_its_name(hint, variant):
    checkpoint = zylo.convert(fake("efficientdet-d6"), hint)
    assert checkpoint.variant == variant
    assert {variant, *checkpoint.alternatives} == {"efficientdet-d6", "efficientdet-d7"}


def test_misfits_are_named_as_in_the_file():
    given = fake()
    del given["bifpn.0.p6_w1"]
    given["bifpn.0.extra"] = torch.zeros(1)
    given["backbone_net.model._fc.bias"] = torch.zeros(1)  # the classifier's is no misfit
    with pytest.raises(ValueError, match=r"not efficientdet-d0 with 90 classes: 1 .*p6_w1\), 1 .*bifpn.0.extra\)$"):
        zylo.convert(given)


def test_other_widths_and_other_anchors_are_refused():
    given = fake()
    with pytest.raises(ValueError, match=r"must have 9 numbers for each class, got 7; models with other anchors"):
        zylo.convert({**given, "classifier.header.pointwise_conv.conv.bias": torch.zeros(7)})
    with pytest.raises(ValueError, match=r"levels\) are \(7, 3, 3, 5\); known are efficientdet-d0 \(64, 3, 3, 5\)"):
        zylo.convert({**given, "regressor.header.depthwise_conv.conv.weight": torch.zeros(7, 1, 3, 3)})


def test_other_projects_are_not_recognised():
    assert not zylo.recognises(["backbone_net.conv", "regressor.header.x", "fpn.cell.0"])
