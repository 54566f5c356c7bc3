"""``effdet.load``: weights and exported files in every runtime, behind the same ``predict``."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import effdet
from effdet import EfficientDet
from effdet.deployment.detector import DeployedDetector
from effdet.deployment.export import ExportOptions, export
from effdet.deployment.load import deploy
from effdet.images.preprocessing import Preprocessing
from effdet.ops.settings import PostprocessSettings

IMAGES = list(torch.rand(3, 3, 70, 90, generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "best.safetensors"
    model = EfficientDet("lite0", 2, image_size=(64, 96), class_names=["a", "b"], category_ids=[3, 17])
    model.settings = PostprocessSettings(max_detections=30)
    model.preprocessing = Preprocessing.preset("effdet")
    model.save_pretrained(file)
    return file


@pytest.mark.parametrize("runtime", ["auto", "torch"])
def test_weights_are_a_pytorch_model(weights, runtime):
    model = effdet.load(weights, runtime=runtime)
    assert isinstance(model, EfficientDet)
    assert not model.training


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_weights_predict_the_same_in_another_runtime(weights, runtime):
    pytest.importorskip(runtime)
    pytest.importorskip("onnxscript")
    expected = effdet.load(weights).predict(IMAGES, score_threshold=0.0)
    detector = effdet.load(weights, runtime=runtime, num_threads=1)
    assert isinstance(detector, DeployedDetector)
    assert detector.runtime.name == runtime
    assert (detector.image_size, detector.category_ids) == ((64, 96), (3, 17))
    for batch_size in (1, 2):
        found = detector.predict(IMAGES, score_threshold=0.0, batch_size=batch_size)
        for one, other in zip(found, expected, strict=True):
            assert len(one) == len(other) > 20
            assert one.class_names == ("a", "b")
            torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_images_of_a_network_that_is_converted_for_litert_are_normalised_once():
    """Each channel has a mean and a std of its own, which a TFLite graph applies itself."""
    pytest.importorskip("ai_edge_litert")
    pytest.importorskip("onnxscript")
    torch.manual_seed(0)
    model = EfficientDet("d0", 2, image_size=(128, 128)).eval()
    assert len(set(model.letterbox.mean)) == 3
    detector = deploy(model, "litert")
    assert detector.runtime.name == "litert"
    one, other = (each.predict(IMAGES[0], score_threshold=0.0)[0] for each in (model, detector))
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=0)


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_an_export_fits_photos_into_its_input_as_the_model_does(fit, tmp_path):
    torch.manual_seed(0)
    model = EfficientDet("lite0", 2, image_size=(64, 64), preprocessing=Preprocessing(fit=fit)).eval()
    export(model, tmp_path / "model.pt2", ExportOptions(format="torch-export"))
    detector = effdet.load(tmp_path / "model.pt2")
    assert detector.preprocessing.fit == fit
    one, other = (each.predict(IMAGES[0], score_threshold=0.0)[0] for each in (model, detector))
    torch.testing.assert_close(one.scores, other.scores, atol=1e-5, rtol=0)
    torch.testing.assert_close(one.boxes, other.boxes, atol=1e-2, rtol=0)


def test_a_model_is_converted_for_known_runtimes_only(weights):
    with pytest.raises(
        ValueError, match="a model is converted for one of onnxruntime, openvino, litert, got runtime 'torch'"
    ):
        deploy(effdet.load(weights), "torch")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"runtime": "tensorrt"}, "runtime must be one of auto, torch, onnxruntime, .*, executorch, got 'tensorrt'"),
        (
            {"num_threads": 2},
            "num_threads goes with onnxruntime, openvino, litert, executorch, got 2 for runtime 'torch'",
        ),
        ({"runtime": "openvino", "num_threads": 0}, "num_threads must be 1 or more, .* got 0"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(weights, options, message):
    with pytest.raises(ValueError, match=message):
        effdet.load(weights, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"precision": "bf16", "runtime": "openvino"},
            "precision must be 'auto' or None for that of the file, got 'bf16'",
        ),
        ({"precision": "auto"}, "precision 'auto' goes with onnxruntime, openvino, got runtime 'torch'"),
        ({"precision": "auto", "runtime": "litert"}, "precision 'auto' goes with .*, got runtime 'litert'"),
    ],
)
def test_a_precision_that_a_runtime_cannot_choose_is_refused(weights, options, message):
    with pytest.raises(ValueError, match=message):
        effdet.load(weights, **options)


def test_a_missing_runtime_is_named_before_the_weights_are_read(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ImportError, match="this needs openvino; install it with"):
        effdet.load("nowhere.safetensors", runtime="openvino")


def test_missing_weights_are_named():
    with pytest.raises(FileNotFoundError, match=r"nowhere\.safetensors do not exist"):
        effdet.load("nowhere.safetensors")


@pytest.mark.slow
@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_threads_share_a_detector_and_each_gets_its_own_answer(weights, runtime):
    pytest.importorskip(runtime)
    pytest.importorskip("onnxscript")
    detector = effdet.load(weights, runtime=runtime, num_threads=1)
    images = list(torch.rand(8, 3, 70, 90, generator=torch.Generator().manual_seed(1)))

    def boxes(image):
        return detector.predict(image, score_threshold=0.0)[0].boxes

    alone = [boxes(image) for image in images] * 8
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(boxes, images * 8))
    assert all(torch.equal(one, other) for one, other in zip(alone, together, strict=True))
