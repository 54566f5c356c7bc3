"""Which detectors may teach which networks."""

from dataclasses import replace

import pytest

from effdet.config import ConfigError, TrainConfig
from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture
from effdet.runs.teacher import build_teacher

NAMES = ("cat", "dog")
BLOCKS = tuple((f"ir_r1_k3_s2_e2_c{channels}",) for channels in (16, 24, 32, 40))
SMALL = replace(
    Architecture.named("lite0"),
    backbone_blocks=BLOCKS,
    stem_channels=8,
    stochastic_depth=0.0,
    channels=16,
    neck_repeats=1,
    head_repeats=1,
)


@pytest.fixture
def student():
    return EfficientDet(SMALL, 2, class_names=NAMES, image_size=(64, 96))


def teacher_of(tmp_path, architecture=SMALL, **options):
    options = {"num_classes": 3, "class_names": ("dog", "bird", "cat"), **options}
    EfficientDet(architecture, **options).save_pretrained(tmp_path / "teacher.safetensors")
    return TrainConfig(teacher=str(tmp_path / "teacher.safetensors"))


def test_classes_are_joined_by_name(tmp_path, student):
    teacher = build_teacher(teacher_of(tmp_path), student)
    assert teacher.classes.tolist() == [2, 0]
    assert teacher.weight == 1
    assert not teacher.model.training
    assert build_teacher(TrainConfig(), student) is None


def test_a_class_that_the_teacher_does_not_know_is_named(tmp_path, student):
    config = teacher_of(tmp_path, class_names=("a", "b", "dog"))
    with pytest.raises(ConfigError, match="by their names; it lacks cat, and has a, b, dog"):
        build_teacher(config, student)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"anchor_scale": 4.0}, "anchor_scale 4.0 instead of 3.0; choose another"),
        ({"aspect_ratios": (1.0, 3.0, 0.5)}, r"aspect_ratios \(\(1.0, 1.0\), .* instead of"),
        ({"max_level": 6}, "max_level 6 instead of 7; choose another"),
    ],
)
def test_other_anchors_are_refused(tmp_path, student, change, message):
    with pytest.raises(ConfigError, match=f"train.teacher must have the anchors of the network; it has {message}"):
        build_teacher(teacher_of(tmp_path, replace(SMALL, **change)), student)


def test_other_images_are_refused(tmp_path, student):
    gray = replace(SMALL, in_channels=1, mean=(0.5,), std=(0.2,))
    with pytest.raises(ConfigError, match="must take images of 3 channels, as the network does; it takes 1"):
        build_teacher(teacher_of(tmp_path, gray), student)
    with pytest.raises(ConfigError, match=r"must have data.value_range None, as the network does; it has \(0.0, 9.0\)"):
        build_teacher(teacher_of(tmp_path, value_range=(0.0, 9.0)), student)


def test_weights_that_are_missing_are_named(student):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_teacher(TrainConfig(teacher="nowhere.safetensors"), student)
