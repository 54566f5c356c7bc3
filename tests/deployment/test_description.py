"""What an exported file says about itself: round trip, and every damaged value in one sentence."""

import json

import pytest

from effdet import Architecture
from effdet.deployment.description import Description
from effdet.images.preprocessing import Preprocessing
from effdet.ops.settings import PostprocessSettings

DESCRIPTION = Description(
    architecture=Architecture.named("lite0"),
    class_names=("a", "b"),
    category_ids=(3, 17),
    image_size=(64, 96),
    mean=(1.0, 2.0, 3.0),
    std=(4.0, 5.0, 6.0),
    preprocessing=Preprocessing.preset("effdet"),
    settings=PostprocessSettings(nms="hard"),
    batch=None,
)


def test_a_description_comes_back_whole():
    assert Description.from_json(DESCRIPTION.to_json(), "m.onnx") == DESCRIPTION


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": []}, "class_names must be texts, one or more"),
        ({"class_names": ["a", 2]}, "class_names must be texts"),
        ({"class_names": "ab"}, "class_names must be a list, got 'ab'"),
        ({"category_ids": [1]}, "category_ids must be 2 numbers, got 1"),
        ({"category_ids": [1, "2"]}, "category_ids must be whole numbers"),
        ({"image_size": [64]}, "image_size must be two whole numbers"),
        ({"image_size": [64, 0]}, "image_size must be two whole numbers"),
        ({"image_size": [64.5, 64]}, "image_size must be two whole numbers"),
        ({"mean": [1, 2]}, "mean must be 3 finite numbers"),
        ({"mean": [1, 2, "x"]}, "mean must be 3 finite numbers"),
        ({"std": [1, 2, float("nan")]}, "std must be 3 finite numbers"),
        ({"std": [1, 2, 0]}, "std must be positive"),
        ({"batch": 0}, "batch must be 1 or more"),
        ({"batch": "many"}, "batch must be 1 or more"),
        ({"dynamic_size": "yes"}, "dynamic_size must be true or false"),
        ({"outputs": "boxes"}, "outputs must be raw or detections"),
        ({"precision": "fp8"}, "precision must be one of"),
        ({"settings": {"nms": "none"}}, "nms must be 'hard' or 'soft'"),
        ({"settings": {"nmss": "hard"}}, "it has the unknown settings nmss"),
        ({"preprocessing": {"resize": "crop"}}, "resize must be one of"),
        ({"architecture": {"backbone": "x"}}, "missing: image_size, channels"),
        ({"more": 1}, "its entries must be known to this version, got 'more'"),
    ],
)
def test_a_damaged_value_is_named_with_its_file(changes, message):
    text = json.dumps(json.loads(DESCRIPTION.to_json()) | changes)
    with pytest.raises(ValueError, match=rf"^m\.onnx holds a damaged description: .*{message}.*; export it again$"):
        Description.from_json(text, "m.onnx")


@pytest.mark.parametrize("field", ["class_names", "settings", "architecture", "mean"])
def test_a_missing_value_is_named(field):
    values = json.loads(DESCRIPTION.to_json())
    del values[field]
    with pytest.raises(ValueError, match=rf"m\.onnx holds a damaged description: '{field}' is missing"):
        Description.from_json(json.dumps(values), "m.onnx")


@pytest.mark.parametrize("text", [None, "", "{}", "[]", '{"format": "of others"}'])
def test_a_file_of_others_is_told(text):
    with pytest.raises(ValueError, match=r"m\.onnx holds no description of this package"):
        Description.from_json(text, "m.onnx")


def test_text_that_is_not_json_is_damaged():
    with pytest.raises(ValueError, match=r"m\.onnx holds a damaged description: it must be JSON: Expecting"):
        Description.from_json('{"format": ', "m.onnx")
