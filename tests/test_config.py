"""Tests of effdet/config/."""

import dataclasses
from pathlib import Path

import pytest

from effdet.config import (
    AugmentConfig,
    BoxLoss,
    Config,
    ConfigError,
    DataConfig,
    Freeze,
    NmsKind,
    Optimizer,
    RunConfig,
    TrainConfig,
    config_to_yaml,
    load_config,
)

CONFIGS = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.yaml"))


@pytest.fixture
def load(tmp_path):
    """Return a function that loads YAML text, with overrides."""

    def from_text(text: str = "", *overrides: str) -> Config:
        file = tmp_path / "some.yaml"
        file.write_text(text, encoding="utf-8")
        return load_config(file, overrides)

    return from_text


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_config_of_the_project_loads(path):
    assert load_config(path).run.name == path.stem


def test_an_empty_file_is_the_defaults_named_after_the_file(load):
    config = load()
    assert config == Config(run=dataclasses.replace(Config().run, name="some"))
    assert (config.train.optimizer, config.train.lr, config.eval.nms) == (Optimizer.sgd, 0.08, NmsKind.soft)


@pytest.mark.parametrize("text", ["train:", "train: {}", "model:\ndata:\n  augment:\ntrain:\neval:\nrun:\n"])
def test_an_empty_section_keeps_its_defaults(load, text):
    assert load(text) == load()


def test_values_of_the_file_replace_the_defaults_beside_them_only(load):
    config = load("train: {lr: 1e-3, epochs: 12}\ndata: {image_size: [384, 512], augment: {scale: [0.5, 1.5]}}")
    assert config.train == TrainConfig(lr=0.001, epochs=12)
    assert config.data == DataConfig(image_size=(384, 512), augment=AugmentConfig(scale=(0.5, 1.5)))


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("train.lr=1e-3", 0.001),
        ("train.lr=2", 2.0),
        ("train.epochs=null", None),
        ("train.freeze=backbone+neck", Freeze.backbone_neck),
        ("train.box_loss=ciou", BoxLoss.ciou),
        ("train.compile=true", True),
        ("data.image_size=[256,320]", (256, 320)),
        ("data.augment.scale=[0.5,1]", (0.5, 1.0)),
        ("data.augment.transforms=[{name: Blur, p: 0.1}]", [{"name": "Blur", "p": 0.1}]),
        ("data.root=/photos of mine/a=b", "/photos of mine/a=b"),
        ("run.name=night", "night"),
    ],
)
def test_an_override_replaces_the_file(load, override, value):
    config = load("train: {lr: 0.5, epochs: 3, freeze: stem}\nrun: {name: day}", override)
    for key in override.split("=")[0].split("."):
        config = getattr(config, key)
    assert config == value
    assert type(config) is type(value)


def test_the_last_override_wins(load):
    assert load("", "train.lr=1", "train.lr=2").train.lr == 2


INPUT = "data: {long_side: 416, max_long_side: 640}"


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),  # image_size, long_side, max_long_side
    [
        (INPUT, ["data.image_size=[256,320]"], ((256, 320), None, None)),
        (INPUT, ["data.image_size=[256,320]", "data.image_size=null"], (None, 416, 640)),
        (INPUT, ["data.long_side=512"], (None, 512, 640)),
        ("data: {image_size: [256, 320]}", ["data.long_side=512"], (None, 512, None)),
        ("data: {image_size: [256, 320]}", ["data.long_side=null"], ((256, 320), None, None)),
    ],
)
def test_an_override_of_the_input_takes_the_place_of_the_other_way_to_choose_it(load, text, overrides, expected):
    data = load(text, *overrides).data
    assert (data.image_size, data.long_side, data.max_long_side) == expected


