from dataclasses import asdict

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from effdet.models.architecture import Architecture
from effdet.models.network import Network
from effdet.models.published import FAMILIES, GOOGLE_MODELS, list_variants

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


# Millions of parameters at 90 classes of the models of PyPI's effdet 0.4.1, and of some the tensors in its state dict.
PEER_PARAMETERS = {
    "efficientdet_d0": 3.88, "efficientdet_d1": 6.62, "efficientdet_d2": 8.09, "efficientdet_d3": 12.02,
    "efficientdet_d4": 20.72, "efficientdet_d5": 33.65, "efficientdetv2_dt": 13.43, "efficientdetv2_ds": 26.58,
    "resdet50": 27.61, "cspresdet50": 24.31, "cspresdext50": 22.62, "cspresdext50pan": 22.21, "cspdarkdet53": 30.33,
    "cspdarkdet53m": 35.60, "mixdet_m": 3.43, "mixdet_l": 5.90, "mobiledetv2_110d": 2.97, "mobiledetv2_120d": 4.30,
    "mobiledetv3_large": 3.38, "efficientdet_q0": 4.13, "efficientdet_q1": 6.98, "efficientdet_q2": 8.82,
    "efficientdet_w0": 4.29, "efficientdet_es": 5.93, "efficientdet_em": 9.35, "efficientdet_lite0": 3.24,
    "tf_efficientdet_d0": 3.88, "tf_efficientdet_d1": 6.63, "tf_efficientdet_d2": 8.10, "tf_efficientdet_d3": 12.03,
    "tf_efficientdet_d4": 20.72, "tf_efficientdet_d5": 33.65, "tf_efficientdet_d6": 51.87, "tf_efficientdet_d7": 51.87,
    "tf_efficientdet_d7x": 77.15, "tf_efficientdet_lite0": 3.24, "tf_efficientdet_lite1": 4.25,
    "tf_efficientdet_lite2": 5.25, "tf_efficientdet_lite3": 8.35, "tf_efficientdet_lite3x": 9.28,
    "tf_efficientdet_lite4": 15.13, "tf_efficientdet_d0_ap": 3.88, "tf_efficientdet_d1_ap": 6.63,
    "tf_efficientdet_d2_ap": 8.10, "tf_efficientdet_d3_ap": 12.03, "tf_efficientdet_d4_ap": 20.72,
    "tf_efficientdet_d5_ap": 33.65,
}  # fmt: skip
PEER_TENSORS = {
    "efficientdet_d0": 748, "tf_efficientdet_d0": 784, "tf_efficientdet_d5": 1622, "tf_efficientdet_d7x": 2210,
    "tf_efficientdet_lite0": 696, "tf_efficientdet_lite4": 1260,
}  # fmt: skip


# google/automl, efficientdet/hparams_config.py at commit 6a54c87: backbone, input, width, cells, layers in a head,
# anchor scale, coarsest level, fusion ("fastattn" is "fast").
PUBLISHED_SETTINGS = {
    "d0": ("tf_efficientnet_b0", 512, 64, 3, 3, 4.0, 7, "fast"),
    "d1": ("tf_efficientnet_b1", 640, 88, 4, 3, 4.0, 7, "fast"),
    "d2": ("tf_efficientnet_b2", 768, 112, 5, 3, 4.0, 7, "fast"),
    "d3": ("tf_efficientnet_b3", 896, 160, 6, 4, 4.0, 7, "fast"),
    "d4": ("tf_efficientnet_b4", 1024, 224, 7, 4, 4.0, 7, "fast"),
    "d5": ("tf_efficientnet_b5", 1280, 288, 7, 4, 4.0, 7, "fast"),
    "d6": ("tf_efficientnet_b6", 1280, 384, 8, 5, 4.0, 7, "sum"),
    "d7": ("tf_efficientnet_b6", 1536, 384, 8, 5, 5.0, 7, "sum"),
    "d7x": ("tf_efficientnet_b7", 1536, 384, 8, 5, 4.0, 8, "sum"),
    "lite0": ("tf_efficientnet_lite0", 320, 64, 3, 3, 3.0, 7, "sum"),
    "lite1": ("tf_efficientnet_lite1", 384, 88, 4, 3, 3.0, 7, "sum"),
    "lite2": ("tf_efficientnet_lite2", 448, 112, 5, 3, 3.0, 7, "sum"),
    "lite3": ("tf_efficientnet_lite3", 512, 160, 6, 4, 4.0, 7, "sum"),
    "lite3x": ("tf_efficientnet_lite3", 640, 200, 6, 4, 3.0, 7, "sum"),
    "lite4": ("tf_efficientnet_lite4", 640, 224, 7, 4, 4.0, 7, "sum"),
}
# The same source: of pixels in 0…255; AdvProp's checkpoints scale them to -1…1.
PUBLISHED_MEAN = {"d": (123.675, 116.28, 103.53), "lite": (127.0, 127.0, 127.0), "ap": (127.5, 127.5, 127.5)}
PUBLISHED_STD = {"d": (58.395, 57.12, 57.375), "lite": (128.0, 128.0, 128.0), "ap": (127.5, 127.5, 127.5)}


