import json
import logging
from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from effdet import EfficientDet
from effdet.images.preprocessing import Preprocessing
from effdet.models.architecture import Architecture
from effdet.ops.settings import PostprocessSettings
from effdet.training.checkpoint import tensors_of
from effdet.weights import effdet, sources
from effdet.weights.checkpoint import network_shapes
from effdet.weights.coco_classes import COCO_IDS, COCO_NAMES
from effdet.weights.effdet import to_effdet
from effdet.weights.loading import load
from effdet.weights.published_files import PUBLISHED

LITE0 = "tf_efficientdet_lite0"


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientDet(LITE0, 90)


@pytest.fixture(scope="module")
def theirs(model):
    """The model by the names of the effdet package."""
    return to_effdet(model.network.state_dict(), LITE0)


def assert_same_network(a, b):
    first, second = a.network.state_dict(), b.network.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


# -- which project wrote it


@pytest.mark.parametrize("save", [torch.save, save_file], ids=["pickle", "safetensors"])
def test_a_published_file_brings_its_variant_presets_and_coco_names(model, theirs, tmp_path, save):
    save(theirs, tmp_path / "tf_efficientdet_lite0-dfacfc78.pth")
    loaded = EfficientDet.from_pretrained(tmp_path / "tf_efficientdet_lite0-dfacfc78.pth")
    assert_same_network(loaded, model)
    assert (loaded.name, loaded.image_size, loaded.training) == (LITE0, (320, 320), False)
    assert (loaded.class_names, loaded.category_ids) == (COCO_NAMES, COCO_IDS)
    assert loaded.settings == PostprocessSettings.preset("effdet")
    assert loaded.preprocessing == Preprocessing.preset("effdet")
    assert torch.equal(loaded.mean, model.mean)


def test_advprop_has_a_preprocessing_of_its_own(tmp_path):
    state = to_effdet(EfficientDet("tf_efficientdet_d0_ap", 2).network.state_dict(), "tf_efficientdet_d0_ap")
    torch.save(state, tmp_path / "tf_efficientdet_d0_ap-d0cdbd0a.pth")
    loaded = EfficientDet.from_pretrained(tmp_path / "tf_efficientdet_d0_ap-d0cdbd0a.pth")
    assert loaded.name == "tf_efficientdet_d0_ap"
    assert loaded.preprocessing == Preprocessing.preset("effdet-advprop")
    assert loaded.mean.tolist() == [127.5, 127.5, 127.5]


@pytest.mark.parametrize("prefix", ["module.", "model.", "_orig_mod.", "module.model.", "model.model."])
def test_wrappers_leave_no_trace(model, theirs, tmp_path, prefix):
    wrapped = {prefix + name: tensor for name, tensor in theirs.items()} | {"anchors.boxes": torch.zeros(5, 4)}
    torch.save(wrapped, tmp_path / "w.pth")
    found = load(tmp_path / "w.pth")
    assert_same_network(EfficientDet.from_loaded(found), model)
    assert found.checkpoint.skipped == ("anchors.boxes",)
    assert found.checkpoint.sources["backbone.conv_stem.weight"] == f"{prefix}backbone.conv_stem.weight"


def test_a_state_dict_with_compiled_or_parallel_parts_is_loaded(model, tmp_path):
    state = {
        name.replace("backbone.", "backbone._orig_mod.").replace("class_head.", "class_head.module."): tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(state, tmp_path / "parts.pth")
    found = load(tmp_path / "parts.pth")
    assert_same_network(EfficientDet.from_loaded(found), model)
    assert found.checkpoint.sources["backbone.conv_stem.weight"] == "network.backbone._orig_mod.conv_stem.weight"


def test_a_plain_state_dict_of_ours_is_loaded_with_or_without_prefix(model, tmp_path):
    for name, state in (("a.pth", model.state_dict()), ("b.pt", model.network.state_dict())):
        torch.save(state, tmp_path / name)
        loaded = EfficientDet.from_pretrained(tmp_path / name)
        assert_same_network(loaded, model)
        assert (loaded.name, loaded.settings) == ("lite0", PostprocessSettings())  # ours comes first


def test_half_precision_becomes_float32(model, theirs, tmp_path):
    halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in theirs.items()}
    torch.save(halves, tmp_path / "w.pth")
    loaded = EfficientDet.from_pretrained(tmp_path / "w.pth")
    assert {tensor.dtype for tensor in loaded.network.parameters()} == {torch.float32}
    stem = model.network.backbone.conv_stem.weight
    assert torch.equal(loaded.network.backbone.conv_stem.weight, stem.half().float())


