"""Every key of the config does something: each is set to another value, and what it must change is looked at.

Everything goes through the function that builds a real run, so a setting that is dropped anywhere on the way is found.
"""

import contextlib
import shutil
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import nn

from effdet.config import ArchitectureConfig, Config, ConfigError, load_config
from effdet.data.demo import draw_demo
from effdet.detector.efficientdet import EfficientDet
from effdet.runs import build
from effdet.runs.train import prepare_run, train
from effdet.training.distributed import World

BASE = """
model: {{name: lite0}}
data:
  root: {root}
  image_size: [64, 64]
  workers: 0
  augment: {{horizontal_flip: 0.0, scale: [1.0, 1.0]}}
train: {{epochs: 2, batch_size: 4}}
eval: {{every: 1}}
run: {{dir: {runs}, name: base, device: cpu, threads: 1}}
"""


class Setting(NamedTuple):
    """One row of the table."""

    overrides: str  # "key=value", or several of them; the first is the one that is tested
    probe: Any  # function of a run
    expected: Any = None  # of the probe; None: anything but what the run without overrides has

    @property
    def key(self):
        return self.overrides.split("=")[0]


def first_batch(run, epoch=0):
    return next(run.loader.epoch(epoch))


def images(run):
    return first_batch(run).images


def lr(step):
    return lambda run: run.trainer.settings.learning_rate(step)


def criterion(name):
    return lambda run: getattr(run.trainer.criterion, name)


def postprocessing(name):
    return lambda run: getattr(run.trainer.model.settings, name)


def group(name):
    return lambda run: [options.get(name) for options in run.trainer.optimizer.param_groups]


def norm_of_clipped_ones(run):
    for parameter in run.trainer.parameters:
        parameter.grad = torch.ones_like(parameter)
    run.trainer.clip_gradient()
    return round(float(torch.stack([p.grad.norm() for p in run.trainer.parameters]).norm()), 3)


def trains_bn_of_backbone(run):
    run.trainer.train_mode()
    return any(m.training for m in run.trainer.model.network.backbone.modules() if isinstance(m, nn.BatchNorm2d))


def kernel_layout(run):
    weight = next(p for p in run.trainer.model.network.backbone.parameters() if p.dim() == 4 and min(p.shape) > 1)
    return weight.is_contiguous(memory_format=torch.channels_last)


def blocks(run):
    return {type(module).__name__ for module in run.trainer.model.network.modules()}


def batch_sizes_of_evaluation(run):
    model, seen = run.trainer.model.eval(), []
    detect = model.detect
    model.detect = lambda batch: seen.append(len(batch.targets)) or detect(batch)
    run.evaluate(model)
    return seen


def calls_of_forward(run):
    """How often the first block of the backbone runs in one step: twice where activations are computed anew."""
    calls = []
    block = run.trainer.model.network.backbone.get_submodule("blocks.1.0")
    next(m for m in block.modules() if isinstance(m, nn.Conv2d)).register_forward_hook(lambda *_: calls.append(1))
    run.trainer.train_mode()
    run.trainer.step([first_batch(run)], 0)
    return len(calls)