@pytest.mark.parametrize(
    ("text", "overrides", "expected"),  # name, phi
    [
        ("model: {name: lite0}", ["model.phi=1.5"], (None, 1.5)),
        ("model: {name: lite0}", ["model.phi=null"], ("lite0", None)),
        ("model: {phi: 1.5}", ["model.name=d1"], ("d1", None)),
        ("model: {phi: 1.5}", ["model.phi=2"], (None, 2)),
    ],
)
def test_an_override_of_the_model_takes_the_place_of_the_other_way_to_choose_it(load, text, overrides, expected):
    model = load(text, *overrides).model
    assert (model.name, model.phi) == expected


def test_two_overrides_that_choose_the_same_are_refused(load):
    with pytest.raises(ConfigError, match=r"model.name must be null where model.phi is set, got d1"):
        load("", "model.name=d1", "model.phi=1.5")
    with pytest.raises(ConfigError, match=r"data.long_side must be null where data.image_size is set, got 512"):
        load(INPUT, "data.image_size=[256,320]", "data.long_side=512")


def test_the_frozen_parts_are_read_by_their_written_form(load):
    assert load("train: {freeze: backbone+neck}").train.freeze is Freeze.backbone_neck


def test_yaml_of_a_config_reads_back_as_an_equal_config(load):
    config = load(
        "model: {num_classes: 3}\ntrain: {freeze: backbone+neck, box_loss: giou, precision: bf16}\n"
        "data: {image_size: [384, 512], augment: {transforms: [{name: Blur, p: 0.1}]}}"
    )
    assert load(config_to_yaml(config)) == config


