"""``precision="auto"``: bf16 where the processor and a check on photos allow it."""

import json
import logging
from dataclasses import replace

import pytest
import torch

import effdet
from effdet import EfficientDet
from effdet.commands import main
from effdet.data.demo import draw_demo
from effdet.data.formats import find_dataset
from effdet.deployment import precision as rules
from effdet.deployment.description import Description
from effdet.deployment.export import ExportOptions, describe
from effdet.deployment.precision import choose_precision, has_bf16
from effdet.runs.bf16_drop import measure_bf16_drop

FLAGS = "flags\t\t: fpu avx2 avx512f {} sha_ni\n"


def description(**changes):
    model = EfficientDet("lite0", 2, image_size=(64, 64), class_names=["a", "b"])
    return replace(describe(model, ExportOptions()), **changes)


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Write which bf16 instructions the processor has."""

    def write(flag):
        (tmp_path / "cpuinfo").write_text(FLAGS.format(flag))

    monkeypatch.setattr(rules, "CPUINFO", tmp_path / "cpuinfo")
    return write


@pytest.mark.parametrize(
    ("flag", "expected"), [("avx512_bf16", True), ("amx_bf16", True), ("avx512_vnni", False), ("", False)]
)
def test_bf16_is_known_by_the_flags_of_the_processor(flag, expected, processor):
    assert not has_bf16()  # there is no such file
    processor(flag)
    assert has_bf16() is expected


@pytest.mark.parametrize(
    ("changes", "runtime", "flag", "expected", "reason"),
    [
        ({"bf16_drop": 0.0019}, "openvino", "avx512_bf16", "bf16", "on photos AP changed by -0.0019"),
        ({"bf16_drop": -0.001}, "openvino", "amx_bf16", "bf16", "on photos AP changed by +0.0010"),
        ({"bf16_drop": 0.0021}, "openvino", "amx_bf16", "fp32", "bf16 lost 0.0021 AP on photos, more than 0.002"),
        ({}, "openvino", "amx_bf16", "fp32", "not measured; export it with --precision auto --check DATA"),
        ({"bf16_drop": 0.0}, "openvino", "", "fp32", "this processor has no instructions for bf16"),
        ({"bf16_drop": 0.0}, "onnxruntime", "amx_bf16", "fp32", "ONNX Runtime has no bf16 on a CPU"),
        ({"precision": "int8"}, "openvino", "amx_bf16", "int8", "the file was exported so"),
        ({"precision": "bf16"}, "openvino", "", "bf16", "the file was exported so"),
    ],
)
def test_each_choice_has_its_reason(changes, runtime, flag, expected, reason, processor, caplog):
    processor(flag)
    caplog.set_level(logging.INFO, logger="effdet")
    assert choose_precision(description(**changes), runtime, "best.onnx") == expected
    (line,) = caplog.messages
    assert line.startswith(f"best.onnx is computed in {expected}: ")
    assert reason in line


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
    monkeypatch.setattr(rules, "CPUINFO", tmp_path / "cpuinfo")
    rules.CPUINFO.write_text(FLAGS.format("avx512_bf16"))
    draw_demo(tmp_path / "demo", num_train=2, num_val=3, image_size=(96, 128))
    classes = find_dataset(tmp_path / "demo", "val").class_names
    torch.manual_seed(0)
    model = EfficientDet("lite0", len(classes), image_size=(64, 64), class_names=list(classes))
    model.save_pretrained(tmp_path / "best.safetensors")

    assert -1 <= measure_bf16_drop(model.eval(), tmp_path / "demo") <= 1
    options = ["--precision", "auto", "--check", str(tmp_path / "demo"), "--json", str(tmp_path / "report.json")]
    assert main(["export", "--weights", str(tmp_path / "best.safetensors"), *options]) == 0
    assert "AP on 3 images: " in capsys.readouterr().err
    drop = json.loads((tmp_path / "report.json").read_text())["bf16_drop"]

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
