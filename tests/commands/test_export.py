"""The command that writes exports."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.commands import main
from effdet.commands.export import _default_file

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


BLOCKS = tuple((f"ir_r1_k3_s2_e2_c{channels}",) for channels in (16, 24, 32, 40))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "best.safetensors"
    EfficientDet("lite0", 2, image_size=(64, 64), class_names=["a", "b"]).save_pretrained(file)
    return file


@pytest.mark.slow
def test_an_export_is_compared_and_then_predicts(weights, tmp_path, capsys, demo_root):
    file = tmp_path / "out" / "m.onnx"
    file.parent.mkdir()
    file.with_suffix(".bin").write_bytes(b"of an OpenVINO file that is no part of this one")
    assert main(["export", "--weights", str(weights), "--out", str(file), "--json", "-"]) == 0
    out, err = capsys.readouterr()
    report = json.loads(out)
    assert report["images"] == 1
    assert report["max_score_difference"] < 1e-3
    assert 0 < report["raw_difference"] < 1e-3
    assert report["bytes"] == file.stat().st_size
    assert "compared on a drawn image" in err

    photo = demo_root / "images" / "val_00000.jpg"
    assert main(["predict", "--weights", str(file), str(photo), "--out", str(tmp_path / "found")]) == 0
    assert (tmp_path / "found" / "val_00000.jpg").is_file()
    assert main(["evaluate", "--weights", str(file), "--data", str(demo_root), "--workers", "0"]) == 1
    assert "class" in capsys.readouterr().err  # the demo set has other classes than this model
    assert main(["predict", "--weights", str(file), str(photo), "--out", str(tmp_path), "--device", "cuda"]) == 1
    assert "--device of an exported file must be cpu" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize(("channels", "value_range"), [(5, (0.0, 2.0)), (1, None)])
def test_a_network_for_other_than_rgb_images_is_compared_on_such_images(channels, value_range, tmp_path, capsys):
    small = replace(
        Architecture.named("lite0"),
        **{"backbone_blocks": BLOCKS, "stem_channels": 8, "stochastic_depth": 0.0, "in_channels": channels},
        **{"channels": 16, "neck_repeats": 1, "head_repeats": 1},
        **{"mean": (120.0,) * channels, "std": (60.0,) * channels},
    )
    torch.manual_seed(0)
    model = EfficientDet(small, 2, image_size=(64, 64), value_range=value_range)
    model.save_pretrained(tmp_path / "best.safetensors")
    random = np.random.default_rng(0)
    levels = random.uniform(0, 2, (60, 80, channels)) if value_range else random.integers(0, 256, (60, 80, channels))
    np.save(tmp_path / "photo.npy", levels.astype(np.float32 if value_range else np.uint8))
    check = ["--check", str(tmp_path / "photo.npy")] if value_range else []  # else a drawn image
    assert main(["export", "--weights", str(tmp_path / "best.safetensors"), "--json", "-", *check]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["images"] == 1
    assert 0 < report["raw_difference"] < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--precision", "int8"], "--precision int8 needs --calibration"),
        (["--calibration", "photos"], "--precision int8 needs --calibration"),
        (["--max-drop", "0.01"], "--max-drop and --int8-outputs go with --precision int8"),
        (["--precision", "int8", "--calibration", "x", "--max-drop", "2"], "--max-drop must lie in [0, 1], got 2"),
        (["--precision", "auto"], "--precision auto needs --check DATA with boxes, and --format onnx or openvino"),
        (["--precision", "auto", "--check", "x", "--format", "tflite"], "--precision auto needs --check DATA"),
        (["--batch", "many"], "--batch must be a number from 1 or 'dynamic', got many"),
    ],
)
def test_options_that_do_not_go_together_are_usage_errors(weights, capsys, options, message):
    assert main(["export", "--weights", str(weights), *options]) == 2
    assert message in capsys.readouterr().err


def test_too_few_calibration_images_are_refused(weights, capsys, demo_root, tmp_path):
    options = ["--format", "openvino", "--precision", "int8", "--calibration", str(demo_root)]
    assert main(["export", "--weights", str(weights), "--out", str(tmp_path / "m.xml"), *options]) == 1
    assert "calibration needs 100 images or more, got 16 in" in capsys.readouterr().err


def test_another_suffix_is_refused(weights, capsys, tmp_path):
    assert main(["export", "--weights", str(weights), "--out", str(tmp_path / "m.xml")]) == 1
    assert "onnx files end in .onnx" in capsys.readouterr().err


def test_the_file_is_named_after_the_weights(weights):
    assert _default_file(str(weights), "fp32", ".onnx") == weights.with_suffix(".onnx")
    assert _default_file(str(weights), "int8", ".xml") == weights.with_name("best-int8.xml")
    assert str(_default_file("hf-hub:me/blood", "fp32", ".onnx")) == "blood.onnx"  # in the working folder


@pytest.mark.slow
def test_weights_predict_in_another_runtime(weights, tmp_path, demo_root):
    photo = str(demo_root / "images" / "val_00000.jpg")
    scores = {}
    for runtime in ("torch", "onnxruntime"):
        out = tmp_path / runtime
        options = ["--runtime", runtime, "--image-size", "96", "128", "--score-threshold", "0"]
        assert main(["predict", "--weights", str(weights), photo, "--out", str(out), *options]) == 0
        scores[runtime] = [row["score"] for row in json.loads((out / "results.json").read_text())]
    assert len(scores["torch"]) > 50
    assert scores["onnxruntime"] == pytest.approx(scores["torch"], abs=1e-5)


def test_weights_run_in_another_runtime_on_the_cpu_only(weights, capsys, tmp_path):
    options = ["--runtime", "openvino", "--device", "cuda"]
    assert main(["predict", "--weights", str(weights), "x.jpg", "--out", str(tmp_path), *options]) == 1
    assert "--device of --runtime openvino must be cpu, got cuda" in capsys.readouterr().err
