"""Rates of an exported file; never the time itself, only what is measured."""

import numpy as np
import pytest

from effdet.deployment import throughput

pytest.importorskip("openvino")


def test_every_pair_of_cores_and_streams_is_measured_against_one_core(monkeypatch):
    rates = {(1, 1): 10.0, (2, 1): 16.0, (2, 2): 18.0}
    monkeypatch.setattr(throughput, "_rate", lambda file, images, cores, streams, seconds: rates[cores, streams])
    rows = throughput.measure_throughput("m.onnx", np.zeros((4, 3, 8, 8)), cores=[1, 2], streams=[1, 2])
    assert [(row.cores, row.streams, row.images_per_second) for row in rows] == [(1, 1, 10), (2, 1, 16), (2, 2, 18)]
    assert [row.efficiency for row in rows] == pytest.approx([1.0, 0.8, 0.9])
    assert {row.batch for row in rows} == {4}


def test_a_file_is_run(tmp_path):
    from onnx import TensorProto, helper, save

    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2, 3, 4, 4]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "tiny", values[:1], values[1:])
    save(helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)]), tmp_path / "m.onnx")
    images = np.zeros((2, 3, 4, 4), dtype=np.float32)
    (row,) = throughput.measure_throughput(tmp_path / "m.onnx", images, cores=[1], streams=[1], seconds=0.05)
    assert row.images_per_second > 0
