"""Networks for gray, deep and many-channel images: training, prediction, evaluation and export, by one config."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

import effdet
from effdet.adaptation.trials import prepare_trials
from effdet.config import ConfigError, load_config
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset
from effdet.detector.efficientdet import EfficientDet
from effdet.images.pixel_format import PixelFormat
from effdet.images.reading import read_image
from effdet.runs.data import read_data
from effdet.runs.pixel_statistics import channel_statistics, channels_of, value_range_of, with_pixels
from effdet.runs.train import train


def as_gray(rgb):
    return rgb.mean(axis=2).astype(np.uint8)


def as_bands(rgb):
    """Five channels of a 14-bit camera."""
    return np.dstack([rgb, rgb[..., :2] // 2]).astype(np.uint16) * 64 + 100


SMALL = ["run.report=false", "data.long_side=null", "data.max_long_side=null", "data.image_size=[64,64]"]
KINDS = {"gray": (as_gray, 1, "png"), "bands": (as_bands, 5, "npy"), "deep": (lambda rgb: rgb / 1000.0, 3, "npy")}


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(scope="module")
def photos(kind, demo_root, tmp_path_factory):
    """The demo set with images of another kind."""
    convert, _, suffix = KINDS[kind]
    root = tmp_path_factory.mktemp(kind)
    (root / "images").mkdir()
    for split in ("train", "val"):
        content = json.loads((demo_root / f"{split}.json").read_text())
        for image in content["images"]:
            pixels = convert(read_image(demo_root / "images" / image["file_name"]))
            image["file_name"] = f"{split}-{image['id']}.{suffix}"
            file = root / "images" / image["file_name"]
            if suffix == "npy":
                np.save(file, pixels)
            else:
                Image.fromarray(pixels).save(file)
        (root / f"{split}.json").write_text(json.dumps(content))
    return root


@pytest.fixture(scope="module")
def run(kind, photos, tmp_path_factory):
    overrides = [f"data.root={photos}", f"model.architecture.in_channels={KINDS[kind][1]}", "train.epochs=1"]
    overrides += [*SMALL, "model.name=lite0", "model.backbone_weights=null", "train.batch_size=4"]
    overrides += ["data.augment.color=0.5", "data.augment.mosaic=0.5", "data.augment.mixup=0.5", "data.workers=1"]
    overrides += [f"run.dir={tmp_path_factory.mktemp('runs')}", "train.freeze=none", "train.warmup_epochs=0"]
    return train(load_config("custom", overrides))


def all_values(photos, split="train"):
    dataset = find_dataset(photos, split)
    load = (
        np.load
        if dataset.names[0].endswith(".npy")
        else lambda file: np.asarray(effdet.images.reading.Image.open(file))
    )
    return [load(dataset.path(index)) for index in range(len(dataset))]


def test_a_run_learns_range_mean_and_std_from_the_data(kind, photos, run):
    values = all_values(photos)
    channels = KINDS[kind][1]
    pixels = np.concatenate([image.reshape(-1, channels) for image in values]).astype(np.float64)
    model = run.best
    assert model.architecture.in_channels == channels
    if kind == "gray":
        assert model.value_range is None
    else:
        assert model.value_range == pytest.approx((pixels.min(), pixels.max()))
        pixels = (pixels - pixels.min()) * 255 / np.ptp(pixels)
    per_image = [
        (p.reshape(-1, channels).mean(0), (p.reshape(-1, channels).astype(float) ** 2).mean(0)) for p in values
    ]
    if kind == "gray":  # every image counts the same
        mean = np.mean([mean for mean, _ in per_image], axis=0)
        std = np.sqrt(np.mean([square for _, square in per_image], axis=0) - mean**2)
        np.testing.assert_allclose(model.letterbox.mean, mean, rtol=1e-3)
        np.testing.assert_allclose(model.letterbox.std, std, rtol=1e-3)
    np.testing.assert_allclose(model.letterbox.mean, pixels.mean(axis=0), rtol=0.1)
    config = load_config(run.folder / "config.yaml")
    assert config.model.architecture.mean == pytest.approx(model.letterbox.mean)
    assert config.data.value_range == model.value_range
    assert (run.folder / "predictions.png").is_file()


def test_files_arrays_and_tensors_give_the_same(photos, run):
    dataset = find_dataset(photos, "val")
    file = dataset.path(0)
    values = all_values(photos, "val")[0]
    values = values if values.ndim == 3 else values[..., None]
    model = run.best
    found = model.predict(
        [file, values, torch.from_numpy(values.astype(values.dtype)).permute(2, 0, 1)], score_threshold=0
    )
    assert len(found[0]) > 5
    for other in found[1:]:
        torch.testing.assert_close(other.scores, found[0].scores, atol=1e-5, rtol=1e-4)
    ((detections, image),) = model.predict_iter(file, score_threshold=0)
    assert detections.draw(image).shape == (*values.shape[:2], 3)
    (tiled,) = model.predict(file, score_threshold=0, tiles=150, flip=True)
    assert len(tiled) > 5


def test_evaluation_gives_the_numbers_of_training(photos, run):
    metrics = effdet.evaluate(run.best, photos, workers=0)
    assert metrics.ap == pytest.approx(max(row["ap"] for row in run.history if "ap" in row), abs=1e-6)
    effdet.evaluate(run.best, photos, workers=1, tiles=100)


@pytest.mark.slow
def test_an_export_gives_the_detections_of_its_model(photos, run, tmp_path):
    pytest.importorskip("onnxruntime")
    from effdet.deployment.export import ExportOptions, export

    export(run.best, tmp_path / "model.onnx", ExportOptions())
    exported = effdet.load(tmp_path / "model.onnx", runtime="onnxruntime")
    assert exported.letterbox == run.best.letterbox
    file = find_dataset(photos, "val").path(0)
    (ours,), (theirs,) = (model.predict(file, score_threshold=0) for model in (run.best, exported))
    torch.testing.assert_close(theirs.scores[:5], ours.scores[:5], atol=1e-4, rtol=1e-3)


@pytest.mark.slow
def test_a_resumed_run_keeps_the_numbers_of_its_first_part(run, tmp_path):
    shutil.copytree(run.folder, tmp_path / "run")
    longer = train(load_config(tmp_path / "run" / "config.yaml", ["train.epochs=2"]), resume=tmp_path / "run")
    assert longer.best.letterbox == run.best.letterbox


def test_a_detector_for_rgb_starts_one_for_other_channels(kind, photos, tmp_path):
    from effdet.runs.start_weights import build_model

    torch.manual_seed(0)
    rgb = EfficientDet("lite0", 5, image_size=(64, 64)).eval()
    rgb.save_pretrained(tmp_path / "rgb.safetensors")
    overrides = [f"data.root={photos}", f"model.architecture.in_channels={KINDS[kind][1]}", "model.name=null"]
    overrides += [f"model.weights={tmp_path / 'rgb.safetensors'}", "model.backbone_weights=null"]
    config = load_config("custom", [*overrides, *SMALL])
    train_images, _ = read_data(config.data, channels=channels_of(config))
    config = with_pixels(config, train_images)
    model = build_model(config, train_images, resumed=False)
    own, theirs = (one.state_dict()["network.backbone.conv_stem.weight"] for one in (model, rgb))
    assert own.shape[1] == KINDS[kind][1]
    torch.testing.assert_close(own.sum(dim=1), theirs.sum(dim=1))
    assert model.letterbox.mean == pytest.approx(config.model.architecture.mean)


def test_trainings_that_are_compared_take_the_channels_of_the_images(photos, kind):
    overrides = [f"data.root={photos}", f"model.architecture.in_channels={KINDS[kind][1]}", *SMALL]
    base = prepare_trials(load_config("custom", overrides), images=8)
    assert base.base.in_channels == len(base.base.mean) == KINDS[kind][1]
    assert (base.config.data.value_range is None) == (kind == "gray")


def test_a_stated_range_and_statistics_are_kept(photos, kind):
    channels = KINDS[kind][1]
    ones = [1.0] * channels
    overrides = [f"data.root={photos}", "data.value_range=[0, 1000]", f"model.architecture.in_channels={channels}"]
    overrides += [f"model.architecture.mean={ones}", f"model.architecture.std={ones}"]
    config = load_config("custom", overrides)
    images, _ = read_data(config.data, channels=channels_of(config))
    assert images.pixels == PixelFormat(channels=channels, value_range=(0, 1000))
    assert with_pixels(config, images) == config


def test_eight_bit_rgb_changes_nothing(demo_root):
    config = load_config("demo", [f"data.root={demo_root}"])
    images, _ = read_data(config.data)
    assert images.pixels == PixelFormat()
    assert with_pixels(config, images) == config


def test_data_without_a_range_or_a_spread_is_one_sentence(demo_root, tmp_path):
    shutil.copytree(demo_root, tmp_path / "flat")
    dataset = find_dataset(tmp_path / "flat", "train")
    for index in range(len(dataset)):
        np.save(dataset.path(index).with_suffix(".npy"), np.full((4, 4), 7, np.uint16))
        dataset.path(index).with_suffix(".npy").rename(dataset.path(index))
    with pytest.raises(DataError, match=r"train\.json: its images hold values from 7 to 7, which is no range"):
        value_range_of(dataset)
    for index in range(len(dataset)):
        height, width = dataset.sizes[index]
        file = dataset.path(index).with_suffix(".npy")
        np.save(file, np.full((height, width), 7, np.uint8))
        file.rename(dataset.path(index))
    with pytest.raises(DataError, match=r"train\.json: channel 0 has the level 7 in all images; leave it out, or give"):
        channel_statistics(dataset, PixelFormat(channels=1))


def test_transforms_of_albumentations_need_rgb(demo_root, tmp_path):
    overrides = [f"data.root={demo_root}", "data.augment.transforms=[{name: Blur, p: 1.0}]", f"run.dir={tmp_path}"]
    overrides += ["model.architecture.in_channels=1", "model.backbone_weights=null", *SMALL]
    with pytest.raises(ConfigError, match=r"data.augment.transforms must be empty for images that are not 8-bit RGB"):
        train(load_config("custom", overrides))