SETTINGS = [
    Setting("train.epochs=3", lambda run: (run.plan.epochs, run.log.total_steps), (3, 12)),
    Setting("train.batch_size=8", lambda run: (len(first_batch(run).targets), lr(1)(run)), (8, 0.08 * 8 / 64)),
    Setting("train.accumulate=2", lambda run: (len(first_batch(run).targets), run.plan.accumulate), (2, 2)),
    Setting("train.optimizer=adamw", lambda run: type(run.trainer.optimizer).__name__, "AdamW"),
    Setting("train.lr=0.16", lr(3), 0.16 * 4 / 64),  # four images, at the end of the warm-up
    Setting("train.warmup_epochs=0", lr(0), 0.08 * 4 / 64),
    Setting("train.warmup_epochs=null", lr(0), 0.08 * 4 / 64),  # 0.05 of 8 steps: none
    Setting("train.warmup_share=0.75, train.warmup_epochs=null", lr(0), 0.08 * 4 / 64 / 6),  # the first of 6 of 8 steps
    Setting("train.momentum=0.5", group("momentum"), [0.5, 0.5]),
    Setting("train.momentum=0.5, train.optimizer=adamw", group("betas"), [(0.5, 0.999)] * 2),
    Setting("train.weight_decay=0.1", group("weight_decay"), [0.1, 0.0]),
    Setting("train.clip_norm=0.25", norm_of_clipped_ones, 0.25),
    Setting("train.ema_decay=0.5", lambda run: run.trainer.ema.decay, 0.5),
    Setting(
        "train.assigner=task_aligned",
        lambda run: (criterion("assigner")(run), criterion("topk")(run)),
        ("task_aligned", 13),
    ),
    Setting("train.assigner=atss", criterion("topk"), 9),
    Setting("train.assigner=simota", criterion("topk"), 10),
    Setting("train.topk=5, train.assigner=task_aligned", criterion("topk"), 5),
    Setting("train.class_loss=varifocal", criterion("class_loss"), "varifocal"),
    Setting("train.class_loss=quality_focal", lambda run: run.trainer.criterion.kind.gamma, 2),
    Setting(
        "train.focal_alpha=0.6, train.class_loss=varifocal", lambda run: run.trainer.criterion.kind.background, 0.6
    ),
    Setting("train.box_loss=giou", lambda run: (criterion("box_loss")(run), criterion("box_weight")(run)), ("giou", 5)),
    Setting("train.box_weight=7", criterion("box_weight"), 7),
    Setting("train.focal_alpha=0.5", lambda run: run.trainer.criterion.kind.positive, 0.5),
    Setting("train.focal_gamma=2", lambda run: run.trainer.criterion.kind.gamma, 2),
    Setting("train.label_smoothing=0.1", lambda run: run.trainer.criterion.kind.smoothing, 0.1),
    Setting("train.huber_delta=0.2", criterion("huber_delta"), 0.2),
    Setting("train.mask_zero_targets=true", criterion("mask_zero_targets"), True),
    Setting("train.precision=bf16", lambda run: run.trainer.settings.precision, "bf16"),
    Setting("train.channels_last=false", kernel_layout, False),
    Setting("train.channels_last=false", lambda run: run.trainer.settings.channels_last, False),
    Setting("train.compile=true", lambda run: type(run.trainer.network).__name__, "OptimizedModule"),
    Setting("train.fused=false", lambda run: run.trainer.criterion.kind.fused, False),
    Setting("train.fused=false", blocks),
    Setting("train.gradient_checkpointing=true, train.fused=false", calls_of_forward, 2),
    Setting("train.freeze=stem", lambda run: len(run.trainer.parameters)),
    Setting("train.freeze_bn=true", trains_bn_of_backbone, False),
    Setting("train.patience=3", lambda run: run.plan.patience, 3),
    Setting("train.checkpoint_minutes=9", lambda run: run.checkpoints.minutes, 9),
    Setting("eval.every=2", lambda run: run.plan.evaluate_every, 2),
    Setting("eval.batch_size=3", batch_sizes_of_evaluation, [3, 3, 2]),
    Setting("eval.loss=true", lambda run: "val_loss" in run.evaluate(run.trainer.model), True),
    Setting("eval.nms=hard", postprocessing("nms"), "hard"),
    Setting("eval.iou_threshold=0.6", postprocessing("iou_threshold"), 0.6),
    Setting("eval.sigma=0.6", postprocessing("sigma"), 0.6),
    Setting("eval.score_threshold=0.2", postprocessing("score_threshold"), 0.2),
    Setting("eval.max_candidates=77", postprocessing("max_candidates"), 77),
    Setting("eval.max_detections=7", postprocessing("max_detections"), 7),
    Setting(
        "data.train_annotations=val.json, data.val_annotations=train.json",
        lambda run: (run.checkpoints.num_images, sum(batch_sizes_of_evaluation(run))),
        (8, 16),
    ),
    Setting(
        "data.val_annotations=train.json, data.train_annotations=train.json",
        lambda run: sum(batch_sizes_of_evaluation(run)),
        16,
    ),
    Setting("data.image_size=[64,96]", lambda run: tuple(images(run).shape), (4, 3, 64, 96)),
    Setting("data.image_size=[64,96]", lambda run: run.trainer.model.image_size, (64, 96)),
    Setting("data.long_side=96, data.image_size=null", lambda run: max(images(run).shape), 96),
    Setting(
        "data.max_long_side=256, data.long_side=64, data.image_size=null",
        lambda run: max(images(run).shape) > 64,
        True,
    ),
    Setting("data.multi_scale=[1.5,1.5]", lambda run: tuple(images(run).shape), (4, 3, 96, 96)),
    Setting("data.max_train_images=9", lambda run: run.checkpoints.num_images, 9),
    Setting("data.max_val_images=3", lambda run: sum(batch_sizes_of_evaluation(run)), 3),
    Setting("data.value_range=[0,1000]", lambda run: run.trainer.model.value_range, (0.0, 1000.0)),
    Setting("data.tiles=80", lambda run: run.loader.num_items > 16, True),
    Setting("data.tiles=80", lambda run: run.trainer.model.training_tiles.size, (80, 80)),
    Setting("data.tiles=80", lambda run: run.views.tiles, (80, 80)),
    Setting("data.tile_overlap=0.4, data.tiles=80", lambda run: run.views.overlap, 0.4),
    Setting("data.resize=stretch", lambda run: run.trainer.model.preprocessing.fit, "stretch"),
    Setting(
        "data.resize=stretch, data.image_size=[64,96]",
        lambda run: first_batch(run).content_sizes.tolist(),
        [[64, 96]] * 4,
    ),
    Setting("data.workers=1", lambda run: images(run).is_shared(), True),
    Setting("data.augment.horizontal_flip=1", images),
    Setting("data.augment.vertical_flip=1", images),
    Setting("data.augment.scale=[2,2]", images),
    Setting("data.augment.color=1", images),
    Setting("data.augment.safe_crop=1", images),
    Setting("data.augment.mosaic=1", images),
    Setting("data.augment.mixup=1", images),
    Setting("data.augment.plain_start=2", lambda run: run.plan.plain_start, 2),
    Setting("data.augment.plain_epochs=1", lambda run: run.plan.plain_epochs, 1),
    Setting("data.augment.plain_epochs=null, train.epochs=9", lambda run: run.plan.plain_epochs, 2),
    Setting("data.augment.transforms=[{name: InvertImg,p: 1.0}]", images),
    Setting("model.name=lite1", lambda run: run.trainer.model.name, "lite1"),
    Setting("model.phi=0.5, model.name=null", lambda run: run.trainer.model.architecture.channels, 72),
    Setting("model.stochastic_depth=0.5", lambda run: run.trainer.model.stochastic_depth, 0.5),
    Setting("run.name=other", lambda run: run.checkpoints.folder.name, "other"),
    Setting("run.loggers=[tensorboard]", lambda run: run.log.logger_kinds, ["tensorboard"]),
    Setting("run.seed=5", lambda run: (run.trainer.settings.seed, first_batch(run).image_ids)),
]