WRONG = [
    ("traim: {lr: 1}", r"some.yaml: unknown key 'traim'; did you mean 'train'\?"),
    ("train: {optimiser: sgd}", r"some.yaml: train: unknown key 'optimiser'; did you mean 'optimizer'\?"),
    ("data: {augment: {scal: [1, 2]}}", r"data.augment: unknown key 'scal'; did you mean 'scale'\?"),
    ("eval: {zzz: 1}", "eval: unknown key 'zzz'; known: every, batch_size, loss"),
    ("1: 2", "unknown key '1'; known: model, data, train, eval, run"),
    ("train: 3", "some.yaml: train must be a section with keys epochs, batch_size"),
    ("data: {augment: [1]}", "data.augment must be a section with keys horizontal_flip"),
    ("[1, 2]", "some.yaml: must hold sections model, data, train, eval, run; got a list"),
    ("train: [", "some.yaml: not valid YAML: line "),
    ("train: {lr: 1, lr: 2}", "not valid YAML: line 1: found duplicate key lr"),
    ("train: {lr: fast}", "some.yaml: train.lr must be a number, got 'fast'"),
    ("train: {lr: null}", "train.lr must be a number, got null"),
    ("train: {epochs: 1.5}", "train.epochs must be a whole number or null, got 1.5"),
    ("train: {compile: perhaps}", "train.compile must be true or false, got 'perhaps'"),
    ("train: {optimizer: adam}", "train.optimizer must be one of sgd, adamw, got 'adam'"),
    ("train: {freeze: neck}", r"train.freeze must be one of none, stem, backbone, backbone\+neck, got 'neck'"),
    ("data: {root: null}", "data.root must be text, got null"),
    ("data: {image_size: 512}", r"data.image_size must be two whole numbers \[a, b\] or null, got 512"),
    ("data: {image_size: [512]}", r"data.image_size must be two whole numbers \[a, b\] or null, got \[512\]"),
    ("data: {image_size: [1, 2, 3]}", r"data.image_size must be two whole numbers .* got \[1, 2, 3\]"),
    ("data: {image_size: [a, b]}", r"data.image_size must be two whole numbers .* got \['a', 'b'\]"),
    ("data: {augment: {scale: [1]}}", r"data.augment.scale must be two numbers \[a, b\], got \[1\]"),
    ("data: {augment: {transforms: [Blur]}}", r"transforms must be a list of sections .* got \['Blur'\]"),
    ("train: {lr: '${nowhere}'}", "some.yaml: train.lr: Interpolation key 'nowhere' not found"),
    ("model: {num_classes: 0}", "some.yaml: model.num_classes must be 1 or more, got 0"),
    ("model: {stochastic_depth: 1}", r"model.stochastic_depth must lie in \[0, 1\), got 1.0"),
    ("data: {augment: {mosaic: 1.1}}", r"some.yaml: data.augment.mosaic must lie in \[0, 1\], got 1.1"),
    ("data: {augment: {scale: [2, 1]}}", r"data.augment.scale must be two numbers 0 < low <= high, got \[2.0, 1.0\]"),
    ("data: {augment: {scale: [0, 1]}}", "data.augment.scale must be two numbers 0 < low <= high"),
    ("data: {augment: {plain_start: -1}}", "data.augment.plain_start must be 0 or more, got -1"),
    ("data: {augment: {plain_epochs: -1}}", "data.augment.plain_epochs must be 0 or more, got -1"),
    ("data: {image_size: [16, 512]}", r"data.image_size must be at least 32 on each side, got \[16, 512\]"),
    ("data: {image_size: [64, 64], long_side: 64}", "data.long_side must be null where data.image_size is set, got 64"),
    ("data: {value_range: [2, 1]}", r"data.value_range must be two finite numbers low < high, got \[2.0, 1.0\]"),
    ("data: {max_train_images: 0}", "data.max_train_images must be 1 or more, got 0"),
    ("data: {max_val_images: -3}", "data.max_val_images must be 1 or more, got -3"),
    ("data: {long_side: 16}", "data.long_side must be 32 or more, got 16"),
    ("data: {long_side: 416, max_long_side: 320}", "data.max_long_side must be at least data.long_side=416, got 320"),
    ("data: {workers: -1}", "data.workers must be 0 or more, got -1"),
    ("train: {epochs: 0}", "train.epochs must be 1 or more, got 0"),
    ("train: {batch_size: 0}", "train.batch_size must be 1 or more, or auto, got 0"),
    ("data: {multi_scale: [1.2, 0.8]}", "data.multi_scale must be two numbers 0 < low <= high, got"),
    ("data: {multi_scale: [0, 1]}", "data.multi_scale must be two numbers 0 < low <= high, got"),
    ("train: {batch_size: 2.5}", "train.batch_size must be 1 or more, or auto, got 2.5"),
    ("train: {batch_size: true}", "train.batch_size must be 1 or more, or auto, got True"),
    ("train: {batch_size: many}", "train.batch_size must be 1 or more, or auto, got many"),
    ("train: {accumulate: 3}", "train.accumulate must divide train.batch_size=64, got 3"),
    ("train: {lr: 0}", "train.lr must be positive, got 0.0"),
    ("train: {lr: .nan}", "train.lr must be positive, got nan"),
    ("train: {lr: .inf}", "train.lr must be positive, got inf"),
    ("train: {warmup_epochs: -1}", "train.warmup_epochs must be 0 or more, got -1.0"),
    ("train: {warmup_share: 1.5}", r"train.warmup_share must lie in \[0, 1\], got 1.5"),
    ("train: {epochs: 2, warmup_epochs: 3}", r"train.warmup_epochs must lie in \[0, train.epochs=2\], got 3.0"),
    ("train: {weight_decay: -1}", "train.weight_decay must be 0 or more, got -1.0"),
    ("train: {clip_norm: 0}", "train.clip_norm must be positive, got 0.0"),
    ("train: {ema_decay: 1}", r"train.ema_decay must lie in \[0, 1\), got 1.0"),
    ("train: {momentum: 1}", r"train.momentum must lie in \[0, 1\), got 1.0"),
    ("train: {box_weight: 0}", "train.box_weight must be positive, got 0.0"),
    ("train: {focal_alpha: 2}", r"train.focal_alpha must lie in \[0, 1\], got 2.0"),
    ("train: {focal_gamma: -1}", "train.focal_gamma must be 0 or more, got -1.0"),
    ("train: {huber_delta: 0}", "train.huber_delta must be positive, got 0.0"),
    ("train: {label_smoothing: 1}", r"train.label_smoothing must lie in \[0, 1\), got 1.0"),
    (
        "train: {class_loss: varifocal, label_smoothing: 0.1}",
        "train.label_smoothing must be 0 with train.class_loss=varifocal, got 0.1",
    ),
    (
        "train: {class_loss: quality_focal, focal_alpha: 0.5}",
        "train.focal_alpha must be null with train.class_loss=quality_focal, got 0.5",
    ),
    ("train: {class_loss: bce}", "train.class_loss must be one of focal, quality_focal, varifocal, got 'bce'"),
    ("train: {topk: 0, assigner: task_aligned}", "train.topk must be 1 or more, got 0"),
    ("train: {topk: 9}", "train.topk must be null with train.assigner=iou, got 9"),
    (
        "train: {teacher_weight: 2}",
        "train.teacher_weight must be positive, and null where train.teacher is null, got 2",
    ),
    ("train: {teacher: d2, teacher_weight: 0}", "train.teacher_weight must be positive, and null .* got 0.0"),
    ("train: {checkpoint_minutes: 0}", "train.checkpoint_minutes must be positive, got 0.0"),
    ("train: {patience: 0}", "train.patience must be 1 or more, got 0"),
    ("eval: {every: 0}", "eval.every must be 1 or more, got 0"),
    ("eval: {batch_size: 0}", "eval.batch_size must be 1 or more, got 0"),
    ("eval: {nms: medium}", "eval.nms must be one of hard, soft, got 'medium'"),
    ("eval: {iou_threshold: 1.5}", r"eval.iou_threshold must lie in \[0, 1\], got 1.5"),
    ("eval: {sigma: 0}", "eval.sigma must be positive, got 0.0"),
    ("eval: {score_threshold: -1}", r"eval.score_threshold must lie in \[0, 1\], got -1.0"),
    ("eval: {max_candidates: 0}", "eval.max_candidates must be 1 or more, got 0"),
    ("eval: {max_detections: 0}", "eval.max_detections must be 1 or more, got 0"),
    ("run: {seed: -1}", "run.seed must be 0 or more, got -1"),
    ("run: {threads: 0}", "run.threads must be 1 or more, got 0"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text for text, _ in WRONG])
