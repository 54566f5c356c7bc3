from types import SimpleNamespace

import numpy as np
import pytest
import torch

from effdet import EfficientDet
from effdet.config import Config, ConfigError, DataConfig, ModelConfig
from effdet.runs.start_weights import build_model
from effdet.weights import sources
from effdet.weights.effdet import to_effdet

CATS = SimpleNamespace(
    num_classes=2,
    class_names=("cat", "dog"),
    category_ids=(3, 7),
    pixels=None,
    sizes=np.array([[480, 640]]),
    image_of_box=np.zeros(1, np.int64),
    boxes_xywh=np.array([[0.0, 0.0, 96.0, 48.0]]),
    is_crowd=np.zeros(1, bool),
)


def build(*, resumed=False, **model):
    config = Config(model=ModelConfig(**{"name": "lite0", **model}), data=DataConfig(image_size=(64, 64)))
    return build_model(config, CATS, resumed=resumed)


@pytest.fixture(scope="module")
def published():
    torch.manual_seed(0)
    return EfficientDet("tf_efficientdet_lite0", 90)


@pytest.fixture
def file(published, tmp_path):
    torch.save(to_effdet(published.network.state_dict(), published.name), tmp_path / "tf_efficientdet_lite0.pth")
    return str(tmp_path / "tf_efficientdet_lite0.pth")


def assert_started_from(model, published):
    for part in ("backbone", "neck", "box_head"):
        ours, theirs = getattr(model.network, part).state_dict(), getattr(published.network, part).state_dict()
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert model.network.class_head.predict.pointwise.bias.tolist() == pytest.approx([-4.59512] * 18, abs=1e-5)
    assert (model.num_classes, model.class_names, model.category_ids) == (2, ("cat", "dog"), (3, 7))


def test_a_published_detector_keeps_all_but_its_class_head(published, file):
    model = build(weights=file)
    assert_started_from(model, published)
    assert model.image_size == (64, 64)
    assert model.start.endswith("tf_efficientdet_lite0.pth, layout of effdet, with a new class head for 2 classes")


def test_the_model_has_the_name_of_its_weights(file):
    assert build(weights=file).name == "tf_efficientdet_lite0"


def test_a_published_name_is_a_source_too(published, file, monkeypatch):
    monkeypatch.setattr(sources, "local_file", lambda _: sources.Path(file))
    assert_started_from(build(weights="lite0"), published)


def test_a_state_dict_that_fits_several_is_what_the_config_says(tmp_path):
    torch.save(EfficientDet("d0", 2).state_dict(), tmp_path / "w.pth")
    assert build(name="efficientdet-d0", weights=str(tmp_path / "w.pth")).name == "efficientdet-d0"


def test_mean_and_deviation_come_with_the_weights(tmp_path):
    EfficientDet("tf_efficientdet_d0_ap", 2).save_pretrained(tmp_path / "w.safetensors")
    assert build(name="d0", weights=str(tmp_path / "w.safetensors")).mean.tolist() == [127.5, 127.5, 127.5]


def test_as_many_classes_keep_the_head(tmp_path):
    first = EfficientDet("lite0", 2)
    first.save_pretrained(tmp_path / "w.safetensors")
    model = build(weights=str(tmp_path / "w.safetensors"))
    assert torch.equal(
        model.network.class_head.predict.pointwise.weight, first.network.class_head.predict.pointwise.weight
    )
    assert model.class_names == ("cat", "dog")


def test_weights_of_another_network_are_refused(file):
    with pytest.raises(ConfigError, match=r"model\.architecture say d0, but .* tf_efficientdet_lite0; make"):
        build(name="d0", weights=file)


def test_a_resumed_run_does_not_read_them():
    assert build(weights="nowhere.pth", resumed=True).start == "random weights"