def test_a_training_checkpoint_of_the_effdet_package_gives_its_average(model, theirs, tmp_path):
    other = {name: torch.zeros_like(tensor) for name, tensor in theirs.items()}
    checkpoint = {
        "epoch": 3,
        "arch": LITE0,
        "state_dict": other,
        "state_dict_ema": theirs,
        "args": Namespace(model=LITE0),
        "metric": np.float64(0.3),
    }
    torch.save(checkpoint, tmp_path / "checkpoint-3.pth.tar")
    loaded = EfficientDet.from_pretrained(tmp_path / "checkpoint-3.pth.tar")
    assert_same_network(loaded, model)
    assert loaded.start == f"the detector in {tmp_path}/checkpoint-3.pth.tar (state_dict_ema), layout of effdet"


def test_our_own_training_checkpoint_gives_its_average_with_mean_and_deviation(model, tmp_path):
    other = EfficientDet("lite0", 90)
    average = {**tensors_of(model), "mean": torch.tensor([1.0, 2, 3]), "std": torch.tensor([4.0, 5, 6])}
    torch.save({"format": 1, "model": tensors_of(other), "ema": {"model": average, "count": 7}}, tmp_path / "last.ckpt")
    loaded = EfficientDet.from_pretrained(tmp_path / "last.ckpt")
    assert_same_network(loaded, model)
    assert (loaded.mean.tolist(), loaded.std.tolist()) == ([1, 2, 3], [4, 5, 6])


def checkpoint_of_a_run(average, **parts):
    """What ``last.ckpt`` holds, as far as weights are concerned."""
    other = EfficientDet(average.architecture, average.num_classes)
    ema = {"model": tensors_of(average), "count": 7}
    return {"format": 1, "model": tensors_of(other), "ema": ema, "progress": {"step": 7}, **parts}


def test_the_checkpoint_of_a_run_is_the_whole_model(tmp_path):
    names, ids, settings = ["cell", "platelet"], [4, 9], PostprocessSettings(iou_threshold=0.4)
    model = EfficientDet("lite0", 2, image_size=(96, 128), class_names=names, category_ids=ids, settings=settings)
    torch.save(checkpoint_of_a_run(model, description=model.description()), tmp_path / "last.ckpt")
    loaded = EfficientDet.from_pretrained(tmp_path / "last.ckpt")
    assert_same_network(loaded, model)
    assert loaded.description() == model.description()


def test_the_checkpoint_of_an_older_run_points_to_its_best_model(tmp_path):
    torch.save(checkpoint_of_a_run(EfficientDet("lite0", 2)), tmp_path / "last.ckpt")
    with pytest.raises(
        ValueError, match=r"without the input size and class names of its model; take .*best\.safetensor"
    ):
        EfficientDet.from_pretrained(tmp_path / "last.ckpt")


def test_a_published_name_needs_nothing_but_its_file(theirs, tmp_path, monkeypatch, caplog):
    torch.save(theirs, tmp_path / "w.pth")
    monkeypatch.setattr(sources, "local_file", lambda file: tmp_path / "w.pth")
    loaded = EfficientDet.from_pretrained("lite0")
    assert loaded.name == LITE0
    assert loaded.start == "the detector in lite0 (tf_efficientdet_lite0-dfacfc78.pth), layout of effdet"
    assert not caplog.text


