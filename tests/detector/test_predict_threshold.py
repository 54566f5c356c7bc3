"""The score threshold that travels with a model: in its file, in exports, and as the default of predict."""

import numpy as np
import pytest
import torch

from effdet.deployment.export import ExportOptions, describe, export
from effdet.deployment.load import load
from effdet.detector.efficientdet import EfficientDet
from effdet.detector.prediction import choose_threshold
from effdet.weights.own_format import save_native


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = EfficientDet("lite0", 3, image_size=64)
    with torch.no_grad():
        model.network.class_head.output_conv.bias.zero_()
    return model.eval()


def test_predict_takes_the_threshold_of_the_model_unless_one_is_given(model):
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    scores = model.predict(photo, score_threshold=0.0)[0].scores
    middle = float(scores.median())
    model.predict_threshold = middle
    try:
        assert 0 < len(model.predict(photo)[0]) < len(scores)
        assert model.predict(photo)[0].scores.min() >= middle
        assert len(model.predict(photo, score_threshold=0.0)[0]) == len(scores)
        assert len(next(model.predict_iter(photo))[0]) == len(model.predict(photo)[0])
    finally:
        model.predict_threshold = None
    assert choose_threshold(model, None) == 0.3
    assert choose_threshold(model, 0.0) == 0.0


@pytest.mark.parametrize("runtime", ["torch", "inside"])
def test_a_threshold_changes_nothing_above_it(model, tmp_path, runtime):
    """Also where the file itself does NMS."""
    photo = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    detector = model
    if runtime == "inside":
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnxscript")
        export(model, tmp_path / "m.onnx", ExportOptions(postprocess=True))
        detector = load(tmp_path / "m.onnx", runtime="onnxruntime", num_threads=1)
    whole = detector.predict(photo, score_threshold=0.0)[0]
    score = float(whole.scores[3])  # that of a detection, which must stay
    found, expected = detector.predict(photo, score_threshold=score)[0], whole.above(score)
    assert len(found) >= 4
    assert all(torch.equal(getattr(found, name), getattr(expected, name)) for name in ("boxes", "labels", "scores"))


def test_the_threshold_travels_in_files_and_exports(model, tmp_path):
    model.predict_threshold = 0.42
    try:
        model.save_pretrained(tmp_path / "w.safetensors")
        assert EfficientDet.from_pretrained(tmp_path / "w.safetensors").predict_threshold == 0.42
        described = describe(model, ExportOptions(format="onnx"))
        assert type(described).from_json(described.to_json(), "a file").predict_threshold == 0.42
    finally:
        model.predict_threshold = None


def test_a_file_without_a_threshold_has_none(model, tmp_path):
    from effdet.detector.saving import describe as describe_weights

    description = describe_weights(model)
    del description["predict_threshold"]
    save_native(tmp_path / "old.safetensors", model.state_dict(), description)
    assert EfficientDet.from_pretrained(tmp_path / "old.safetensors").predict_threshold is None


def test_a_threshold_that_cannot_be_is_refused(model, tmp_path):
    from effdet.detector.saving import describe as describe_weights

    description = {**describe_weights(model), "predict_threshold": 1.5}
    save_native(tmp_path / "bad.safetensors", model.state_dict(), description)
    with pytest.raises(ValueError, match=r"predict_threshold must lie in \[0, 1\], or be null, got 1.5"):
        EfficientDet.from_pretrained(tmp_path / "bad.safetensors")
