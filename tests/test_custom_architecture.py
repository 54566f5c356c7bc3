"""A network that is in no table is built, trained, saved, loaded and exported like a published one."""

import csv
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from effdet import Architecture, EfficientDet, evaluate, load_config
from effdet.data.demo import draw_demo
from effdet.runs.architecture import architecture_of

ROOT = Path(__file__).parents[1]

CUSTOM = Architecture(
    backbone="resnet18",
    image_size=(64, 96),
    channels=24,
    neck="pan",
    fusion="softmax",
    neck_repeats=2,
    head_repeats=1,
    activation="hardswish",
    scales_per_octave=2,
    aspect_ratios=(1.0, 3.0),
    anchor_scale=2.5,
    mean=(100.0, 110.0, 120.0),
    std=(50.0, 60.0, 70.0),
)


def images_and_targets(channels=3):
    generator = torch.Generator().manual_seed(0)
    images = list(torch.rand(2, channels, 60, 90, generator=generator))
    return images, [{"boxes": torch.tensor([[5.0, 5.0, 40.0, 30.0]]), "labels": torch.tensor([1])}] * 2


def train_two_steps(model, channels=3):
    images, targets = images_and_targets(channels)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.01)
    model.train()
    for _ in range(2):
        optimizer.zero_grad()
        losses = model(images, targets)
        sum(losses.values()).backward()
        optimizer.step()
    assert all(loss.isfinite() for loss in losses.values())
    return model.eval()


@pytest.fixture(scope="module")
def trained():
    torch.manual_seed(0)
    return train_two_steps(EfficientDet(CUSTOM, 3, class_names=["a", "b", "c"]))


def test_it_has_the_parts_that_it_says(trained):
    assert (trained.architecture, trained.name) == (CUSTOM, "custom")
    predictions = trained.network(torch.rand(1, 3, 64, 96))
    cells = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2 + 1 * 1
    assert predictions.class_logits.shape == (1, cells * 4, 3)
    assert trained.anchors((64, 96), "cpu").shape == (cells * 4, 4)
    first = trained.anchors((64, 96), "cpu")[0]  # a square of 2.5 strides around the centre (4, 4)
    assert first.tolist() == [-6, -6, 14, 14]


@pytest.mark.parametrize("name", ["own.safetensors", "folder"])
def test_it_is_saved_and_loaded(trained, tmp_path, name):
    trained.save_pretrained(tmp_path / name)
    again = EfficientDet.from_pretrained(tmp_path / name)
    assert (again.architecture, again.class_names) == (CUSTOM, ("a", "b", "c"))
    x = torch.rand(1, 3, 64, 96)
    assert torch.equal(again.network(x).class_logits, trained.network(x).class_logits)


def test_it_is_exported_to_onnx_and_loaded(trained, tmp_path):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    from effdet.deployment.export import ExportOptions, export
    from effdet.deployment.load import load

    export(trained, tmp_path / "own.onnx", ExportOptions(format="onnx"))
    detector = load(tmp_path / "own.onnx")
    assert detector.description.architecture == CUSTOM
    assert torch.equal(detector.anchors((64, 96)), trained.anchors((64, 96), "cpu"))
    image = torch.rand(3, 60, 90)
    (ours,), (theirs,) = (each.predict(image, score_threshold=0.0) for each in (trained, detector))
    torch.testing.assert_close(theirs.boxes, ours.boxes, rtol=1e-3, atol=1e-2)
    torch.testing.assert_close(theirs.scores, ours.scores, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 4])
def test_images_may_have_any_number_of_channels(channels, tmp_path):
    mean = tuple(100.0 + i for i in range(channels))
    model = EfficientDet(replace(CUSTOM, in_channels=channels, mean=mean, std=mean), 3)
    train_two_steps(model, channels)
    model.save_pretrained(tmp_path / "own.safetensors")
    again = EfficientDet.from_pretrained(tmp_path / "own.safetensors")
    images, _ = images_and_targets(channels)
    (expected, _), (found, _) = model(images), again(images)
    assert torch.equal(found["boxes"], expected["boxes"])
    with pytest.raises(ValueError, match=rf"image 0 must have the shape \({channels}, H, W\), got \(5, 8, 8\)"):
        model([torch.rand(5, 8, 8)])


