"""ExecuTorch files give what the model gives; run where ExecuTorch is installed: see `make executorch-env`."""

import numpy as np
import pytest
import torch

import effdet
from effdet import EfficientDet
from effdet.deployment.compare import TOLERANCES, compare
from effdet.deployment.executorch import ExecuTorch
from effdet.deployment.export import ExportOptions, as_exported, export
from effdet.deployment.quantise import AccuracyControl, Quantisation
from effdet.detector.batches import make_batch

pytest.importorskip("executorch")


@pytest.fixture(scope="module")
def model(trained) -> EfficientDet:
    return trained("few blocks")


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    file = tmp_path_factory.mktemp("files") / "model.pte"
    export(model, file, ExportOptions(format="executorch"))
    return file


def test_raw_outputs_are_those_of_pytorch(model, file, cell_photos):
    detector = effdet.load(file, num_threads=1)
    for photo in cell_photos[:2]:
        images = model.network_input(make_batch([photo], model.letterbox)).contiguous()
        with torch.no_grad():
            expected = model.network(images)
        for found, wanted in zip(
            detector.runtime.run(images.numpy()), (expected.class_logits, expected.box_deltas), strict=True
        ):
            assert (torch.from_numpy(found) - wanted).abs().max() < 2e-3 * wanted.std()


def test_a_file_detects_what_the_model_detects(model, file, cell_photos):
    detector = effdet.load(file)
    assert (detector.class_names, detector.image_size) == (("eins", "zwei", "三"), (96, 160))
    assert detector.runtime.name == "executorch"
    comparison = compare(as_exported(model, detector.description), detector, cell_photos)
    assert comparison.detections >= 10 * len(cell_photos)
    comparison.check(TOLERANCES["fp32"], str(file))


def test_results_stay_when_the_file_runs_again(file):
    runtime = ExecuTorch(file)
    first = runtime.run(np.zeros((1, 3, 96, 160), np.float32))
    before = [output.copy() for output in first]
    runtime.run(np.ones((1, 3, 96, 160), np.float32))
    for output, kept in zip(first, before, strict=True):
        np.testing.assert_array_equal(output, kept)


def test_int8_is_small_and_near(model, file, cell_photos, tmp_path):
    inputs = [model.network_input(make_batch([photo], model.letterbox)).contiguous().numpy() for photo in cell_photos]
    small = tmp_path / "small.pte"
    description = export(
        model, small, ExportOptions(format="executorch", precision="int8"), quantisation=Quantisation(inputs=inputs)
    )
    assert small.stat().st_size < 0.45 * file.stat().st_size
    with torch.no_grad():
        expected = model.network(torch.from_numpy(inputs[0]))
    logits, deltas = effdet.load(small).runtime.run(inputs[0])
    for found, wanted in ((logits, expected.class_logits), (deltas, expected.box_deltas)):
        difference = (torch.from_numpy(found) - wanted).pow(2).mean().sqrt()
        assert difference < 0.5 * wanted.std()
    assert description.precision == "int8"


def test_int8_of_weighted_fusion_is_refused(tmp_path):
    model = EfficientDet("d0", 2, image_size=(64, 64))
    options = ExportOptions(format="executorch", precision="int8")
    with pytest.raises(ValueError, match=r"int8 of executorch needs a neck that adds .* got fusion 'fast'; export"):
        export(model, tmp_path / "m.pte", options, quantisation=Quantisation(inputs=[]))


def test_a_limit_on_the_loss_of_ap_is_refused(model, tmp_path):
    control = AccuracyControl(score=lambda *_: 0.0, num_images=1, max_drop=0.0)
    options = ExportOptions(format="executorch", precision="int8")
    with pytest.raises(ValueError, match="max_drop goes with the formats openvino and tflite, got executorch"):
        export(model, tmp_path / "m.pte", options, quantisation=Quantisation(inputs=[], control=control))


def test_a_file_that_is_none_is_named(tmp_path):
    (tmp_path / "broken.pte").write_bytes(b"not a program")
    with pytest.raises(ValueError, match=r"broken\.pte is not a readable \.pte file"):
        effdet.load(tmp_path / "broken.pte")
