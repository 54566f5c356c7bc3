"""The fused passes against the plain modules, and both against the plain modules in float64."""

import copy
import pickle
from dataclasses import replace
from typing import get_args

import pytest
import torch
from timm.layers.norm_act import BatchNormAct2d
from timm.models._efficientnet_blocks import DepthwiseSeparableConv, InvertedResidual
from torch import nn

from effdet.detector.efficientdet import EfficientDet
from effdet.kernels import blocks as training_blocks
from effdet.kernels.blocks import (
    FusedDepthwiseSeparable,
    FusedHead,
    FusedInvertedResidual,
    FusedNode,
    FusedStemNorm,
    fuse_for_training,
)
from effdet.models.architecture import Architecture, Fusion
from effdet.models.heads import DenseHead
from effdet.models.necks.fusion import FusionNode
from effdet.training.freezing import freeze, train_mode
from tests.kernels.block_passes import BLOCKS, OneList, errors, fused_copy, lively, needs_kernels, passes


def assert_as_exact_as_plain(plain, fused, inputs, **options):
    exact = passes(copy.deepcopy(plain).double(), inputs, **options)
    plain_errors = errors(exact, passes(plain, inputs, **options))
    for name, error in errors(exact, passes(fused, inputs, **options)).items():
        assert error < 1e-5 + 3 * plain_errors[name], f"{name}: {error:.1e}, plain {plain_errors[name]:.1e}"