BLOCKS = tuple((f"ir_r1_k3_s2_e2_c{channels}",) for channels in (16, 24, 32, 40))
ARCHITECTURE = {
    "backbone": "tf_efficientnet_lite1",
    "backbone_blocks": BLOCKS,
    "stem_channels": 24,
    "image_size": (384, 320),
    "in_channels": 1,
    "channels": 48,
    "neck": "pan",
    "fusion": "softmax",
    "neck_repeats": 2,
    "head_repeats": 2,
    "head_channels": 8,
    "activation": "silu",
    "head_activation": "silu",
    "separable": False,
    "conv_order": "conv_bn_act",
    "skip_edges": False,
    "single_input_nodes": True,
    "min_level": 4,
    "max_level": 6,
    "anchor_scale": 2.5,
    "scales_per_octave": 2,
    "aspect_ratios": ((1.0, 1.0), (2.0, 0.5)),
    "mean": (1.0, 2.0, 3.0),
    "std": (4.0, 5.0, 6.0),
    "backbone_bn_eps": 1e-5,
    "stochastic_depth": 0.1,
    "expanded_features": True,
    "downsampling": "max_zeros",
    "upsampling": "bilinear",
    "conv_bias": False,
}

# Keys that need files or a whole run, and the tests below that set them.
ELSEWHERE = {
    "model.num_classes": "test_another_number_of_classes_is_refused",
    "model.weights": "test_a_run_starts_from_the_weights_of_a_detector",
    "model.backbone_weights": "test_a_run_starts_from_the_weights_of_a_backbone",
    "data.keep_parent": "test_a_parent_category_is_a_class_where_it_is_asked_for",
    "data.root": "test_the_data_lies_where_the_config_says",
    "data.train_images": "test_the_data_lies_where_the_config_says",
    "data.val_images": "test_the_data_lies_where_the_config_says",
    "train.teacher": "test_a_larger_detector_teaches",
    "train.teacher_weight": "test_a_larger_detector_teaches",
    "train.sync_bn": "test_bn_of_several_processes_needs_cuda",
    "run.dir": "test_the_run_folder_lies_in_run_dir",
    "run.report": "test_a_run_ends_with_a_report_where_the_config_asks_for_one",
    "run.device": "test_the_device_of_the_config_is_used",
    "run.threads": "test_torch_has_as_many_threads_as_the_config_says_while_the_run_is_built",
}


