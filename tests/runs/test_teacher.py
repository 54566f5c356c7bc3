"""Which detectors may teach which networks."""

from dataclasses import replace

import pytest
import torch

from effdet.config import ConfigError, TrainConfig, load_config
from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture
from effdet.runs import step_costs
from effdet.runs.data import read_data
from effdet.runs.resolve import resolve
from effdet.runs.teacher import build_teacher
from effdet.training.distributed import World

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


def test_a_teacher_for_values_of_a_range_fits_the_network_that_is_measured(tmp_path, demo_root, monkeypatch):
    monkeypatch.setattr(step_costs, "_measure_steps", lambda config, trainer, *_: [trainer.teacher])
    small = ["data.long_side=null", "data.max_long_side=null", "data.image_size=[64,64]", "model.name=lite0"]
    config = load_config("custom", [f"data.root={demo_root}", *small, "data.value_range=[0,1000]"])
    train = read_data(config.data)[0]
    file = tmp_path / "teacher.safetensors"
    EfficientDet("lite0", 5, class_names=train.class_names, value_range=(0, 1000)).save_pretrained(file)
    config = resolve(replace(config, train=replace(config.train, teacher=str(file))), train)
    (teacher,) = step_costs.measure_training(config, train, World(torch.device("cpu")))
    assert teacher.model.value_range == (0, 1000)
