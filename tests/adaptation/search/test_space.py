import random
from dataclasses import replace

import pytest
import torch

from effdet.adaptation.search.space import SPACES, SearchSpace, read_space
from effdet.config import ConfigError
from effdet.models.architecture import Architecture
from effdet.models.network import Network
from effdet.models.scaling import scale

BASE = Architecture.named("lite0")
EVERYTHING = {
    "backbone": ["tf_efficientnet_lite0", "mobilenetv3_small_100", "blocks"],
    "phi": {"low": -1.0, "high": 1.0},
    "neck": ["bifpn", "pan", "fpn"],
    "fusion": ["fast", "softmax", "sum"],
    "channels": {"low": 32, "high": 96, "step": 8},
    "neck_repeats": [1, 2, 3],
    "head_repeats": {"low": 1, "high": 3},
    "long_side": [256, 320],
    "blocks": {"se_of": ["input", "expansion"], "activations": ["relu", "hardswish"]},
}


class Draw:
    """A trial that draws at random, or takes what ``fixed`` says."""

    def __init__(self, seed=0, **fixed):
        self.random, self.fixed = random.Random(seed), fixed

    def suggest_categorical(self, name, choices):
        return self.fixed.get(name, self.random.choice(choices))

    def suggest_int(self, name, low, high, *, step=1):
        return self.fixed.get(name, self.random.randrange(low, high + 1, step))

    def suggest_float(self, name, low, high, *, step=None):
        return self.fixed.get(name, self.random.uniform(low, high))


@pytest.mark.sweep
@pytest.mark.slow
def test_each_of_200_random_points_is_an_architecture_that_can_be_built():
    space = SearchSpace.from_dict(EVERYTHING)
    space.check(BASE)
    found = [space.propose(Draw(seed), BASE) for seed in range(200)]
    assert len(set(found)) > 195
    for architecture in found:
        assert Architecture.from_dict(architecture.to_dict()) == architecture
        with torch.device("meta"):
            network = Network(architecture, 3, stochastic_depth=0.0)
        assert network.backbone.feature_info.reduction() == [8, 16, 32]


def test_what_is_not_free_stays():
    found = read_space(None, ["channels=8..64:8"]).propose(Draw(channels=48), BASE)
    assert found == replace(BASE, channels=48)


def test_phi_scales_the_whole_model_and_an_explicit_width_wins():
    space = read_space(None, ["phi=-1.0..1.0", "channels=24,40"])
    found = space.propose(Draw(phi=-0.5, channels=24), BASE)
    assert found == replace(scale(BASE, depth=-0.5, width=-0.5, resolution=-0.5), channels=24)


def test_the_long_side_becomes_an_input_of_the_shape_of_the_images():
    space = read_space(None, ["long_side=320,640"])
    found = space.propose(Draw(long_side=640), BASE, fit_input=lambda side: (side // 2, side))
    assert found == replace(BASE, image_size=(320, 640))


def test_sizes_can_be_given_as_pairs(tmp_path):
    (tmp_path / "space.yaml").write_text("image_size: [[256, 320], [320, 416]]\n")
    space = read_space(tmp_path / "space.yaml")
    space.check(BASE)
    assert {space.propose(Draw(seed), BASE).image_size for seed in range(9)} == {(256, 320), (320, 416)}


def test_a_named_backbone_replaces_blocks():
    space = SearchSpace.from_dict({"backbone": ["resnet18", "blocks"]})
    named = space.propose(Draw(backbone="resnet18"), BASE)
    assert (named.backbone, named.backbone_blocks) == ("resnet18", None)
    assert space.propose(Draw(backbone="blocks"), BASE).backbone_blocks is not None


@pytest.mark.parametrize("values", [*SPACES.values(), EVERYTHING])
def test_a_space_survives_being_written(values):
    space = SearchSpace.from_dict(values)
    space.check(BASE)
    assert SearchSpace.from_dict(space.to_dict()) == space


def test_options_are_laid_over_a_file(tmp_path):
    file = tmp_path / "space.yaml"
    file.write_text("neck: [bifpn, pan]\nchannels: [32, 48]\nblocks: {kernels: [3]}\n")
    space = read_space(file, ["channels=64,88"])
    assert space.dimensions["channels"].values == (64, 88)
    assert space.dimensions["neck"].values == ("bifpn", "pan")
    assert space.blocks.kernels == (3,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"chanels": [32]}, "search space: unknown dimension 'chanels'; did you mean 'channels'?"),
        ({"qqq": [32]}, "search space: unknown dimension 'qqq'; known: phi, long_side, backbone"),
        ({"channels": []}, "search space: channels must have at least one value, got an empty list"),
        ({"channels": [32, 32]}, r"search space: channels must have each value once, got \[32, 32\]"),
        ({"channels": {"low": 64, "high": 32}}, "a range of channels must have low < high, and may have a step, got"),
        ({"channels": {"low": 32, "hi": 64}}, "a range of channels must have low < high, and may have a step, got"),
        ({"phi": {"low": 0, "high": 1, "step": 0}}, "the step of phi must lie between 0 and high − low, got 0"),
        ({"long_side": [320], "image_size": [[320, 320]]}, "must have one of long_side and image_size, got both"),
        ({}, "a search space must have a free dimension; known: phi"),
        ([], r"a search space must be a section of dimensions, got \[\]"),
        ({"blocks": [3]}, "blocks must be a section with keys among base, operations"),
        ({"blocks": {"kernel": [3]}}, "unknown key 'blocks.kernel'; did you mean 'kernels'?"),
        ({"blocks": {"kernels": [2]}}, "search space: blocks.kernels must be odd whole numbers, got 2"),
    ],
)
def test_a_wrong_space_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace.from_dict(values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"neck": ["bifpn", "bipfn"]}, "search space: neck must be one of .*did you mean 'bifpn'"),
        ({"channels": [0, 8]}, "search space: channels must be 1 or more, got 0"),
        ({"channels": {"low": -8, "high": 64}}, "search space: channels must be 1 or more, got -8"),
        ({"phi": ["large"]}, "search space: phi must be a number, got 'large'"),
        ({"long_side": [16]}, "search space: long_side must be a whole number of 32 or more, got 16"),
        ({"image_size": [320]}, "search space: image_size must be two whole numbers"),
    ],
)
def test_a_value_that_no_architecture_has_is_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        SearchSpace.from_dict(values).check(BASE)


def test_a_file_that_is_no_space_is_refused(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"search space nothing.yaml must be a file or one of detector, mnasnet"
    ):
        read_space("nothing.yaml")
    broken, text = tmp_path / "broken.yaml", tmp_path / "text.yaml"
    broken.write_text("neck: [")
    text.write_text("bifpn")
    with pytest.raises(ConfigError, match=r"broken.yaml: not valid YAML"):
        read_space(broken)
    with pytest.raises(
        ConfigError, match=r"text.yaml: must hold dimensions such as 'channels: \[32, 48\]', got 'bifpn'"
    ):
        read_space(text)
    for free in ("channels", "channels=", "=3"):
        with pytest.raises(ConfigError, match=r"NAME=VALUE,VALUE or NAME=LOW..HIGH, got|unknown dimension ''"):
            read_space(None, [free])
