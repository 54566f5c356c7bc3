import json
from dataclasses import replace

import pytest

from effdet import Architecture
from effdet.adaptation.neck_comparison import PAPER_RATIOS, compare_necks, median_times, neck_cost, with_neck
from effdet.commands import main

SMALL = replace(Architecture.named("lite0"), channels=16, neck_repeats=1, image_size=(64, 96))


@pytest.mark.parametrize(
    ("name", "parameters"), [("d0", 196_281), ("d3", 1_559_474), ("d6", 10_583_808), ("lite0", 196_224)]
)
def test_the_neck_of_a_published_model_has_its_published_parameters(name, parameters):
    assert neck_cost(Architecture.named(name)).parameters == parameters


def test_multiply_adds_are_those_of_the_convolutions():
    channels, (c3, c4, c5) = 16, (40, 112, 320)
    cells = {3: 8 * 12, 4: 4 * 6, 5: 2 * 3, 6: 1 * 2, 7: 1 * 1}
    nodes = {3: 1, 4: 2, 5: 2, 6: 2, 7: 1}
    by_hand = sum(nodes[level] * cells[level] * (9 * channels + channels**2) for level in cells)
    by_hand += channels * (c3 * cells[3] + 2 * c4 * cells[4] + 2 * c5 * cells[5])  # an edge from the backbone each
    by_hand += channels * c5 * cells[5]  # P6, before it is halved
    assert neck_cost(SMALL).macs == by_hand


@pytest.mark.parametrize(("neck", "fusion"), PAPER_RATIOS)
def test_ratios_are_within_three_per_cent_of_those_of_table_5(neck, fusion):
    d3 = replace(Architecture.named("d3"), neck_repeats=5)
    base, cost = (neck_cost(with_neck(d3, *pair)) for pair in [("fpn", "sum"), (neck, fusion)])
    ratios = cost.parameters / base.parameters, cost.macs / base.macs
    assert ratios == pytest.approx(PAPER_RATIOS[neck, fusion], rel=0.03)


def test_a_row_for_every_neck_and_fusion():
    found = compare_necks(SMALL, necks=("bifpn", "full"), fusions=("fast", "softmax"), runs=1)
    kinds = [(row.neck, row.fusion, row.repeats) for row in found.rows]
    assert kinds[0] == ("fpn", "sum", 2)  # what the ratios refer to
    assert kinds[1:] == [("bifpn", "fast", 1), ("bifpn", "softmax", 1), ("full", "fast", 2), ("full", "softmax", 2)]
    for row in found.rows:
        assert row.milliseconds > 0
        assert row.parameter_ratio == row.parameters / found.rows[0].parameters
        assert row.network.parameters > row.parameters
    assert found.softmax_slowdowns(training=False) == {
        "bifpn": found.rows[2].milliseconds / found.rows[1].milliseconds,
        "full": found.rows[4].milliseconds / found.rows[3].milliseconds,
    }
    training = found.softmax_slowdowns(training=True)
    assert training["bifpn"] == found.rows[2].training_milliseconds / found.rows[1].training_milliseconds


def test_every_round_runs_every_step_in_turn():
    order = []
    times = median_times([lambda: order.append("a"), lambda: order.append("b")], runs=4)
    assert order == ["a", "b"] * 7
    assert len(times) == 2


def test_nothing_to_compare_is_refused():
    with pytest.raises(ValueError, match=r"a comparison must have a neck, a fusion and a run, got \[\]"):
        compare_necks(SMALL, necks=[])


def test_the_command_prints_a_table_and_writes_json(tmp_path, capsys):
    file = tmp_path / "new" / "necks.json"
    words = ["--repeats", "1", "--channels", "16", "--image-size", "64", "96", "--runs", "1", "--threads", "1"]
    chosen = ["--neck", "fpn", "--neck", "bifpn", "--fusion", "sum", "--fusion", "fast", "--fusion", "softmax"]
    assert main(["compare-necks", "lite0", *words, *chosen, "--json", str(file)]) == 0
    title, _, *rows, forward, training = capsys.readouterr().out.splitlines()
    assert title == "tf_efficientnet_lite0, 16 channels, 64×96, 1 threads, 1 runs"
    assert [row.split()[0] for row in rows] == ["fpn"] * 3 + ["bifpn"] * 3
    assert forward.startswith("forward: time of softmax to time of fast fusion: fpn ")
    assert training.startswith("training: time of softmax to time of fast fusion: fpn ")
    saved = json.loads(file.read_text())
    assert Architecture.from_dict(saved["architecture"]) == replace(SMALL, stochastic_depth=0.2)
    assert [row["macs"] for row in saved["rows"]][3] == neck_cost(replace(SMALL, fusion="sum")).macs


def test_wrong_words_are_one_sentence(capsys):
    assert main(["compare-necks", "lite0", "--neck", "bifnp"]) == 1
    assert "neck must be one of bifpn" in capsys.readouterr().err
    assert main(["compare-necks", "lite0", "--threads", "0"]) == 1
    assert "num_threads must be 1 or more, or None for PyTorch's own choice, got 0" in capsys.readouterr().err
