"""``predict(runtime=...)`` of a model in memory."""

import numpy as np
import pytest
import torch

from effdet import EfficientDet
from effdet.deployment import live
from effdet.deployment.live import choose_detector, has_many, weights_stamp

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

IMAGE = torch.rand(3, 70, 90, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientDet("lite0", 2, image_size=(64, 64)).eval()


def scores(model, runtime):
    return model.predict(IMAGE, score_threshold=0.0, runtime=runtime)[0].scores


@pytest.mark.slow
def test_another_runtime_gives_the_same_and_follows_the_weights(model):
    before = scores(model, "torch")
    torch.testing.assert_close(scores(model, "onnxruntime"), before, atol=1e-5, rtol=0)
    assert choose_detector(model, "auto", IMAGE, 1) is not model  # compiled already

    with torch.no_grad():
        model.network.class_head.predict.pointwise.bias.add_(1.0)
    assert choose_detector(model, "auto", IMAGE, 1) is model  # what is compiled has old weights
    after = scores(model, "torch")
    assert (after.max() - before.max()).abs() > 1e-3
    torch.testing.assert_close(scores(model, "onnxruntime"), after, atol=1e-5, rtol=0)

    model.class_names = ("a", "b")
    assert model.predict(IMAGE, runtime="onnxruntime", score_threshold=0.0)[0].class_names == ("a", "b")


def test_one_image_in_a_fresh_process_runs_in_torch():
    model = EfficientDet("lite0", 2, image_size=(64, 64))
    assert choose_detector(model, "auto", IMAGE, 1) is model
    assert choose_detector(model, "torch", IMAGE, 1) is model


def test_many_images_are_worth_a_conversion(monkeypatch, tmp_path):
    monkeypatch.setattr(live, "MANY", 3)
    assert has_many([IMAGE] * 3)
    assert has_many(torch.zeros(3, 3, 8, 8))
    assert not has_many([IMAGE] * 2)
    assert not has_many(IMAGE)
    assert not has_many(iter([IMAGE] * 9))
    for number in range(3):
        (tmp_path / f"{number}.jpg").touch()
    assert has_many(tmp_path)
    assert not has_many(str(tmp_path / "1.jpg"))


@pytest.mark.parametrize("num_frames", [2, 3])
def test_a_long_video_is_worth_a_conversion(monkeypatch, tmp_path, num_frames):
    av = pytest.importorskip("av")
    monkeypatch.setattr(live, "MANY", 3)
    with av.open(str(tmp_path / "film.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width = stream.height = 64
        for _ in range(num_frames):
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), dtype=np.uint8), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    assert has_many(tmp_path / "film.mp4") is (num_frames == 3)
    (tmp_path / "none.mp4").touch()
    assert not has_many(tmp_path / "none.mp4")


@pytest.mark.parametrize("change", ["in place", "past autograd", "another tensor"])
def test_every_way_to_change_a_weight_changes_the_stamp(model, change):
    weight = model.network.box_head.predict.pointwise.weight
    before = weights_stamp(model)
    assert weights_stamp(model) == before
    if change == "in place":
        with torch.no_grad():
            weight.neg_()
    elif change == "past autograd":
        weight.data[0, 0] += 0.1
    else:
        weight.data = weight.data.clone()
    assert weights_stamp(model) != before


def test_an_unknown_runtime_is_refused(model):
    with pytest.raises(ValueError, match="runtime must be auto, torch, onnxruntime or openvino, got 'tensorrt'"):
        model.predict(IMAGE, runtime="tensorrt")
