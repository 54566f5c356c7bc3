import json
from dataclasses import replace

import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.commands import main


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "best.safetensors"
    architecture = replace(Architecture.named("lite0"), channels=16, neck_repeats=1, head_repeats=1)
    EfficientDet(architecture, 2, image_size=(64, 64)).save_pretrained(file)
    return str(file)


def test_the_numbers_of_weights_are_printed(weights, photo_sets, capsys):
    photos = str(photo_sets / "bccd" / "images")
    assert (
        main(["benchmark", weights, "--photos", photos, "--runs", "2", "--threads", "1", "--image-size", "64", "96"])
        == 0
    )
    title, _, network, predict, stream = capsys.readouterr().out.splitlines()
    assert title == f"{weights} at 64×96, batch 1, 2 runs"
    assert network.startswith("network ")
    assert predict.startswith("from file to boxes ")
    assert stream.startswith("all at once, mean ")


def test_json_holds_milliseconds_and_quartiles(weights, capsys):
    assert main(["benchmark", weights, "--runs", "2", "--batch-size", "2", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["image_size"], found["batch_size"], found["runs"]) == ([64, 64], 2, 2)
    for timing in (found["network"], found["predict"]):
        assert 0 < timing["first_quartile"] <= timing["median"] <= timing["third_quartile"]
    assert found["stream"] > 0


@pytest.mark.slow
def test_an_exported_file_is_measured_in_every_runtime(weights, tmp_path, capsys):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    file = str(tmp_path / "best.onnx")
    assert main(["export", "--weights", weights, "--out", file, "--format", "onnx"]) == 0
    for runtime in ("onnxruntime", "openvino"):
        assert main(["benchmark", file, "--runtime", runtime, "--runs", "2", "--threads", "1"]) == 0
    assert main(["benchmark", weights, "--runtime", "openvino", "--runs", "2", "--batch-size", "2"]) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--runs", "1"], "runs must be 2 or more, got 1"),
        (["--batch-size", "0"], "batch_size must be 1 or more, got 0"),
        (["--threads", "0"], "--threads must be 1 or more, got 0"),
        (["--photos", "nowhere"], "--photos must be a folder with image files, got nowhere"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(weights, capsys, options, message):
    assert main(["benchmark", weights, *options]) == 1
    assert message in capsys.readouterr().err
