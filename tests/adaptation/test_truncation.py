from dataclasses import replace

import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.adaptation.truncation import importance, truncate
from effdet.adaptation.widths import narrowed_uniformly, widths_of
from effdet.models.backbone_blocks import written_out

SMALL_WIDTHS = (
    *("stem", "stage 0 output", "stage 1 output", "stage 2 output", "stage 3 output"),
    *("block 1.1 expansion", "block 2.0 expansion", "stage 2 expansions", "neck", "heads"),
)


def outputs(model):
    torch.manual_seed(1)
    images = torch.randn(2, model.architecture.in_channels, *model.image_size)
    with torch.no_grad():
        predictions = model.network(images)
    return predictions.class_logits, predictions.box_deltas


def make_model(architecture):
    torch.manual_seed(0)
    return EfficientDet(replace(architecture, image_size=(64, 64)), num_classes=3).eval()


@pytest.mark.parametrize("name", ["lite0", "d0"])
def test_a_network_that_keeps_all_channels_is_identical(name):
    model = make_model(Architecture.named(name))
    same = truncate(model, written_out(model.architecture))
    assert same is not model
    for before, after in zip(outputs(model), outputs(same), strict=True):
        assert torch.equal(before, after)


def test_a_narrower_detector_reads_images_as_the_first_one(small_model):
    small_model.value_range, small_model.predict_threshold = (0.0, 1000.0), 0.125
    width = widths_of(small_model.architecture)["neck"]
    cut = truncate(small_model, width.set(next(width.smaller())))
    assert (cut.value_range, cut.predict_threshold) == ((0.0, 1000.0), 0.125)


def zero(model, names, index):
    """Set the slices of channels to 0 in all dimensions that are shorter in ``names``, a narrower state dict."""
    state = model.network.state_dict()
    for name, narrow in names.items():
        for dim, (old, new) in enumerate(zip(state[name].shape, narrow.shape, strict=True)):
            if old != new:
                state[name].index_fill_(dim, index, 0.0)


@pytest.mark.parametrize("name", SMALL_WIDTHS)
def test_cutting_channels_that_are_zero_changes_no_output(name, small_model):
    width = widths_of(small_model.architecture)[name]
    target = width.set(next(width.smaller()))
    names = EfficientDet(target, num_classes=3).network.state_dict()
    count = width.value - next(width.smaller())
    zero(small_model, names, torch.randperm(min(16, width.value))[:count])

    cut = truncate(small_model, target)
    assert cut.architecture == target
    for before, after in zip(outputs(small_model), outputs(cut), strict=True):
        torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("fusion", ["channel_fast", "channel_softmax"])
def test_fusion_weights_of_each_channel_are_cut_too(fusion, small_architecture):
    model = make_model(replace(small_architecture, fusion=fusion, head_channels=32))
    target = widths_of(model.architecture)["neck"].set(8)
    assert [tuple(bn.shape) for bn in outputs(truncate(model, target))] == [(2, 774, 3), (2, 774, 4)]


@pytest.mark.parametrize("neck", ["fpn", "pan", "nas_fpn", "full", "quad"])
def test_every_neck_can_be_cut(neck, small_architecture):
    model = make_model(replace(small_architecture, neck=neck, separable=False))
    for name in ("neck", "heads"):
        width = widths_of(model.architecture)[name]
        target = width.set(8)
        names = EfficientDet(target, num_classes=3).network.state_dict()
        zero(model, names, torch.arange(8, width.value))
        for before, after in zip(outputs(model), outputs(truncate(model, target)), strict=True):
            torch.testing.assert_close(after, before, atol=1e-3, rtol=1e-3)


def test_of_repeated_layers_the_first_stay(small_model):
    one = truncate(small_model, replace(small_model.architecture, neck_repeats=1, head_repeats=1))
    before, after = small_model.network.state_dict(), one.network.state_dict()
    assert len(one.network.neck.layers) == len(one.network.class_head.convs) == 1
    assert all(torch.equal(before[name], value) for name, value in after.items())


def test_several_widths_can_be_cut_at_once(small_model):
    target = narrowed_uniformly(small_model.architecture, 0.5)
    cut = truncate(small_model, target)
    by_steps = truncate(truncate(small_model, widths_of(small_model.architecture)["heads"].set(16)), target)
    assert cut.architecture == by_steps.architecture == target
    assert all(values.isfinite().all() for values in outputs(cut))


def test_importance_is_the_sum_of_relative_norms():
    kernel = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[0.0, 10.0]]])  # norms 5, 0, 10; mean 5
    scale = torch.tensor([1.0, -4.0, 1.0])  # mean of the absolute values 2
    assert importance([kernel, scale]).tolist() == [1.5, 2.0, 2.5]


def test_the_most_important_channels_stay_in_their_order(small_model):
    block = small_model.network.backbone.blocks[1][1]
    strong = torch.tensor([3, 7, 8, 11, 20, 21, 30, 40])
    for tensor in (block.conv_pw.weight, block.bn1.weight, block.conv_dw.weight, block.bn2.weight):
        tensor.data[strong] += 10 * tensor.data.abs().max()
    cut = truncate(small_model, widths_of(small_model.architecture)["block 1.1 expansion"].set(8))
    narrow = cut.network.backbone.blocks[1][1]
    assert torch.equal(narrow.conv_pw.weight, block.conv_pw.weight[strong])
    assert torch.equal(narrow.conv_pwl.weight, block.conv_pwl.weight[:, strong])


def test_a_cut_network_trains_and_keeps_its_classes(small_model, tmp_path):
    small_model.class_names, small_model.category_ids = ("a", "b", "c"), (4, 5, 9)
    cut = truncate(small_model, widths_of(small_model.architecture)["stage 1 output"].set(8)).train()
    targets = [{"boxes": torch.tensor([[4.0, 4.0, 40.0, 40.0]]), "labels": torch.tensor([1])}] * 2
    sum(cut([torch.rand(3, 64, 96)] * 2, targets).values()).backward()
    assert all(parameter.grad is not None for parameter in cut.network.parameters())
    cut.save_pretrained(tmp_path / "cut.safetensors")
    loaded = EfficientDet.from_pretrained(tmp_path / "cut.safetensors")
    assert (loaded.architecture, loaded.class_names, loaded.category_ids) == (
        cut.architecture,
        ("a", "b", "c"),
        (4, 5, 9),
    )


def test_the_model_itself_is_not_changed(small_model):
    before = {name: value.clone() for name, value in small_model.network.state_dict().items()}
    truncate(small_model, narrowed_uniformly(small_model.architecture, 0.5))
    assert all(torch.equal(before[name], value) for name, value in small_model.network.state_dict().items())


def test_another_network_is_refused(small_model):
    with pytest.raises(ValueError, match="differs in smaller widths or depths alone"):
        truncate(small_model, replace(small_model.architecture, channels=48))