def test_a_file_trained_at_another_size_keeps_it(theirs, tmp_path, monkeypatch):
    torch.save(theirs, tmp_path / "w.pth")
    published = replace(sources.find_published("lite0"), image_size=(640, 640))
    monkeypatch.setattr(sources, "find_published", lambda name: published)
    monkeypatch.setattr(sources, "local_file", lambda file: tmp_path / "w.pth")
    assert EfficientDet.from_pretrained("x").image_size == (640, 640)


def test_a_folder_of_timms_style_brings_names_size_mean_and_deviation(model, theirs, tmp_path):
    save_file(theirs, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(
        '{"architecture": "tf_efficientdet_lite0", "label_names": ["thing"], '
        '"pretrained_cfg": {"input_size": [3, 256, 320], "mean": [0, 0.2, 1], "std": [0.4, 0.4, 0.4]}}'
    )
    with pytest.raises(ValueError, match="class_names must have one entry per class"):
        EfficientDet.from_pretrained(tmp_path)
    config = (tmp_path / "config.json").read_text().replace('"label_names": ["thing"], ', "")
    (tmp_path / "config.json").write_text(config)
    loaded = EfficientDet.from_pretrained(tmp_path)
    assert (loaded.name, loaded.image_size) == (LITE0, (256, 320))
    assert (loaded.mean.tolist(), loaded.std.tolist()) == ([0, 51, 255], [102, 102, 102])


def test_a_description_by_another_version_is_said_to_be_one(model, tmp_path):
    model.save_pretrained(tmp_path / "w")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    save_file(model.state_dict(), tmp_path / "w" / "model.safetensors")  # without the description inside
    config["effdet"]["settings"]["wbf"] = True
    (tmp_path / "w" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="cannot be used: it has the unknown settings wbf; another version"):
        load(tmp_path / "w")
    del config["effdet"]["mean"]
    (tmp_path / "w" / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="it does not say mean; another version"):
        load(tmp_path / "w")


def test_a_config_may_leave_out_what_timm_has(theirs, tmp_path):
    save_file(theirs, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text('{"architecture": "tf_efficientdet_lite0", "pretrained_cfg": null}')
    assert load(tmp_path).architecture.name == LITE0


# -- which variant it is


@pytest.mark.slow
@pytest.mark.parametrize("file", [file for file in PUBLISHED if file.family == "effdet"], ids=lambda file: file.name)
def test_every_published_name_of_effdet_says_which_variant_it_is(file):
    shapes = network_shapes(Architecture.named(file.variant), 90)
    state = to_effdet({name: torch.empty(shape, device="meta") for name, shape in shapes.items()}, file.variant)
    assert effdet.convert(state, file.file_name).variant == file.variant


def test_what_nothing_decides_is_said(theirs, tmp_path, caplog):
    torch.save(to_effdet(EfficientDet("d0", 2).network.state_dict(), "tf_efficientdet_d0"), tmp_path / "w.pth")
    assert load(tmp_path / "w.pth").architecture.name == "tf_efficientdet_d0"
    assert "fit 'tf_efficientdet_d0' and 'tf_efficientdet_d0_ap' alike; taking 'tf_efficientdet_d0'" in caplog.text
    caplog.clear()
    assert load(tmp_path / "w.pth", variant="tf_efficientdet_d0_ap").architecture.name == "tf_efficientdet_d0_ap"
    (tmp_path / "w.pth").rename(tmp_path / "tf_efficientdet_d0_34.pth")
    assert load(tmp_path / "tf_efficientdet_d0_34.pth").architecture.name == "tf_efficientdet_d0"
    assert not caplog.records


def test_a_variant_of_another_shape_is_refused(theirs, model, tmp_path):
    torch.save(theirs, tmp_path / "w.pth")
    model.save_pretrained(tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        with pytest.raises(ValueError, match=rf"holds the tensors of '{LITE0}', which do not fit variant 'd1'"):
            load(tmp_path / name, variant="d1")
    with pytest.raises(ValueError, match="unknown model 'lite9'"):
        load(tmp_path / "w.pth", variant="lite9")


def test_our_file_may_be_read_as_a_variant_of_the_same_shape(tmp_path):
    EfficientDet("d0", 2).save_pretrained(tmp_path / "w.safetensors")
    assert EfficientDet.from_pretrained(tmp_path / "w.safetensors", variant="efficientdet-d0").name == "efficientdet-d0"


# -- which classes it has


@pytest.mark.parametrize("num_classes", [1, 20, 91])
def test_other_numbers_of_classes_have_the_ids_that_the_project_reports(tmp_path, num_classes):
    state = EfficientDet(LITE0, num_classes).network.state_dict()
    torch.save(to_effdet(state, LITE0), tmp_path / "w.pth")
    loaded = EfficientDet.from_pretrained(tmp_path / "w.pth")
    assert loaded.num_classes == num_classes
    assert loaded.category_ids == tuple(range(1, num_classes + 1))
    named = EfficientDet.from_pretrained(tmp_path / "w.pth", class_names=[f"c{i}" for i in range(num_classes)])
    assert (named.class_names[0], named.category_ids) == ("c0", loaded.category_ids)


def test_a_new_class_head_starts_from_the_published_prior(model, theirs, tmp_path):
    torch.save(theirs, tmp_path / "w.pth")
    loaded = EfficientDet.from_pretrained(tmp_path / "w.pth", num_classes=3, class_names=["a", "b", "c"])
    assert (loaded.num_classes, loaded.class_names, loaded.category_ids) == (3, ("a", "b", "c"), (0, 1, 2))
    assert loaded.network.class_head.predict.pointwise.bias.tolist() == pytest.approx([-4.59512] * 27, abs=1e-5)
    ours, kept = model.network.box_head.state_dict(), loaded.network.box_head.state_dict()
    assert all(torch.equal(ours[name], kept[name]) for name in ours)


# -- what is no detector


def test_a_backbone_alone_is_said_to_be_a_classifier(model, tmp_path):
    backbone = model.network.backbone.state_dict()
    for name, prefix in (("a.pth", ""), ("b.pth", "module.")):
        torch.save({prefix + key: tensor for key, tensor in backbone.items()}, tmp_path / name)
        with pytest.raises(ValueError, match=r"tensors of an image classifier .*conv_stem\.weight.*backbone_weights=F"):
            EfficientDet.from_pretrained(tmp_path / name)


def test_a_detector_of_another_kind_is_of_no_known_layout(tmp_path):
    torch.save({f"backbone.body.conv{i}.weight": torch.zeros(1) for i in range(9)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth holds 9 tensors \(backbone.body.conv0.weight, .*…\) whose names"):
        EfficientDet.from_pretrained(tmp_path / "w.pth")


def test_missing_and_unknown_tensors_are_listed_with_the_file(theirs, tmp_path):
    state = dict(theirs) | {"class_net.more": torch.zeros(1)}
    del state["backbone.bn1.bias"], state["backbone.bn1.weight"]
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"w\.pth: .* does not fit \w+: 2 tensors missing \(") as error:
        EfficientDet.from_pretrained(tmp_path / "w.pth")
    assert "1 tensors unknown (class_net.more)" in str(error.value)


def test_two_detectors_in_one_file_are_not_mixed(model, theirs, tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    other = {f"teacher.{name}": torch.zeros_like(tensor) for name, tensor in theirs.items()}
    torch.save({f"student.{name}": tensor for name, tensor in theirs.items()} | other, tmp_path / "w.pth")
    assert_same_network(EfficientDet.from_pretrained(tmp_path / "w.pth"), model)
    assert "holds several detectors: taking student., not teacher." in caplog.text
