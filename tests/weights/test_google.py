import json
import runpy
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.models.architecture import Architecture
from effdet.models.network import Network
from effdet.models.published import GOOGLE_MODELS
from effdet.weights import google
from effdet.weights.checkpoint import network_shapes

# Number and SHA-256 of the sorted lines "name shape" of all variables that the original code makes.
NAMES = json.loads((Path(__file__).parent / "google_names.json").read_text())
seeded_value = runpy.run_path(str(Path(__file__).parents[1] / "peer" / "seeded_values.py"))["seeded_value"]


def shapes_in_file(variant: str, num_classes: int) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every variable that the converter looks for, as the original code would name it."""
    shapes = network_shapes(Architecture.named(variant), num_classes)
    backbone = "efficientnet-" + Architecture.named(variant).backbone.removeprefix("tf_efficientnet_")
    found = {}
    for own, parts in google._wanted(shapes, levels=Architecture.named(variant).num_levels).items():
        for part in parts:
            name = part.replace("/bn", "/tpu_batch_normalization") if part.startswith("backbone/") else part
            name = name.replace("backbone/", f"{backbone}/")
            shape = tuple(shapes[own])
            if own.endswith("edge_weights"):
                shape = ()
            elif len(shape) == 4:
                out, per_group, height, width = shape
                shape = (height, width, out, 1) if "depthwise_kernel" in name else (height, width, per_group, out)
            found[name] = shape
    return found


def fake(variant: str = "lite0", num_classes: int = 90) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = shapes_in_file(variant, num_classes)
    return {name: torch.rand(shape, generator=generator) for name, shape in shapes.items()}


@pytest.fixture(scope="module")
def lite0():
    return fake("lite0")


@pytest.fixture(scope="module")
def d0():
    return fake("d0")


@pytest.mark.parametrize("variant", NAMES)
def test_names_and_shapes_are_the_originals(variant):
    lines = sorted(f"{name} {shape}\n" for name, shape in shapes_in_file(variant, 90).items())
    assert [len(lines), sha256("".join(lines).encode()).hexdigest()] == NAMES[variant]


def test_outputs_equal_those_of_the_original_code():
    """A whole D0: the values are made from their names again, the outputs are the original code's.

    ``tests/peer/make_google_outputs.py`` wrote them, with the statistics of batch normalisation.
    """
    with np.load(Path(__file__).parent / "google_d0_outputs.npz") as file:
        recorded = {name: array.astype(np.float32) for name, array in file.items()}
    shapes = shapes_in_file("d0", 3)
    statistics = {name: recorded[name] for name in shapes if "moving_" in name}
    values = statistics | {name: seeded_value(name, shapes[name]) for name in shapes.keys() - statistics.keys()}

    checkpoint = google.convert({name: torch.from_numpy(np.asarray(value)) for name, value in values.items()})
    assert (checkpoint.variant, checkpoint.num_classes, checkpoint.skipped) == ("d0", 3, ())
    network = Network(Architecture.named("d0"), 3, stochastic_depth=0.0).eval()
    network.load_state_dict(checkpoint.state)
    with torch.inference_mode():
        given = network(torch.from_numpy(recorded["x"]).permute(0, 3, 1, 2))

    logits = np.concatenate([recorded[f"cls{level}"].reshape(1, -1, 3) for level in range(5)], 1)
    deltas = np.concatenate([recorded[f"box{level}"].reshape(1, -1, 4) for level in range(5)], 1)[..., [1, 0, 3, 2]]
    assert np.abs(given.class_logits.numpy() - logits).max() < 1e-4 * logits.std()
    assert np.abs(given.box_deltas.numpy() - deltas).max() < 1e-4 * deltas.std()


def test_kernels_get_the_axis_order_of_pytorch(lite0):
    state = google.convert(lite0).state
    block, backbone = "efficientnet-lite0/blocks_1", "backbone.blocks.1.0"
    assert torch.equal(state[f"{backbone}.conv_pw.weight"][5, 3, 0, 0], lite0[f"{block}/conv2d/kernel"][0, 0, 3, 5])
    depthwise = lite0[f"{block}/depthwise_conv2d/depthwise_kernel"]
    assert torch.equal(state[f"{backbone}.conv_dw.weight"][7, 0, 2, 1], depthwise[2, 1, 7, 0])
    stem = lite0["efficientnet-lite0/stem/conv2d/kernel"]
    assert torch.equal(state["backbone.conv_stem.weight"][9, 1, 0, 2], stem[0, 2, 1, 9])


def test_bn_keeps_its_four_parts(lite0):
    state = google.convert(lite0).state
    theirs, ours = "class_net/class-2-bn-4", "class_head.bns.2.1"
    assert torch.equal(state[f"{ours}.weight"], lite0[f"{theirs}/gamma"])
    assert torch.equal(state[f"{ours}.bias"], lite0[f"{theirs}/beta"])
    assert torch.equal(state[f"{ours}.running_mean"], lite0[f"{theirs}/moving_mean"])
    assert torch.equal(state[f"{ours}.running_var"], lite0[f"{theirs}/moving_variance"])


def test_deltas_are_reordered_and_classes_are_not(lite0):
    state = google.convert(lite0).state
    bias = lite0["box_net/box-predict/bias"].reshape(9, 4)  # ty, tx, th, tw
    assert torch.equal(state["box_head.predict.pointwise.bias"].reshape(9, 4), bias[:, [1, 0, 3, 2]])
    kernel = lite0["box_net/box-predict/pointwise_kernel"]
    assert torch.equal(state["box_head.predict.pointwise.weight"][4, :, 0, 0], kernel[0, 0, :, 5])
    assert torch.equal(state["class_head.predict.pointwise.bias"], lite0["class_net/class-predict/bias"])


def test_fusion_weights_are_gathered_in_order(d0):
    state = google.convert(d0).state
    scope = "fpn_cells/cell_1/fnode4"  # P4 of the bottom-up pass
    weights = torch.stack([d0[f"{scope}/WSM"], d0[f"{scope}/WSM_1"], d0[f"{scope}/WSM_2"]])
    assert torch.equal(state["neck.layers.1.bottom_up.0.fuse.edge_weights"], weights)


def test_averages_come_before_plain_values_and_these_are_listed(lite0):
    name = "class_net/class-predict/bias"
    given = dict(lite0)
    for variable, value in lite0.items():
        given[f"{variable}/ExponentialMovingAverage"] = value + 1
    checkpoint = google.convert(given)
    assert torch.equal(checkpoint.state["class_head.predict.pointwise.bias"], lite0[name] + 1)
    assert checkpoint.sources["class_head.predict.pointwise.bias"] == f"{name}/ExponentialMovingAverage"
    assert set(checkpoint.skipped) == set(lite0)


def test_averages_of_keras_come_first_where_there_are_some(lite0):
    """The optimizer averages what is trained; BN statistics have no average."""
    name = "class_net/class-predict/bias"
    checkpoint = google.convert({**lite0, f"MovingAverage/{name}/average": lite0[name] + 1})
    assert torch.equal(checkpoint.state["class_head.predict.pointwise.bias"], lite0[name] + 1)
    assert checkpoint.skipped == (name,)


def test_what_training_leaves_behind_is_skipped(lite0):
    extra = {
        "global_step": torch.tensor(3),
        "class_net/class-predict/bias/Momentum": torch.zeros(810),
        "SGD/class_net/class-predict/bias/momentum": torch.zeros(810),
        "efficientnet-lite0/head/conv2d/kernel": torch.zeros(1),
        "learning_rate": torch.tensor(0.1),
    }
    assert set(google.convert({**lite0, **extra}).skipped) == set(extra)


@pytest.mark.parametrize("bn", ["batch_normalization", "sync_batch_normalization"])
def test_any_name_of_a_bn_class_is_known(lite0, bn):
    renamed = {name.replace("tpu_batch_normalization", bn): value for name, value in lite0.items()}
    state = google.convert(renamed).state
    assert all(torch.equal(value, state[name]) for name, value in google.convert(lite0).state.items())


def test_half_precision_becomes_float32(lite0):
    state = google.convert({name: value.bfloat16() for name, value in lite0.items()}).state
    assert {value.dtype for value in state.values()} == {torch.float32}


@pytest.mark.parametrize("num_classes", [1, 21])
def test_classes_are_counted(num_classes):
    assert google.convert(fake("lite0", num_classes)).num_classes == num_classes


@pytest.mark.parametrize("variant", GOOGLE_MODELS)
def test_every_model_is_told_from_names_and_shapes(variant):
    shapes = shapes_in_file(variant, 90)
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    checkpoint = google.convert(meta, hint=f"efficientdet-{variant}")
    assert (checkpoint.variant, checkpoint.family) == (variant, "google")
    assert google.recognises(meta)


@pytest.mark.parametrize(
    ("hint", "variant"),
    [
        ("", "d0"),
        ("efficientdet-d0/model", "d0"),
        ("advprop/efficientdet-d0", "d0_ap"),
        ("google-advprop-efficientdet-d0.tar.gz", "d0_ap"),
        ("d0_ap", "d0_ap"),
    ],
)
def test_advprop_follows_the_name(d0, hint, variant):
    checkpoint = google.convert(d0, hint)
    assert {checkpoint.variant, *checkpoint.alternatives} == {"d0", "d0_ap"}
    assert checkpoint.variant == variant


@pytest.mark.parametrize(("hint", "variant"), [("", "d6"), ("efficientdet-d7", "d7"), ("efficientdet-d7x", "d6")])
def test_d7_is_told_from_d6_by_its_name(hint, variant):
    meta = {name: torch.empty(shape, device="meta") for name, shape in shapes_in_file("d6", 90).items()}
    checkpoint = google.convert(meta, hint)
    assert checkpoint.variant == variant
    assert checkpoint.alternatives == tuple({"d6", "d7"} - {variant})


def test_misfits_are_named_as_in_the_file(lite0):
    given = dict(lite0)
    del given["resample_p6/bn/gamma"]
    given["fpn_cells/cell_0/fnode9/extra"] = torch.zeros(1)
    given["box_net/box-0/bias"] = torch.zeros(3)
    with pytest.raises(ValueError, match="the checkpoint is not lite0 with 90 classes: ") as error:
        google.convert(given)
    message = str(error.value)
    assert "1 tensors missing (resample_p6/bn/gamma)" in message
    assert "1 tensors unknown (fpn_cells/cell_0/fnode9/extra)" in message
    assert "1 tensors of another shape (box_net/box-0/bias (3,) for (64,))" in message


def test_an_unpublished_model_is_described(lite0):
    given = {name.replace("lite0", "lite9"): value for name, value in lite0.items()}
    with pytest.raises(
        ValueError, match=r"it has backbone lite9, 64 channels, 3 cells of plain fusion, 3 layers .* P7"
    ):
        google.convert(given)


def test_odd_class_outputs_are_refused(lite0):
    given = {**lite0, "class_net/class-predict/bias": torch.zeros(7)}
    with pytest.raises(ValueError, match=r"class-predict/bias must have 9 numbers for each class, got 7"):
        google.convert(given)


def test_other_projects_are_not_recognised():
    assert not google.recognises(["fpn.cell.0", "class_net.predict", "box_net.predict"])
