"""``precision="auto"``: bf16 where the processor and a check on photos allow it."""

import json
import logging
from dataclasses import replace

import pytest
import torch

import effdet
from effdet import Architecture, EfficientDet
from effdet.commands import main
from effdet.data.demo import draw_demo
from effdet.data.formats import find_dataset
from effdet.deployment import precision as rules
from effdet.deployment.description import Description
from effdet.deployment.export import ExportOptions, describe
from effdet.deployment.precision import choose_precision, openvino_has_bf16
from effdet.deployment.runtimes import openvino_core


def description(**changes):
    model = EfficientDet("lite0", 2, image_size=(64, 64), class_names=["a", "b"])
    return replace(describe(model, ExportOptions()), **changes)


@pytest.mark.parametrize(
    ("changes", "runtime", "has_it", "expected", "reason"),
    [
        ({"bf16_drop": 0.0019}, "openvino", True, "bf16", "on photos AP changed by -0.0019"),
        ({"bf16_drop": -0.001}, "openvino", True, "bf16", "on photos AP changed by +0.0010"),
        ({"bf16_drop": 0.0021}, "openvino", True, "fp32", "bf16 lost 0.0021 AP on photos, more than 0.002"),
        ({}, "openvino", True, "fp32", "not measured; export it with --precision auto --check DATA"),
        (
            {"bf16_drop": 0.0},
            "openvino",
            False,
            "fp32",
            "no instructions for bf16 that OpenVINO uses",
        ),
        ({"bf16_drop": 0.0}, "onnxruntime", True, "fp32", "ONNX Runtime has no bf16 on a CPU"),
        ({"precision": "int8"}, "openvino", True, "int8", "the file was exported so"),
        ({"precision": "bf16"}, "openvino", False, "bf16", "the file was exported so"),
    ],
)
def test_each_choice_has_its_reason(changes, runtime, has_it, expected, reason, monkeypatch, caplog):
    monkeypatch.setattr(rules, "openvino_has_bf16", lambda: has_it)
    caplog.set_level(logging.INFO, logger="effdet")
    assert choose_precision(description(**changes), runtime, "best.onnx") == expected
    (line,) = caplog.messages
    assert line.startswith(f"best.onnx is computed in {expected}: ")
    assert reason in line


@pytest.mark.parametrize(
    ("has_it", "formats", "expected"),
    [(True, ["FP32", "BF16"], True), (True, ["FP32", "FP16"], False), (False, ["FP32", "BF16"], False)],
)
def test_bf16_needs_the_processor_and_openvino(has_it, formats, expected, monkeypatch):
    class Core:
        get_property = staticmethod(lambda device, name: {("CPU", "OPTIMIZATION_CAPABILITIES"): formats}[device, name])

    monkeypatch.setattr(rules, "has_bf16", lambda: has_it)
    monkeypatch.setattr(rules, "openvino_core", Core)
    assert openvino_has_bf16() is expected


def test_openvino_knows_the_property():
    pytest.importorskip("openvino")
    assert "FP32" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def test_the_drop_travels_in_the_file_and_must_be_one():
    found = description(bf16_drop=0.0012)
    assert Description.from_json(found.to_json(), "m.onnx") == found
    earlier = json.loads(found.to_json())
    del earlier["bf16_drop"]  # as in files of earlier versions
    assert Description.from_json(json.dumps(earlier), "m.onnx").bf16_drop is None
    for wrong in (2, "much", float("nan")):
        with pytest.raises(ValueError, match=r"bf16_drop must be a difference of AP in -1…1, or null"):
            description(bf16_drop=wrong)


@pytest.mark.slow
def test_auto_computes_in_bf16_what_a_check_allowed(tmp_path, capsys, monkeypatch):
    """On a processor without bf16 OpenVINO computes in fp32 all the same, so only the line is different there."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(rules, "openvino_has_bf16", lambda: True)
    draw_demo(tmp_path / "demo", num_train=2, num_val=3, image_size=(96, 128))
    classes = find_dataset(tmp_path / "demo", "val").class_names
    torch.manual_seed(0)
    small = replace(Architecture.named("lite0"), channels=16, neck_repeats=1, head_repeats=1)
    model = EfficientDet(small, len(classes), image_size=(64, 64), class_names=list(classes))
    model.save_pretrained(tmp_path / "best.safetensors")

    options = ["--precision", "auto", "--check", str(tmp_path / "demo"), "--json", str(tmp_path / "report.json")]
    assert main(["export", "--weights", str(tmp_path / "best.safetensors"), *options]) == 0
    assert "AP on 3 images: " in capsys.readouterr().err
    drop = json.loads((tmp_path / "report.json").read_text())["bf16_drop"]
    assert -1 <= drop <= 1

    file = tmp_path / "best.onnx"
    plain = effdet.load(file, runtime="openvino", num_threads=1)
    chosen = effdet.load(file, runtime="openvino", num_threads=1, precision="auto")
    assert plain.description.bf16_drop == drop
    assert (plain.description.precision, chosen.description.precision) == ("fp32", "bf16")
    hints = [one.runtime._compiled.get_property("INFERENCE_PRECISION_HINT").to_string() for one in (plain, chosen)]
    assert hints[0] == "f32"
    command = ["predict", "--weights", str(file), str(tmp_path / "demo" / "images"), "--out", str(tmp_path / "found")]
    assert main([*command, "--runtime", "openvino", "--precision", "auto", "--no-draw"]) == 0
    assert "best.onnx is computed in bf16" in capsys.readouterr().err
    assert main([*command, "--runtime", "litert", "--precision", "auto"]) == 1