@pytest.mark.parametrize("name", PUBLISHED_SETTINGS)
def test_settings_are_the_published_ones(name):
    backbone, side, channels, cells, layers, anchor_scale, max_level, fusion = PUBLISHED_SETTINGS[name]
    found = Architecture.named(name)
    assert (found.backbone, found.image_size) == (backbone, (side, side))
    assert (found.channels, found.neck_repeats, found.head_repeats) == (channels, cells, layers)
    assert (found.min_level, found.max_level) == (3, max_level)
    assert (found.anchor_scale, found.scales_per_octave, found.anchors_per_cell) == (anchor_scale, 3, 9)
    assert [width / height for width, height in found.aspect_ratios] == pytest.approx([1.0, 2.0, 0.5])
    assert [width * height for width, height in found.aspect_ratios] == pytest.approx([1.0, 1.0, 1.0])
    assert (found.neck, found.fusion, found.separable, found.in_channels) == ("bifpn", fusion, True, 3)
    assert found.activation == ("relu6" if "lite" in name else "silu")
    assert found.stochastic_depth == (0.0 if name == "d0" else 0.2)  # survival 0.8 of the last block; B0 has none


@pytest.mark.parametrize("name", [*PUBLISHED_SETTINGS, *(f"d{n}_ap" for n in range(6))])
def test_pixels_are_normalised_as_published(name):
    kind = "ap" if name.endswith("_ap") else "lite" if name.startswith("lite") else "d"
    found = Architecture.named(name)
    assert (found.mean, found.std) == (PUBLISHED_MEAN[kind], PUBLISHED_STD[kind])


@pytest.mark.parametrize("name", PUBLISHED_SETTINGS)
def test_the_effdet_package_has_the_same_networks_with_rounded_anchors(name):
    google, effdet = Architecture.named(name), Architecture.named(f"tf_efficientdet_{name}")
    assert effdet.aspect_ratios == ((1.0, 1.0), (1.4, 0.7), (0.7, 1.4))
    changed = {field for field, value in asdict(effdet).items() if value != asdict(google)[field]}
    assert changed <= {"aspect_ratios", "mean", "std", "stochastic_depth"}
    assert effdet.mean == ((127.5, 127.5, 127.5) if "lite" in name else google.mean)


def network_without_storage(name: str) -> Network:
    variant = Architecture.named(name)
    with torch.device("meta"):
        return Network(variant, 90, stochastic_depth=variant.stochastic_depth).eval()


@pytest.mark.parametrize("name", GOOGLE_MODELS)
def test_parameters_and_anchors_equal_the_published_ones(name):
    network = network_without_storage(name)
    assert sum(p.numel() for p in network.parameters() if p.requires_grad) == PUBLISHED_PARAMETERS[name]
    with torch.no_grad():
        predictions = network(torch.empty(1, 3, *Architecture.named(name).image_size, device="meta"))
    assert predictions.class_logits.shape == (1, PUBLISHED_ANCHORS[name], 90)
    assert predictions.box_deltas.shape == (1, PUBLISHED_ANCHORS[name], 4)


@pytest.mark.parametrize("name", PUBLISHED_GMACS)
def test_multiply_adds_lie_within_two_percent_of_the_published_column(name):
    network = network_without_storage(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.empty(1, 3, *Architecture.named(name).image_size, device="meta"))
    gmacs = counter.get_total_flops() / 2e9  # the counter takes a multiply-add for two
    assert gmacs == pytest.approx(PUBLISHED_GMACS[name], rel=0.02)


@pytest.mark.parametrize("name", PEER_PARAMETERS)
def test_parameters_equal_those_of_the_effdet_package(name):
    network = network_without_storage(name)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(PEER_PARAMETERS[name], abs=0.0051)
    assert len(network.state_dict()) == PEER_TENSORS.get(name, len(network.state_dict()))


def test_the_effdet_family_has_the_47_names_of_the_package():
    assert sorted(list_variants("effdet")) == sorted(PEER_PARAMETERS)
    assert len(PEER_PARAMETERS) == 47


@pytest.mark.parametrize("n", range(9))
def test_zylos_models_are_googles_but_for_pooling_and_anchors(n):
    zylo, google = Architecture.named(f"efficientdet-d{n}"), Architecture.named("d7x" if n == 8 else f"d{n}")
    changed = {field for field, value in asdict(zylo).items() if value != asdict(google)[field]}
    assert changed - {"stochastic_depth"} == {"downsampling", "aspect_ratios"}
    assert zylo.downsampling == "max_zeros"


def test_families_do_not_share_a_name():
    names = [name for family in FAMILIES for name in list_variants(family)]
    assert len(names) == len(set(names)) == 15 + 47 + 9


def test_an_unknown_family_is_refused():
    with pytest.raises(ValueError, match="family must be one of google, effdet, zylo, got 'torchvision'"):
        list_variants("torchvision")


def test_list_variants_has_the_fifteen_published_models():
    assert list_variants() == list(PUBLISHED_PARAMETERS)