def test_a_wrong_file_is_named_with_the_key(load, text, message):
    with pytest.raises(ConfigError, match=message):
        load(text)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", "command line: an override must read key.sub=value, got 'train.lr'"),
        ("=3", "command line: an override must read key.sub=value, got '=3'"),
        ("data.image_size=[256", r"command line: cannot read 'data.image_size=\[256': line "),
        ("data.image_size=[256]", r"command line: data.image_size must be two whole numbers .* got \[256\]"),
        ("train.learning_rate=1", "command line: train: unknown key 'learning_rate'; "),
        ("train.lr.x=3", "command line: train.lr must be a number, got {'x': 3}"),
        ("train=3", "command line: train must be a section"),
        ("train.lr=-1", "some.yaml with train.lr=-1: train.lr must be positive, got -1.0"),
    ],
)
def test_a_wrong_override_is_told_from_the_file(load, override, message):
    with pytest.raises(ConfigError, match=message):
        load("", override)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config file .*nowhere.yaml does not exist"):
        load_config(tmp_path / "nowhere.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path):
    (tmp_path / "picture.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"picture.yaml: not valid YAML: "):
        load_config(tmp_path / "picture.yaml")


def test_a_config_is_checked_wherever_it_is_made():
    with pytest.raises(ConfigError, match=r"^train.lr must be positive, got -1$"):
        TrainConfig(lr=-1)


@pytest.mark.parametrize("name", ["../x", "a/b", "/a", "..", ".", "", "a\\b", "a\0b"])
def test_a_run_cannot_be_named_out_of_its_folder(name):
    with pytest.raises(ConfigError, match=r"run\.name must be the name of a folder inside run\.dir"):
        RunConfig(name=name)
