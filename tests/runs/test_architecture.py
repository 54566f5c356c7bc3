from dataclasses import fields, replace
from typing import get_type_hints

import pytest

from effdet import EfficientDet
from effdet.config import ArchitectureConfig, ConfigError, ModelConfig, config_to_yaml, load_config
from effdet.models.architecture import Architecture
from effdet.runs.architecture import architecture_of, with_architecture

LITE0 = Architecture.named("lite0")
OWN = replace(LITE0, channels=48, backbone="resnet18", activation="relu", mean=(1.0, 2.0, 3.0), aspect_ratios=(1, 3))


def load(tmp_path, text, *overrides):
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return load_config(path, overrides)


def test_the_config_has_the_fields_of_an_architecture():
    assert [field.name for field in fields(ArchitectureConfig)] == [field.name for field in fields(Architecture)]
    hints = get_type_hints(ArchitectureConfig)
    plain = {name for name, kind in get_type_hints(Architecture).items() if kind in (int, float, bool)}
    assert all(hints[name] == get_type_hints(Architecture)[name] | None for name in plain)


def test_keys_are_laid_over_the_model_of_the_name(tmp_path):
    config = load(tmp_path, "model: {name: lite0, architecture: {channels: 40}}", "model.architecture.neck=pan")
    assert architecture_of(config.model) == replace(LITE0, channels=40, neck="pan")


def test_without_a_name_they_are_laid_over_d0(tmp_path):
    config = load(tmp_path, "model: {architecture: {channels: 40}}")
    assert architecture_of(config.model) == replace(Architecture.named("d0"), channels=40)
    assert architecture_of(ModelConfig()) == Architecture.named("d0")


@pytest.mark.parametrize("phi", ["1.5", "2", "0"])
def test_a_phi_stands_for_a_name(tmp_path, phi):
    config = load(tmp_path, f"model: {{phi: {phi}}}")
    assert architecture_of(config.model) == Architecture.from_phi(float(phi))
    changed = load(tmp_path, "model: {architecture: {anchor_scale: 3}}", f"model.phi={phi}")
    assert architecture_of(changed.model) == replace(Architecture.from_phi(float(phi)), anchor_scale=3.0)


def test_a_phi_and_a_name_are_one_too_many(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.name must be null where model\.phi is set, got d1"):
        load(tmp_path, "model: {name: d1, phi: 1.5}")
    config = load(tmp_path, "model: {name: d1}", "model.phi=1.5")
    assert architecture_of(config.model) == Architecture.from_phi(1.5)


@pytest.mark.parametrize("phi", ["-1", ".nan", ".inf"])
def test_a_phi_that_cannot_be_is_refused_when_the_config_is_read(tmp_path, phi):
    with pytest.raises(ConfigError, match=r"model\.phi must be a number, 0 or more, got"):
        load(tmp_path, f"model: {{phi: {phi}}}")
    with pytest.raises(ConfigError, match=r"model\.phi: phi must lie in 0…100, got 1000"):
        architecture_of(load(tmp_path, "model: {phi: 1000}").model)
    with pytest.raises(ConfigError, match=r"model\.phi must be a number or null, got 'large'"):
        load(tmp_path, "model: {phi: large}")


def test_a_resolved_config_has_the_architecture_in_place_of_the_phi(tmp_path):
    config = load(tmp_path, "model: {phi: 1.5}")
    model = with_architecture(config.model, architecture_of(config.model))
    assert (model.phi, model.name) == (None, "custom")
    again = load(tmp_path, config_to_yaml(replace(config, model=model)))
    assert architecture_of(again.model) == Architecture.from_phi(1.5)


def test_a_phi_decides_against_the_weights(tmp_path):
    model = ModelConfig(phi=1.0, weights="there/is/no/such.file")
    assert architecture_of(model) == Architecture.named("d1")


def test_without_a_name_they_are_laid_over_what_the_weights_are(tmp_path):
    EfficientDet(OWN, 2).save_pretrained(tmp_path / "own.safetensors")
    model = ModelConfig(weights=str(tmp_path / "own.safetensors"))
    assert architecture_of(model) == OWN
    wider = replace(model, architecture=ArchitectureConfig(anchor_scale=5.0))
    assert architecture_of(wider) == replace(OWN, anchor_scale=5.0)


BLOCKS = replace(
    LITE0, backbone_blocks=tuple((f"ir_r1_k3_s2_e2_c{width}",) for width in (16, 24, 32, 40)), stem_channels=12
)


@pytest.mark.parametrize("architecture", [LITE0, OWN, BLOCKS, Architecture.named("cspresdet50")])
def test_a_resolved_config_says_all_of_it_and_reads_back(tmp_path, architecture):
    config = load(tmp_path, "model: {num_classes: 3}")
    config = replace(config, model=with_architecture(config.model, architecture))
    again = load(tmp_path, config_to_yaml(config))
    assert (again.model, again.model.name) == (config.model, architecture.name)
    assert architecture_of(again.model) == architecture


def test_a_whole_architecture_needs_no_name(tmp_path):
    config = load(tmp_path, config_to_yaml(replace(load(tmp_path, ""), model=with_architecture(ModelConfig(), OWN))))
    assert architecture_of(replace(config.model, name=None)) == OWN
    assert architecture_of(replace(config.model, name="custom")) == OWN
    with pytest.raises(ConfigError, match=r"that of model\.name=lite1 where it has all keys, got that of custom"):
        architecture_of(replace(config.model, name="lite1"))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture.chanels=48", r"model\.architecture: unknown key 'chanels'; did you mean 'channels'"),
        (
            "model.architecture.channels=wide",
            r"model\.architecture\.channels must be a whole number or null, got 'wide'",
        ),
        ("model.architecture.separable=3.5", r"model\.architecture\.separable must be true or false or null, got 3.5"),
        ("model.architecture.mean=[a]", r"model\.architecture\.mean must be a list of numbers or null"),
        ("model.architecture=d0", r"model\.architecture must be a section with keys backbone, backbone_blocks"),
    ],
)
def test_a_wrong_key_or_type_is_refused_when_the_config_is_read(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, "", override)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.architecture.channels=0", r"model\.architecture: channels must be 1 or more, got 0"),
        ("model.architecture.neck=bifnp", r"model\.architecture: neck must be one of .*; did you mean 'bifpn'"),
        ("model.architecture.aspect_ratios=[wide]", r"model\.architecture: aspect_ratios\[0\] must be a number"),
        ("model.architecture.mean=[0.5]", "mean must have one number for each of in_channels=3"),
        ("model.name=lite9", r"model\.name: unknown model 'lite9'; did you mean"),
        ("model.name=custom", r"model\.architecture: an architecture must have the keys .*; missing: backbone"),
    ],
)
def test_a_value_out_of_range_is_a_config_error(tmp_path, override, message):
    with pytest.raises(ConfigError, match=message):
        architecture_of(load(tmp_path, "", override).model)
