"""The two commands that train many networks: what they train, what they write, and how they go on after a kill."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from effdet import Architecture, ConfigError, load_config
from effdet.adaptation.measurement import Stopwatch
from effdet.adaptation.scaling_compare import compare_scaling, networks_to_compare
from effdet.adaptation.scaling_search import Grid, search_scaling
from effdet.adaptation.trials import prepare_trials, run_trial
from effdet.commands import main
from effdet.models.scaling import ScalingRule, scale
from effdet.runs.architecture import architecture_of

ROOT = Path(__file__).resolve().parents[2]
BASE = replace(Architecture.named("lite0"), image_size=(96, 128), channels=32, neck_repeats=1, head_repeats=1)
SMALL = Grid(depth=(1.0, 2.0), width=(1.0,), resolution=(1.0, 1.4), neck_width=(1.3,))


@pytest.fixture
def overrides(demo_root):
    return [
        f"data.root={demo_root}",
        "data.long_side=null",
        "data.max_long_side=null",
        "data.image_size=[64,64]",
        "data.workers=0",
        "model.architecture={channels: 16, neck_repeats: 1, head_repeats: 1}",
        "train.batch_size=8",
        "run.threads=1",
    ]


def scale_command(action, overrides, *options):
    return ["scale", action, "custom", *overrides, *map(str, options)]


# -- what is trained ---------------------------------------------------------------------------------------------------


def test_all_networks_of_a_phi_cost_about_the_same():
    base, compound, *single = networks_to_compare(BASE, [0.5], num_classes=3, stride=16)
    assert (base.name, base.architecture, compound.name) == ("base", BASE, "compound-0.5")
    assert compound.architecture == scale(BASE, depth=0.5, width=0.5, resolution=0.5, stride=16)
    assert [network.name for network in single] == ["width-0.5", "depth-0.5", "resolution-0.5"]
    for network in single:
        assert network.architecture == scale(BASE, **{network.method: network.coefficient}, stride=16)
        assert network.cost.macs == pytest.approx(compound.cost.macs, rel=0.1)


@pytest.mark.parametrize("phis", [[], [0.0], [-1.0], [1.0, 30.0]])
def test_a_phi_to_compare_at_is_over_0(phis):
    with pytest.raises(ValueError, match="phis must be numbers over 0 and up to 20, got"):
        networks_to_compare(BASE, phis)


def test_the_grid_holds_the_rules_that_double_the_multiply_adds():
    rules = Grid().rules(1.35)
    assert ScalingRule() in rules
    by_loop = [
        (depth, width, resolution)
        for depth in (1.0, 1.1, 1.2, 1.3, 1.4)
        for width in (1.0, 1.1, 1.2)
        for resolution in (1.0, 1.15, 1.3)
        if 1.9 <= depth * width**2 * resolution**2 <= 2.1
    ]
    assert [(rule.depth, rule.width, rule.resolution) for rule in rules] == by_loop
    assert len(rules) == 7


def test_a_grid_must_hold_a_rule():
    with pytest.raises(ValueError, match=r"some rule of the grid must lie within 0\.1 of 2, but the nearest is 1\.21"):
        Grid(depth=(1.0,), width=(1.1,), resolution=(1.0,)).rules(1.35)
    with pytest.raises(ValueError, match=r"width of a grid must be numbers, 1 or more, got \[0\.5\]"):
        Grid(width=(0.5,))


def test_all_trainings_start_from_random_weights_and_see_whole_epochs(overrides):
    config = load_config("custom", overrides)
    assert (config.model.backbone_weights, config.train.freeze.value) == ("imagenet", "stem")
    base = prepare_trials(config, images=50)
    assert (base.config.train.epochs, base.images_seen, base.num_classes) == (3, 48, 5)
    assert (base.config.model.backbone_weights, base.config.train.freeze.value) == (None, "none")
    assert (base.config.train.freeze_bn, base.config.eval.every) == (False, 3)
    assert base.base == replace(architecture_of(config.model), image_size=(64, 64))
    assert prepare_trials(config, images=1).images_seen == 16


def test_what_cannot_be_compared_is_refused(overrides, tmp_path):
    config = load_config("custom", overrides)
    with pytest.raises(ValueError, match="images must be 1 or more, got 0"):
        prepare_trials(config, images=0)
    with pytest.raises(ConfigError, match=r"model\.weights must be null, as they fit one of the networks alone, got w"):
        prepare_trials(load_config("custom", [*overrides, "model.weights=w.pth"]), images=16)
    with pytest.raises(ValueError, match="phi of a search must lie over 0 and up to 10, got 0"):
        search_scaling(config, tmp_path, images=16, phi=0)


# -- what is written ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_comparison_has_one_row_for_each_network(overrides, tmp_path):
    out = tmp_path / "compared"
    command = scale_command("compare", overrides, "--out", out, "--images", 16, "--phi", 1, "--stride", 16, "--runs", 2)
    assert main(command) == 0
    document = json.loads((out / "compare.json").read_text())
    names = ["base", "compound-1", "width-1", "depth-1", "resolution-1"]
    assert [row["name"] for row in document["rows"]] == names
    assert all(row["images_seen"] == 16 and 0 <= row["ap"] <= 1 and row["milliseconds"] > 0 for row in document["rows"])
    assert document["stopwatch"] == {"runtime": "torch", "num_threads": None, "runs": 2}
    with (out / "compare.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["name"], int(row["macs"])) for row in rows] == [(row["name"], row["macs"]) for row in document["rows"]]
    assert rows[0]["image_size"] == "64x64"
    with Image.open(out / "compare.png") as picture:
        assert picture.size == (1210, 495)
    assert list(out.rglob("report.html")) == []  # the page of a whole run, which nobody reads of a trial

    before = {name: (out / "runs" / name / "result.json").stat().st_mtime_ns for name in names}
    config = load_config("custom", overrides)
    with pytest.raises(ValueError, match="settings that it was begun with, but these differ: rule; restore"):
        compare_scaling(config, out, images=16, phis=[1.0], stride=16, rule=ScalingRule(depth=1.3))
    again = compare_scaling(config, out, images=16, phis=[1.0], stride=16, stopwatch=Stopwatch(runs=2))
    assert [row.ap for row in again.rows] == [row["ap"] for row in document["rows"]]
    assert {name: (out / "runs" / name / "result.json").stat().st_mtime_ns for name in names} == before


# -- after a kill ------------------------------------------------------------------------------------------------------


def search_options(out):
    return ["--out", out, "--images", 64, "--stride", 16, "--depth", 1, 2, "--width", 1, "--resolution", 1, 1.4,
            "--neck-width", 1.3]  # fmt: skip


@pytest.mark.sweep
def test_a_search_that_is_killed_goes_on_and_ends_as_one_that_was_not(overrides, tmp_path):
    config = load_config("custom", overrides)
    whole = search_scaling(config, tmp_path / "whole", images=64, grid=SMALL, stride=16)
    assert len(whole.rows) == 3  # two rules, and one width of the neck, which the first stage has trained

    killed = tmp_path / "killed"
    command = [
        sys.executable,
        ROOT / "tools" / "scale.py",
        *scale_command("search", overrides, *search_options(killed))[1:],
    ]
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    wait_for(killed / "runs" / "2-1-1-1.3" / "last.ckpt", process)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    first = killed / "runs" / "1-1-1.4-1.3" / "result.json"
    assert first.is_file()
    assert not (killed / "runs" / "2-1-1-1.3" / "result.json").exists()

    before = first.stat().st_mtime_ns
    assert main(scale_command("search", overrides, *search_options(killed))) == 0
    assert first.stat().st_mtime_ns == before  # not trained again
    for name in ("search.json", "search.csv", "best.yaml"):
        assert (killed / name).read_text() == (tmp_path / "whole" / name).read_text()

    best = whole.best
    network = architecture_of(load_config(killed / "best.yaml").model)
    assert network == scale(
        replace(architecture_of(config.model), image_size=(64, 64)),
        depth=1, width=1, resolution=1, rule=best, stride=16,
    )  # fmt: skip
    assert max(row.ap for row in whole.rows) == next(
        row.ap for row in whole.rows if (row.depth, row.resolution) == (best.depth, best.resolution)
    )


def wait_for(file, process):
    end = time.monotonic() + 300
    while not file.is_file():
        assert process.poll() is None, "the command ended before it could be killed"
        assert time.monotonic() < end, f"{file} did not appear"
        time.sleep(0.02)


@pytest.mark.sweep
@pytest.mark.slow
def test_a_training_that_was_killed_before_its_first_checkpoint_begins_anew(overrides, tmp_path):
    base = prepare_trials(load_config("custom", overrides), images=16)
    folder = tmp_path / "runs" / "base"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("half of a fi")
    result = run_trial(tmp_path, "base", base, base.base)
    assert (folder / "best.safetensors").is_file()
    assert run_trial(tmp_path, "base", base, base.base) == result
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["base"]