def test_a_network_of_one_channel_sees_the_luminance_of_a_photo():
    model = EfficientDet(replace(CUSTOM, in_channels=1, mean=(100.0,), std=(50.0,)), 3)
    photo = next((ROOT / "tests" / "photos").rglob("images/*.jpg"))
    (_, image) = next(model.predict_iter(photo))
    assert image.shape[2] == 1
    with pytest.raises(
        ValueError, match="an RGB fill needs a network with in_channels=3, got in_channels=1; take channel"
    ):
        _ = model.fill


@pytest.mark.parametrize(
    ("backbone", "message"),
    [
        ("resnet19", "backbone must be the name of a model of timm, got 'resnet19'; did you mean 'resnet"),
        ("vit_tiny_patch16_224", "features at the strides 8, 16, 32, but 'vit_tiny_patch16_224' has them at 16"),
        ("swin_tiny_patch4_window7_224", "must give features as .* gives them channels last"),
    ],
)
def test_a_backbone_without_the_features_is_refused(backbone, message):
    with pytest.raises(ValueError, match=message):
        EfficientDet(replace(CUSTOM, backbone=backbone), 3)


def test_a_backbone_that_cannot_drop_blocks_says_so():
    with pytest.raises(ValueError, match="stochastic_depth must be 0 for the backbone 'vgg11_bn'"):
        EfficientDet(replace(CUSTOM, backbone="vgg11_bn"), 3)
    assert EfficientDet(replace(CUSTOM, backbone="vgg11_bn", stochastic_depth=0.0), 3).name == "custom"


def test_a_backbone_without_expanded_blocks_says_so():
    with pytest.raises(ValueError, match="expanded_features must be false for the backbone 'resnet18'"):
        EfficientDet(replace(CUSTOM, expanded_features=True), 3)


def test_neither_a_name_nor_an_architecture_is_refused():
    with pytest.raises(TypeError, match="architecture must be an Architecture or the name of one, got int"):
        EfficientDet(0, 3)


@pytest.mark.slow
def test_the_command_trains_resumes_and_saves_it(tmp_path):
    draw_demo(tmp_path / "demo", num_train=16, num_val=8, seed=0)
    keys = {"backbone": "resnet18", "channels": "24", "neck": "pan", "neck_repeats": "1", "image_size": "[64, 64]"}
    overrides = [f"model.architecture.{key}={value}" for key, value in keys.items()]
    common = [sys.executable, str(ROOT / "tools" / "train.py"), str(ROOT / "configs" / "demo.yaml")]
    common += [
        f"run.dir={tmp_path}",
        "run.name=own",
        "run.report=false",
        "train.batch_size=8",
        "data.workers=0",
        "train.warmup_epochs=0",
    ]
    common += ["data.long_side=null", "data.image_size=null", *overrides]
    common += [f"data.root={tmp_path}/demo", "model.backbone_weights=null"]
    for more in (["train.epochs=1"], ["train.epochs=2", "--resume"]):
        done = subprocess.run([*common, *more], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    with (tmp_path / "own" / "metrics.csv").open() as file:
        assert len(list(csv.DictReader(file))) == 2
    expected = replace(
        architecture_of(load_config(ROOT / "configs" / "demo.yaml").model),
        **{"backbone": "resnet18", "channels": 24, "neck": "pan", "neck_repeats": 1, "image_size": (64, 64)},
    )
    saved = load_config(tmp_path / "own" / "config.yaml")
    assert (architecture_of(saved.model), saved.model.name) == (expected, "custom")
    model = EfficientDet.from_pretrained(tmp_path / "own" / "best.safetensors")
    assert (model.architecture, model.image_size) == (expected, (64, 64))
    assert 0 <= evaluate(model, tmp_path / "demo", progress=False).ap <= 1
