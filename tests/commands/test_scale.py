import json
import subprocess
import sys
from pathlib import Path

import pytest

from effdet import EfficientDet, load_config
from effdet.commands import main
from effdet.models.architecture import Architecture
from effdet.models.cost import network_cost
from effdet.runs.architecture import architecture_of

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["model.architecture={channels: 16, neck_repeats: 1, head_repeats: 1}", "data.long_side=null",
         "data.max_long_side=null", "data.image_size=[64,96]"]  # fmt: skip


def test_a_budget_without_a_config_is_one_of_the_d_models(tmp_path, capsys):
    assert main(["scale", "budget", "--macs", "4e9", "--out", str(tmp_path / "my.yaml"), "data.root=photos"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "phi 0.45"  # 0.5 has a larger input
    assert out[-1] == f"written to {tmp_path / 'my.yaml'}"
    config = load_config(tmp_path / "my.yaml")
    assert (config.data.root, config.run.name, config.model.phi) == ("photos", "my", 0.45)
    assert network_cost(architecture_of(config.model)).macs <= 4e9


def test_a_budget_with_a_config_scales_its_model(capsys):
    command = ["scale", "budget", "custom", *SMALL, "--macs", "6e7", "--num-classes", "3", "--json", "-"]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    architecture = Architecture.from_dict(found["architecture"])
    assert architecture.backbone == "tf_efficientnet_lite0"
    assert found["cost"]["macs"] == network_cost(architecture, num_classes=3).macs <= 6e7
    assert found["coefficients"] == [found["phi"]] * 3


def test_a_free_budget_keeps_what_is_given(capsys):
    command = ["scale", "budget", "custom", "--macs", "6e7", "--free", "--resolution", "0", "--json", "-", *SMALL]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["architecture"]["image_size"] == [64, 96]
    assert found["phi"] is None


@pytest.mark.slow
def test_a_budget_of_milliseconds_is_measured(tmp_path, capsys):
    limit = ["--latency-ms", "100000", "--runtime", "torch", "--threads", "1", "--runs", "2"]
    free = ["--free", "--depth", "0", "--width", "0", "--stride", "256"]
    config = tmp_path / "my.yaml"
    assert main(["scale", "budget", "custom", *SMALL, *limit, *free, "--out", str(config)]) == 0
    assert " ms" in capsys.readouterr().out
    architecture = architecture_of(load_config(config).model)
    assert architecture.image_size == (256, 512)  # 1.15¹² · 64 and 96, the largest that is tried, are 342 and 514
    assert EfficientDet(architecture, 2).image_size == (256, 512)


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["budget"], 2, "one of the arguments --macs --latency-ms is required"),
        (["budget", "--macs", "1e9", "--latency-ms", "3"], 2, "not allowed with argument"),
        (["budget", "--macs", "3e9", "--depth", "1"], 2, "--depth, --width and --resolution go with --free"),
        (["budget", "--macs", "1e9"], 1, "the budget must allow the smallest network"),
        (["budget", "nothing", "--macs", "3e9"], 1, "got 'nothing'"),
        (["budget", "custom", "model.phi=1", "model.name=d1", "--macs", "3e9"], 2, "model.name must be null"),
        (["search", "custom", "--images", "9"], 2, "--out"),
        (["compare", "custom", "data.root=none", "--images", "9", "--out", "{tmp}"], 1, "none"),
    ],
)
def test_errors_are_one_sentence(tmp_path, capsys, arguments, status, message):
    assert main(["scale", *(word.format(tmp=tmp_path / "out") for word in arguments)]) == status
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize("action", [[], ["budget"], ["search"], ["compare"]])
def test_help_answers_without_torch(action):
    code = f"""
import sys
from effdet.commands import main
assert main(["scale", *{action}, "--help"]) == 0
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert run.returncode == 0, run.stderr
    assert "effdet scale" in run.stdout