def keys_of(section, prefix=""):
    for item in fields(section):
        value = getattr(section, item.name)
        yield from keys_of(value, f"{prefix}{item.name}.") if is_dataclass(value) else [f"{prefix}{item.name}"]


def test_the_table_has_every_key_of_the_config():
    here = {setting.key for setting in SETTINGS} | {f"model.architecture.{name}" for name in ARCHITECTURE}
    assert here | set(ELSEWHERE) == set(keys_of(Config()))
    assert set(ELSEWHERE.values()) <= set(globals())


@pytest.fixture(scope="module")
def load(demo_root, tmp_path_factory):
    """Return a function that loads the base config with overrides."""
    folder = tmp_path_factory.mktemp("settings")
    path = folder / "base.yaml"
    path.write_text(BASE.format(root=demo_root, runs=folder / "runs"))
    return lambda *overrides: load_config(path, overrides)


@contextlib.contextmanager
def built(config):
    """Build the run of a config, with the same random weights every time."""
    torch.manual_seed(0)
    with contextlib.ExitStack() as lock:
        yield prepare_run(config, World(torch.device("cpu")), None, lock)[0]


@pytest.fixture(scope="module")
def plain(load):
    with built(load()) as run:
        yield run


def same(a, b):
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and a.shape == b.shape else a is b or a == b


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda setting: setting.overrides)
def test_a_setting_reaches_what_it_is_for(load, plain, setting):
    with built(load(*setting.overrides.split(", "))) as run:
        found = setting.probe(run)
    if setting.expected is not None:
        assert found == (pytest.approx(setting.expected) if isinstance(setting.expected, float) else setting.expected)
    assert not same(found, setting.probe(plain))


@pytest.mark.parametrize("name", ARCHITECTURE)
def test_a_key_of_the_architecture_reaches_the_architecture(load, name):
    from effdet.runs.architecture import architecture_of

    with_it = {"in_channels": {"mean": (1.0,), "std": (2.0,)}, "stem_channels": {"backbone_blocks": BLOCKS}}
    given = {name: ARCHITECTURE[name], **with_it.get(name, {})}
    config = load()
    model = replace(config.model, architecture=ArchitectureConfig(**given))
    assert getattr(architecture_of(config.model), name) != ARCHITECTURE[name]
    assert getattr(architecture_of(model), name) == ARCHITECTURE[name]


def test_the_run_builds_the_architecture_of_its_config(load):
    with built(load("model.architecture.channels=48", "model.architecture.neck=pan")) as run:
        architecture = run.trainer.model.architecture
    assert (architecture.name, architecture.channels, architecture.neck) == ("custom", 48, "pan")


def test_a_parent_category_is_a_class_where_it_is_asked_for(load):
    root = Path(__file__).resolve().parents[1] / "data" / "cases" / "roboflow-root-category"
    with built(load(f"data.root={root}")) as run:
        names = run.trainer.model.class_names
    with built(load(f"data.root={root}", "data.keep_parent=true")) as run:
        assert set(run.trainer.model.class_names) - set(names) == {"blood-cells"}
        assert set(names) < set(run.trainer.model.class_names)


def test_another_number_of_classes_is_refused(load):
    with (
        pytest.raises(ConfigError, match=r"model\.num_classes must be that of the data, 5 in .*, got 4"),
        built(load("model.num_classes=4")),
    ):
        pass


def test_a_run_starts_from_the_weights_of_a_detector(load, tmp_path):
    first = EfficientDet("lite0", 5)
    first.save_pretrained(tmp_path / "first.safetensors")
    with built(load(f"model.weights={tmp_path}/first.safetensors")) as run:
        after = run.trainer.model.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in first.state_dict().items())


def test_a_run_starts_from_the_weights_of_a_backbone(load, tmp_path):
    backbone = EfficientDet("lite0", 5).network.backbone
    torch.save(backbone.state_dict(), tmp_path / "backbone.pth")
    with built(load(f"model.backbone_weights={tmp_path}/backbone.pth")) as run:
        after = run.trainer.model.network.backbone.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in backbone.state_dict().items())