@needs_kernels
@pytest.mark.parametrize("options", BLOCKS)
@pytest.mark.parametrize("squeeze", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("size", [(16, 20), (15, 9)])
def test_fused_inverted_residual_is_as_exact_as_plain(options, squeeze, frozen, size):
    from timm.models._efficientnet_blocks import SqueezeExcite

    torch.manual_seed(0)
    act, se = (nn.SiLU, SqueezeExcite) if squeeze else (nn.ReLU6, None)
    block = lively(InvertedResidual(**options, act_layer=act, se_layer=se))
    x = torch.randn(3, options["in_chs"], *size)
    assert_as_exact_as_plain(block, fused_copy(block, FusedInvertedResidual), [x], frozen=frozen)


@needs_kernels
@pytest.mark.parametrize("frozen", [True, False])
def test_fused_depthwise_separable_is_as_exact_as_plain(frozen):
    torch.manual_seed(0)
    block = lively(DepthwiseSeparableConv(24, 16, pad_type="same", act_layer=nn.SiLU))
    x = torch.randn(2, 24, 13, 18)
    assert_as_exact_as_plain(block, fused_copy(block, FusedDepthwiseSeparable), [x], frozen=frozen)


@needs_kernels
@pytest.mark.parametrize("fusion", get_args(Fusion))
@pytest.mark.parametrize(("activation", "order"), [("silu", "act_conv_bn"), ("relu6", "conv_bn_act")])
def test_fused_node_is_as_exact_as_plain(fusion, activation, order):
    torch.manual_seed(0)
    node = lively(FusionNode(16, 3, fusion=fusion, activation=activation, order=order))
    if fusion != "sum":
        weights = torch.tensor([0.7, -0.2, 1.4])
        node.fuse.edge_weights.data.copy_(weights if node.fuse.edge_weights.ndim == 1 else weights[:, None])
    assert_as_exact_as_plain(node, fused_copy(node, FusedNode), [torch.randn(2, 16, 7, 10) for _ in range(3)])


@needs_kernels
@pytest.mark.parametrize("width", [None, 16])
def test_fused_head_is_as_exact_as_plain(width):
    torch.manual_seed(0)
    head = lively(DenseHead(24, 2, 2, num_anchors=3, num_outputs=5, width=width))
    fused = fused_copy(head, FusedHead)
    pyramid = [torch.randn(2, 24, 8, 10), torch.randn(2, 24, 4, 5)]
    assert_as_exact_as_plain(OneList(head), OneList(fused), pyramid)


def test_a_head_is_fused_if_all_its_convolutions_fit():
    heads = [DenseHead(16, 1, 1, num_anchors=1, num_outputs=4, width=width) for width in (8, 12)]
    network = nn.Module()
    network.backbone, network.neck = nn.Identity(), nn.Identity()
    network.class_head, network.box_head = heads
    fuse_for_training(network)
    assert [type(head) for head in heads] == [FusedHead, DenseHead]


@needs_kernels
@pytest.mark.parametrize("kind", ["node", "block", "stem", "head"])
def test_a_single_value_per_channel_is_refused_as_pytorch_refuses_it(kind):
    module, fused = {
        "node": lambda: (FusionNode(16, 1, fusion="sum", activation="silu"), FusedNode),
        "block": lambda: (InvertedResidual(16, 16, act_layer=nn.SiLU), FusedInvertedResidual),
        "stem": lambda: (BatchNormAct2d(16, act_layer=nn.SiLU), FusedStemNorm),
        "head": lambda: (DenseHead(16, 1, 1, num_anchors=1, num_outputs=4), FusedHead),
    }[kind]()
    x = torch.randn(1, 16, 1, 1)
    before = copy.deepcopy(module.state_dict())
    call = (lambda: module([x])) if kind == "head" else (lambda: module(x))
    with pytest.raises(ValueError, match="more than 1 value per channel when training"):
        call()
    module.load_state_dict(before)
    module.__class__ = fused
    with pytest.raises(ValueError, match="more than 1 value per channel when training"):
        call()
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


# -- the whole network -----------------------------------------------------------------------------------------------


def network(name="lite0", size=(64, 96)):
    torch.manual_seed(0)
    return EfficientDet(name, 3, image_size=size, stochastic_depth=0.0).network.to(memory_format=torch.channels_last)


def losses(model, x):
    predictions = model(x)
    return predictions.class_logits.sigmoid().sum() + predictions.box_deltas.square().sum()


@pytest.mark.parametrize("name", ["d0", "lite0"])
def test_everything_that_costs_time_is_fused_and_names_stay(name):
    model = network(name)
    names = list(model.state_dict())
    fuse_for_training(model)
    kinds = [type(module) for module in model.modules()]
    assert InvertedResidual not in kinds
    assert DepthwiseSeparableConv not in kinds
    assert FusionNode not in kinds
    assert kinds.count(FusedHead) == 2
    assert list(model.state_dict()) == names


WRITTEN = (
    ("ds_r1_k3_s1_c12_se0.25",),
    ("ir_r2_k3_s2_e3.5_c20_se0.25", "ir_r1_k5_s1_e2_c24_nr6"),
    ("er_r1_k3_s2_e4_c36",),
    ("ir_r1_k7_s2_e2_c40", "ir_r1_a3_k3_s1_e2_c40", "ir_r1_k3_s1_e2_c40_gs8", "ir_r2_k5_s1_e1.8_c40_se0.1_noskip"),
    ("ir_r1_k3.5_s2_e6_c56", "dsa_r1_k3_s1_c64", "uir_r1_a3_k5_s1_e2_c64"),
)


@needs_kernels
@pytest.mark.parametrize("backbone", ["tf_efficientnet_b0", "tf_mixnet_s"])
def test_blocks_of_any_form_are_as_exact_as_plain(backbone):
    blocks = WRITTEN if backbone == "tf_efficientnet_b0" else None
    own = replace(Architecture.named("d0"), backbone=backbone, backbone_blocks=blocks, stem_channels=blocks and 14)
    torch.manual_seed(0)
    plain = EfficientDet(own, 3, stochastic_depth=0.0).network
    lively(plain.backbone)
    fused = copy.deepcopy(plain)
    fuse_for_training(fused)
    assert (blocks is None) == (FusedInvertedResidual not in map(type, fused.backbone.modules()))
    plain, fused = (nn.Sequential(model.backbone, Joined()) for model in (plain, fused))
    assert_as_exact_as_plain(plain, fused, [torch.randn(2, 3, 64, 96)])


class Joined(nn.Module):
    """Put all maps into one row for each image."""

    def forward(self, maps):
        return torch.cat([x.flatten(1) for x in maps], 1)


@needs_kernels
@pytest.mark.parametrize("checkpointing", [True, False])
def test_a_frozen_stem_and_recomputed_activations_change_nothing(checkpointing):
    plain = network("d0")  # smooth: ReLU6 has kinks, where rounding decides between the gradients 0 and 1
    fused, exact = copy.deepcopy(plain), copy.deepcopy(plain).double()
    fuse_for_training(fused)
    x = torch.randn(2, 3, 64, 96)
    found = []
    for model in (exact, plain, fused):
        model.set_gradient_checkpointing(checkpointing)
        train_mode(model, freeze(model, "stem", bn_statistics=True))
        losses(model, x.to(next(model.parameters()).dtype)).backward()
        values = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
        found.append(values | {name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()})
    plain_errors, fused_errors = (errors(found[0], values) for values in found[1:])
    assert max(fused_errors.values()) < 3 * max(plain_errors.values()) < 0.01, fused_errors


def test_without_gradients_the_plain_modules_run():
    plain = network().eval()
    fused = copy.deepcopy(plain)
    fuse_for_training(fused)
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert torch.equal(plain(x).class_logits, fused(x).class_logits)


@pytest.mark.parametrize("why", ["no kernels", "no kernels, bfloat16", "float16", "float64"])
def test_the_plain_modules_run_where_kernels_do_not_apply(monkeypatch, why):
    plain = network().train()
    fused = copy.deepcopy(plain)
    fuse_for_training(fused)
    x = torch.randn(2, 3, 64, 96)
    if why.startswith("no kernels"):
        monkeypatch.setattr(training_blocks, "load_kernels", lambda: None)
    if why == "float64":
        plain, fused, x = plain.double(), fused.double(), x.double()
    dtype = torch.float16 if why == "float16" else torch.bfloat16
    with torch.autocast("cpu", dtype=dtype, enabled=why.endswith("float16")):
        assert torch.equal(plain(x).class_logits, fused(x).class_logits)


def test_blocks_that_somebody_watches_run_plain():
    model = network().train()
    fuse_for_training(model)
    seen = []
    block = model.backbone.blocks[2][1]
    block.bn2.register_forward_hook(lambda *_: seen.append(True))
    model(torch.randn(2, 3, 64, 96))
    assert seen == [True]


def test_a_fused_network_can_be_copied_and_pickled():
    model = network()
    fuse_for_training(model)
    again = pickle.loads(pickle.dumps(copy.deepcopy(model)))
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))


@needs_kernels
def test_the_same_step_gives_the_same_bits():
    model = network()
    fuse_for_training(model)
    model.train()
    x = torch.randn(2, 3, 64, 96)
    runs = []
    for _ in range(2):
        model.zero_grad()
        losses(model, x).backward()
        runs.append([parameter.grad.clone() for parameter in model.parameters()])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))
