"""``precision="auto"``: bf16 where the processor and a check on photos allow it."""

import json
import logging
from dataclasses import replace

import pytest

from effdet import EfficientDet
from effdet.deployment import precision as rules
from effdet.deployment.description import Description
from effdet.deployment.export import ExportOptions, describe
from effdet.deployment.precision import choose_precision, has_bf16
from tests.deployment.own_process import check_in_own_process

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
def test_bf16_checks_pass():
    """In a process of its own, as those of int8: a worker that ran them died when it later started another process."""
    check_in_own_process("bf16_checks.py")
