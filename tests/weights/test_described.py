"""Descriptions in weights of this project with one value that cannot be, in every place."""

import json

import pytest
from safetensors.torch import load_file, save_file

from effdet import EfficientDet
from effdet.weights.loading import load


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Return the tensors and the description of a small model."""
    path = tmp_path_factory.mktemp("written") / "w.safetensors"
    model = EfficientDet("lite0", num_classes=2)
    model.save_pretrained(path)
    return load_file(path), model.description()


def at(description, place, value):
    *above, last = place.split(".")
    description = json.loads(json.dumps(description))
    inner = description
    for part in above:
        inner = inner[part]
    inner[last] = value
    return description


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ("name", ["lite0"], None),  # the architecture beside it decides
        ("num_classes", "2", "num_classes must be 2, got '2'"),
        ("num_classes", 3, "num_classes must be 2, got 3"),
        ("class_names", "ab", "class_names must be a list, got 'ab'"),
        ("class_names", ["a", None], "class_names must be texts, one or more"),
        ("class_names", ["a", "\ud800"], "class_names must be texts that can be written as UTF-8"),
        ("class_names", [], "class_names must be texts, one or more"),
        ("category_ids", [0, float("inf")], "category_ids must be whole numbers"),
        ("category_ids", [0, 2**63], "category_ids must be whole numbers of 64 bits"),
        ("category_ids", [1, 1], "category_ids must differ"),
        ("category_ids", [0], "category_ids must be 2 numbers, got 1"),
        ("image_size", [None, 64], "image_size must be two whole numbers of pixels"),
        ("image_size", [10**6, 10**6], "image_size must have 200,000,000 pixels or less"),
        ("mean", ["a", "b", "c"], "mean must be 3 finite numbers"),
        ("mean", [10**400, 0, 0], "mean must be 3 finite numbers"),
        ("mean", [True, 0, 0], "mean must be 3 finite numbers"),
        ("std", [1, 1, 0], "std must be positive"),
        ("std", {}, "std must be a list"),
        ("stochastic_depth", "a", r"stochastic_depth must lie in \[0, 1\), got 'a'"),
        ("stochastic_depth", float("nan"), r"stochastic_depth must lie in \[0, 1\), got nan"),
        ("settings", None, "settings must be an object of names and values, got None"),
        ("settings.sigma", "1", "sigma must be positive, got 1"),
        ("settings.sigma", float("inf"), "sigma must be positive"),
        ("settings.max_detections", 1.5, "max_detections must be a whole number, got 1.5"),
        ("settings.max_detections", 2**40, "max_detections must be less than 2"),
        ("settings.class_agnostic", "no", "class_agnostic must be true or false, got no"),
        ("settings.clip", [], "clip must be one of"),
        ("preprocessing", [], "preprocessing must be an object"),
        ("preprocessing.fill", 3, "fill must be three whole numbers"),
        ("preprocessing.fill", [0.5, 1, 2], "fill must be three whole numbers"),
        ("preprocessing.zero_padding", 1, "zero_padding must be true or false"),
        ("preprocessing.resize", {}, "resize must be one of"),
        ("architecture", 1, "an architecture must be a section"),
        ("architecture.channels", "64", "channels must be a whole number"),
        ("architecture.channels", 10**16, "channels must be 1000000000000000 or less"),
        ("architecture.neck_repeats", 10**9, "neck_repeats must be 200 or less"),
        ("architecture.max_level", 10**9, "max_level must be 20 or less"),
        ("architecture.aspect_ratios", [1.0] * 2000, "aspect_ratios must have 1,000 entries or less"),
        ("architecture.anchor_scale", 10**400, "anchor_scale must be finite"),
        ("architecture.image_size", [10**5, 10**5], "image_size must have 200,000,000 pixels or less"),
        ("architecture.backbone", "hf-hub:owner/name", "must be the name of a model of timm"),
        ("architecture.backbone", "regnety_2560", "holds .* numbers, but its description is that of a network of"),
        ("architecture.channels", 4096, "holds .* numbers, but its description is that of a network of"),
        ("architecture.channels", 10**15, "its architecture cannot be built"),
        ("architecture.scales_per_octave", 4, r"must have a class head with 2 × 12 outputs, as its description says"),
    ],
)
def test_a_value_that_cannot_be_is_one_sentence_with_the_file(written, tmp_path, place, value, message):
    tensors, description = written
    metadata = {"format": "effdet-1", "description": json.dumps(at(description, place, value))}
    save_file(tensors, tmp_path / "w.safetensors", metadata)
    if message is None:
        assert load(tmp_path / "w.safetensors").architecture.name == "lite0"
        return
    with pytest.raises(ValueError, match=f"w.safetensors.*{message}") as caught:
        load(tmp_path / "w.safetensors")
    assert len(str(caught.value)) < 600


def test_a_description_that_is_no_object_is_refused(written, tmp_path):
    save_file(written[0], tmp_path / "w.safetensors", {"format": "effdet-1", "description": "[]"})
    with pytest.raises(ValueError, match=r"w.safetensors: its description cannot be used: it must be an object"):
        load(tmp_path / "w.safetensors")
