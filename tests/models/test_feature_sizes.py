import math

import pytest
import timm
import torch
from torch import nn

from effdet.models.architecture import Architecture
from effdet.models.backbones import _create, _options, build_backbone
from effdet.models.feature_sizes import Edge, cells, features_of, keep_edges, measure


def architecture(backbone, min_level=3):
    small = {"channels": 8, "neck_repeats": 1, "head_repeats": 1}
    return Architecture(backbone=backbone, image_size=(64, 64), min_level=min_level, **small)


def build(backbone, **options):
    torch.manual_seed(0)
    return build_backbone(architecture(backbone, **options), 0.0).eval()


@pytest.mark.parametrize(
    ("backbone", "edge"),
    [
        ("mobilenetv3_small_050", Edge.rounds_up),
        ("resnet10t", Edge.rounds_up),
        ("convnext_atto", Edge.rounds_down),
        ("mobilenetv4_conv_aa_medium", Edge.rounds_down),
        ("inception_v4", Edge.cuts),
    ],
)
@pytest.mark.parametrize("min_level", [2, 3])
def test_every_size_has_all_its_cells(backbone, edge, min_level):
    model = build(backbone, min_level=min_level)
    assert model.edge is edge
    for height, width in ((64, 96), (70, 93), (129, 33), (65, 127)):
        with torch.no_grad():
            features = features_of(model, torch.randn(1, 3, height, width))
        assert [tuple(x.shape[2:]) for x in features] == [
            (math.ceil(height / 2**level), math.ceil(width / 2**level)) for level in range(min_level, 6)
        ]


def test_a_size_that_32_divides_reaches_the_backbone_as_it_is():
    model, plain = build("convnext_atto"), timm.create_model("convnext_atto", features_only=True, out_indices=(1, 2, 3))
    plain.eval().load_state_dict(model.state_dict())
    images = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(features_of(model, images), plain(images), strict=True))


def test_a_padded_image_gives_the_cells_of_one_with_zeros_at_its_edges():
    model = build("convnext_atto")
    images = torch.zeros(1, 3, 96, 64)
    images[..., :70, :50] = torch.randn(1, 3, 70, 50)
    with torch.no_grad():
        whole, part = model(images), features_of(model, images[..., :70, :50])
    assert all(torch.equal(x[..., : y.shape[2], : y.shape[3]], y) for x, y in zip(whole, part, strict=True))


def test_layers_that_cut_the_edge_are_padded_and_no_others():
    layers = nn.Sequential(
        *(nn.Conv2d(1, 1, 3, 2), nn.MaxPool2d(3, 2), nn.AvgPool2d(3, 1), nn.Conv2d(1, 1, (1, 7))),
        *(nn.Conv2d(1, 1, 4, 4), nn.MaxPool2d(2, 2), nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding="same")),
    )
    keep_edges(layers)
    assert [layer.padding for layer in layers] == [(1, 1), (1, 1), (1, 1), (0, 3), (0, 0), 0, (1, 1), "same"]
    assert layers[:4](torch.randn(1, 1, 63, 63)).shape[2:] == (16, 16)
    torch.testing.assert_close(layers[2](torch.ones(1, 1, 5, 5)), torch.ones(1, 1, 5, 5))  # a mean of what is there


@pytest.mark.parametrize("backbone", ["efficientnet_b0", "tf_mixnet_s", "mobilenetv4_conv_small_050", "lcnet_050"])
def test_what_is_not_measured_is_so(backbone):
    with torch.device("meta"):
        probe = _create(architecture(backbone), **_options(architecture(backbone)))
    measured = measure(backbone, probe)
    assert (measured.edge, measured.unused) == (Edge.rounds_up, ())


def test_cells_are_counted_up():
    assert cells((65, 64), (8, 16, 32)) == [(9, 8), (5, 4), (3, 2)]
