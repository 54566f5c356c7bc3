import json
import os

import pytest
import torch

from effdet import EfficientDet
from effdet.adaptation.latency import LatencyTable, measure_latencies, time_in_turns
from effdet.adaptation.network_parts import parts_of
from effdet.adaptation.widths import widths_of


@pytest.fixture(scope="module")
def table(small_architecture, tmp_path_factory):
    result = LatencyTable(
        file=tmp_path_factory.mktemp("table") / "latency.json", runtime="torch", num_threads=1, rounds=2
    )
    result.predict(small_architecture, 3)
    return result


def test_the_file_tells_how_its_numbers_were_measured(table):
    content = json.loads(table.file.read_text())
    assert content["runtime"] == "torch"
    assert (content["num_threads"], content["rounds"]) == (1, 2)
    assert content["versions"] == {"torch": torch.__version__}
    assert content["machine"]
    assert all(value > 0 for value in content["milliseconds"].values())


def test_a_prediction_is_the_sum_of_its_parts(table, small_architecture):
    parts = parts_of(small_architecture, 3, small_architecture.image_size)
    by_hand = 0.0
    for part in parts:
        by_hand += table.milliseconds[part.key]
        for maps in filter(None, (part.inputs, part.outputs)):
            text = " ".join("×".join(map(str, size)) for size in maps)
            by_hand -= table.milliseconds[f"nothing between {text}"] / 2
    assert table.predict(small_architecture, 3) == pytest.approx(by_hand)


def test_a_file_is_used_again_and_only_new_parts_are_measured(table, small_architecture):
    again = LatencyTable(file=table.file, runtime="torch", num_threads=1, rounds=1)
    before = dict(again.milliseconds)
    written = os.stat(table.file).st_mtime_ns
    assert again.predict(small_architecture, 3) == table.predict(small_architecture, 3)
    assert os.stat(table.file).st_mtime_ns == written

    again.predict(widths_of(small_architecture)["block 2.1 expansion"].set(16), 3)
    assert set(again.milliseconds) - set(before) == {"block ir_r1_k3_s1_e0.7_c24 of efficientnet_b0 on 24×4×6"}
    assert {key: again.milliseconds[key] for key in before} == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_threads": 2}, r"must have been measured with num_threads 2, got 1; choose another file"),
        ({"runtime": "onnxruntime"}, r"must have been measured with runtime onnxruntime, got torch"),
    ],
)
def test_a_file_of_other_conditions_is_refused(changes, message, table):
    with pytest.raises(ValueError, match=message):
        LatencyTable(**{"file": table.file, "runtime": "torch", "num_threads": 1} | changes)


def test_numbers_must_be_positive(small_model):
    with pytest.raises(ValueError, match="rounds and num_threads must be 1 or more, got 0 and None"):
        measure_latencies([small_model], runtime="torch", rounds=0)


def test_measurements_take_turns():
    order = []
    runs = [lambda name=name: order.append(name) for name in "abc"]
    assert len(time_in_turns(runs, 2)) == 3
    assert "".join(order) == "abc" * 5  # three rounds to warm up


@pytest.mark.slow
def test_exported_parts_are_measured(small_architecture, tmp_path):
    parts = parts_of(small_architecture, 3, small_architecture.image_size)
    table = LatencyTable(file=tmp_path / "latency.json", num_threads=1, rounds=1)
    table.measure([parts[0], parts[-1]])  # the stem, which reads the image, and a prediction
    content = json.loads((tmp_path / "latency.json").read_text())
    assert set(content["versions"]) == {"torch", "onnxruntime"}
    assert {parts[0].key, parts[-1].key} < set(content["milliseconds"])


def test_the_whole_network_is_measured_as_it_is(small_architecture):
    model = EfficientDet(small_architecture, num_classes=3).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert measure_latencies([model], runtime="torch", num_threads=1, rounds=1)[0] > 0
    assert model.training
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