def test_the_data_lies_where_the_config_says(load, tmp_path, demo_root):
    draw_demo(tmp_path / "other", num_train=8, num_val=2, seed=1)
    more = tmp_path / "more"
    for folder in (tmp_path / "moved" / "images", more):
        shutil.copytree(tmp_path / "other" / "images", folder)
    for name in ("train.json", "val.json"):
        shutil.copy(tmp_path / "other" / name, tmp_path / "moved")
    with built(load(f"data.root={tmp_path}/moved")) as run:
        assert run.checkpoints.num_images == 8
    shutil.rmtree(tmp_path / "moved" / "images")
    with pytest.raises(ValueError, match="cannot be read"), built(load(f"data.root={tmp_path}/moved")):
        pass
    with (
        pytest.raises(ValueError, match="cannot be read"),
        built(load(f"data.root={tmp_path}/moved", f"data.train_images={more}")),
    ):
        pass
    with built(load(f"data.root={tmp_path}/moved", f"data.train_images={more}", f"data.val_images={more}")) as run:
        assert run.checkpoints.num_images == 8


def test_the_run_folder_lies_in_run_dir(load, tmp_path):
    with built(load(f"run.dir={tmp_path}/elsewhere")) as run:
        assert run.checkpoints.folder == tmp_path / "elsewhere" / "base"


def test_a_run_ends_with_a_report_where_the_config_asks_for_one(load, monkeypatch):
    written = []
    monkeypatch.setattr("effdet.runs.train.report_training", lambda folder, *rest: written.append(folder))
    monkeypatch.setattr("effdet.runs.train.draw_pictures", lambda *parts: None)
    run = train(load("train.epochs=1", "run.report=false"))
    assert written == []
    assert train(load("train.epochs=1", "run.report=true")).folder in written != [run.folder]


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device")
def test_the_device_of_the_config_is_used(load):
    with pytest.raises(ValueError, match=r"run\.device is 'mps', but torch finds no MPS device here"):
        train(load("run.device=mps"))


class SeenEnoughError(Exception):
    pass


def test_torch_has_as_many_threads_as_the_config_says_while_the_run_is_built(load, monkeypatch):
    seen = []

    def look(*args, **kwargs):
        seen.append(torch.get_num_threads())
        raise SeenEnoughError

    monkeypatch.setattr(build, "build_loader", look)
    for threads in (1, 2):
        with pytest.raises(SeenEnoughError):
            train(load(f"run.threads={threads}"))
    assert seen == [1, 2]
    assert torch.get_num_threads() == 1


def test_a_larger_detector_teaches(load, tmp_path):
    weights = tmp_path / "teacher.safetensors"
    with built(load()) as run:
        names = (*reversed(run.trainer.model.class_names), "more")
        alone = run.trainer.step([first_batch(run)], 0).losses
    EfficientDet("lite1", num_classes=len(names), class_names=names).save_pretrained(weights)
    totals = []
    for weight in ("null", 1000):
        with built(load(f"train.teacher={weights}", f"train.teacher_weight={weight}")) as run:
            assert run.trainer.teacher.classes.tolist() == list(range(len(names) - 1))[::-1]
            totals.append(sum(run.trainer.step([first_batch(run)], 0).losses.values()) - sum(alone.values()))
    assert totals[0] > 0
    assert totals[1] == pytest.approx(1000 * totals[0], rel=0.05)  # the smaller one has few digits


def test_bn_of_several_processes_needs_cuda(load):
    with (
        pytest.raises(ConfigError, match=r"train\.sync_bn needs run\.device cuda, got cpu"),
        built(load("train.sync_bn=true")),
    ):
        pass


def test_synchronised_bn_is_the_same_network():
    torch.manual_seed(0)
    model = EfficientDet("lite0", num_classes=3, image_size=(96, 128)).eval()
    images = torch.rand(1, 3, 96, 128)
    with torch.no_grad():
        expected = model.network(images)
        names = list(model.state_dict())
        build.synchronise_bn(model, World(torch.device("cuda"), 0, 2, 2))
        found = model.network(images)
    norms = [module for module in model.network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(module, nn.SyncBatchNorm) for module in norms)
    model.network.set_bn_momentum(0.5)
    assert {module.momentum for module in norms} == {0.5}
    assert list(model.state_dict()) == names
    assert torch.equal(found.class_logits, expected.class_logits)
    assert torch.equal(found.box_deltas, expected.box_deltas)
