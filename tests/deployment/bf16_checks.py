"""bf16 in OpenVINO: what is computed after a check on photos; run by test_precision.py."""

import json

import pytest
import torch

import effdet
from effdet import EfficientDet
from effdet.commands import main
from effdet.data.demo import draw_demo
from effdet.data.formats import find_dataset
from effdet.deployment import precision as rules
from effdet.runs.bf16_drop import measure_bf16_drop

FLAGS = "flags\t\t: fpu avx2 avx512f avx512_bf16 sha_ni\n"


def test_auto_computes_in_bf16_what_a_check_allowed(tmp_path, capsys, monkeypatch):
    """On a processor without bf16 OpenVINO computes in fp32 all the same, so only the line is different there."""
    pytest.importorskip("openvino")
    pytest.importorskip("onnxscript")
    monkeypatch.setattr(rules, "CPUINFO", tmp_path / "cpuinfo")
    rules.CPUINFO.write_text(FLAGS)
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
