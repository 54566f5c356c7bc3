import csv
import json
import logging
import platform
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from effdet.adaptation.measurement import Stopwatch
from effdet.adaptation.search.reward import Reward
from effdet.adaptation.search.search import SearchSettings, search_architectures
from effdet.adaptation.search.space import read_space
from effdet.adaptation.search.storage import open_study
from effdet.adaptation.search.trial import Plan, Price, found_config, trial_config
from effdet.config import ConfigError, Freeze, load_config
from effdet.models.architecture import Architecture
from effdet.models.backbone_blocks import written_out
from effdet.runs.train import train

optuna = pytest.importorskip("optuna")

ROOT = Path(__file__).parents[3]
CONFIG = """
model: {{name: lite0, architecture: {{channels: 16, neck_repeats: 1, head_repeats: 1}}}}
data: {{root: {root}, image_size: [64, 64], max_val_images: 2, workers: 0}}
train: {{batch_size: 4, optimizer: adamw, lr: 0.004}}
run: {{device: cpu, threads: 1}}
"""
TARGET = 2e7  # multiply-adds


@pytest.fixture
def config_file(tmp_path, demo_root):
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.format(root=demo_root))
    return file


def settings(folder, **options):
    return SearchSettings(folder=folder, reward=Reward(target=TARGET), **{"images": 16, "seed": 0, **options})


def command(config_file, out, *options):
    free = ["--free", "channels=8,16,24,32", "--free", "neck=bifpn,pan", "--free", "head_repeats=1,2"]
    always = ["--out", str(out), "--target-macs", str(TARGET), "--images", "16", "--pruner", "none"]
    return [sys.executable, str(ROOT / "tools/search.py"), str(config_file), *free, *always, *options]


def rows_of(folder):
    with (folder / "trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_trials_are_measured_trained_and_written(config_file, tmp_path):
    config, folder = load_config(config_file), tmp_path / "out"
    result = search_architectures(config, read_space(None, ["channels=8,16,24,32"]), settings(folder, trials=3))

    assert len(result.trials) == len(result.finished) == 3
    for trial, row in zip(result.trials, rows_of(folder), strict=True):
        assert trial.architecture.channels == trial.choices["channels"] == int(row["channels"])
        assert trial.architecture.image_size == (64, 64)
        assert trial.reward == pytest.approx(trial.ap * (trial.cost / TARGET) ** -0.07)
        assert float(row["reward"]) == trial.reward
    assert result.best.reward == max(trial.reward for trial in result.trials)
    written = json.loads((folder / "pareto.json").read_text())
    assert [point["number"] for point in written["front"]] == [trial.number for trial in result.front]
    assert Architecture.from_dict(written["front"][0]["architecture"]) == result.front[0].architecture
    assert (folder / "pareto.png").read_bytes().startswith(b"\x89PNG")
    assert list(folder.rglob("report.html")) == []  # the page of a whole run, which nobody reads of a trial

    best = load_config(folder / "best.yaml")
    assert best == replace(result.best_config, run=best.run)
    again = search_architectures(config, read_space(None, ["channels=8,16,24,32"]), settings(folder, trials=3))
    assert again.trials == result.trials


@pytest.mark.slow
def test_what_blocks_make_trains_by_the_written_config(config_file, tmp_path):
    folder = tmp_path / "out"
    space = tmp_path / "space.yaml"
    space.write_text("blocks: {base: mobilenetv2_035, activations: [relu, hardswish], se_of: [input, expansion]}\n")
    options = {"trials": 2, "objective": "pareto", "sampler": "nsga2"}
    result = search_architectures(load_config(config_file), read_space(space), settings(folder, **options))
    assert result.best.architecture.backbone_blocks is not None

    config = load_config(
        folder / "best.yaml",
        [f"run.dir={tmp_path / 'runs'}", "run.report=false", "train.epochs=1", "data.max_train_images=8"],
    )
    run = train(config)
    assert run.best.architecture == result.best.architecture
    assert len(run.best.predict(str(next((Path(config.data.root) / "images").iterdir())))) >= 0


@pytest.mark.sweep
def test_a_killed_search_goes_on_and_its_trial_too(config_file, tmp_path):
    out = tmp_path / "out"
    words = [*command(config_file, out, "--trials", "3"), "train.checkpoint_minutes=0.001", "data.max_train_images=8"]
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE)
    table = out / "trials" / "0001" / "run" / "metrics.csv"
    deadline = time.monotonic() + 300
    while not table.is_file() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    process.kill()
    messages = process.communicate()[1].decode()
    assert process.returncode == -signal.SIGKILL, messages
    losses = table.read_text().splitlines()[1].split(",")[3:6]

    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    rows = rows_of(out)
    assert [row["state"] for row in rows] == ["finished"] * 3
    assert [int(row["number"]) for row in rows] == [0, 2, 3]
    assert rows[1]["folder"] == str(out / "trials" / "0001")
    assert table.read_text().splitlines()[1].split(",")[3:6] == losses  # the first epoch was not repeated
    assert list(out.rglob("last.ckpt")) == []


@pytest.mark.sweep
@pytest.mark.slow
def test_an_interrupted_search_says_so_and_its_trial_goes_on(config_file, tmp_path):
    out = tmp_path / "out"
    words = command(config_file, out, "--trials", "1")
    process = subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 300
    while not list(out.rglob("last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    messages = process.communicate()[1].decode()
    assert process.returncode == 130, messages

    subprocess.run(words, cwd=tmp_path, check=True, capture_output=True)
    (row,) = rows_of(out)
    assert (row["state"], row["number"], row["folder"]) == ("finished", "1", str(out / "trials" / "0000"))


@pytest.mark.sweep
@pytest.mark.slow
@pytest.mark.parametrize("storage", ["journal.log", "sqlite:///{folder}/search.db"])
def test_two_processes_share_a_search(config_file, tmp_path, storage):
    out = tmp_path / "out"
    shared = storage.format(folder=tmp_path)
    shared = shared if "://" in shared else str(tmp_path / shared)
    words = command(config_file, out, "--trials", "4", "--storage", shared)
    processes = [subprocess.Popen([*words, "--seed", str(seed)], stderr=subprocess.PIPE) for seed in (1, 2)]
    outputs = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    rows = rows_of(out)
    assert [row["state"] for row in rows] == ["finished"] * 4
    assert all(" run trials/" in output or "AP" in output for output in outputs)
    assert len({row["folder"] for row in rows}) == 4


def test_a_trial_that_cannot_be_built_is_recorded_and_the_search_goes_on(config_file, tmp_path, caplog):
    caplog.set_level(logging.INFO, logger="effdet")
    space = read_space(None, ["backbone=no_such_model_of_timm,tf_efficientnet_lite0"])
    result = search_architectures(
        load_config(config_file), space, settings(tmp_path / "out", trials=3, sampler="random", seed=0)
    )
    by_backbone = {trial.choices["backbone"]: trial for trial in result.trials}
    assert by_backbone["no_such_model_of_timm"].state == "failed"
    assert "no_such_model_of_timm" in by_backbone["no_such_model_of_timm"].error
    assert by_backbone["tf_efficientnet_lite0"].state == "finished"
    assert {row["state"] for row in rows_of(tmp_path / "out")} == {"failed", "finished"}
    assert "failed, ValueError: " in caplog.text


def test_a_search_in_which_all_trials_fail_says_why(config_file, tmp_path):
    with pytest.raises(
        RuntimeError, match=r"must finish at least one trial, but none of 2 did; the last one: ValueErr"
    ):
        search_architectures(
            load_config(config_file), read_space(None, ["backbone=qqq"]), settings(tmp_path / "out", trials=2)
        )


def test_what_costs_far_too_much_is_not_trained(config_file, tmp_path):
    with pytest.raises(RuntimeError, match=r"the last one: .* MACs are more than 2e\+06"):
        search_architectures(
            load_config(config_file),
            read_space(None, ["channels=8,16"]),
            settings(tmp_path / "out", trials=1, skip_above=0.1),
        )
    assert rows_of(tmp_path / "out")[0]["state"] == "ended early"
    assert list(tmp_path.rglob("metrics.csv")) == []


def test_a_trial_that_falls_behind_is_ended(config_file, tmp_path, monkeypatch):
    pruners = optuna.pruners.ThresholdPruner(lower=2.0)  # no reward is as high
    monkeypatch.setattr("effdet.adaptation.search.search._pruner", lambda settings, plan: pruners)
    with pytest.raises(RuntimeError, match="behind others after epoch 1 with AP"):
        search_architectures(
            load_config(config_file), read_space(None, ["channels=8,16"]), settings(tmp_path / "out", trials=1)
        )
    assert rows_of(tmp_path / "out")[0]["epochs"] == "1"


@pytest.mark.parametrize("name", ["median", "halving", "hyperband", "none"])
def test_no_pruner_judges_a_trial_before_half_of_its_epochs(tmp_path, name):
    from effdet.adaptation.search.search import _pruner

    study = optuna.create_study(pruner=_pruner(settings(tmp_path, pruner=name), Plan(epochs=8, images=4)))
    for number in range(9):
        trial = study.ask()
        for step in range(1, 9):
            trial.report(-number, step)  # minimised by this study, so that each is better than those before
        study.tell(trial, -number)
    worst = study.ask()
    for step in (1, 2, 3):
        worst.report(1e9, step)
        assert not worst.should_prune()


def test_milliseconds_are_those_of_the_runtime(config_file):
    pytest.importorskip("onnxruntime")
    architecture = replace(Architecture.named("lite0"), channels=8, neck_repeats=1, head_repeats=1, image_size=(64, 64))
    price = Price(stopwatch=Stopwatch(runtime="onnxruntime", num_threads=1, runs=3))
    assert 0 < price.of(architecture, 3) < price.of(replace(architecture, image_size=(256, 256)), 3)
    assert price.unit == "ms"


@pytest.mark.parametrize(
    ("shown", "there", "epochs", "images"),
    [(2000, 300, 7, 300), (2000, 118_000, 4, 500), (200, 300, 4, 50), (16, 16, 4, 4), (1, 5, 4, 1)],
)
def test_a_trial_shows_about_the_images_asked_for_in_four_epochs_or_more(shown, there, epochs, images):
    assert Plan.of(shown, there) == Plan(epochs=epochs, images=images)


def test_a_trial_must_see_an_image():
    with pytest.raises(ValueError, match="the images of a trial must be 1 or more, got 0"):
        Plan.of(0, 10)


def test_named_backbones_keep_their_weights_and_blocks_start_from_random_ones(config_file, tmp_path):
    weights = ["model.backbone_weights=imagenet", "train.freeze=stem", "train.freeze_bn=true"]
    config = load_config(config_file, [*weights, "data.image_size=null", "data.long_side=96"])
    named = replace(Architecture.named("lite0"), image_size=(64, 96))
    mobilenet = written_out(replace(named, backbone="mobilenetv2_100"))
    plan = Plan(epochs=4, images=5)
    assert trial_config(config, named, plan, tmp_path).model.backbone_weights == "imagenet"
    random = trial_config(config, mobilenet, plan, tmp_path)
    assert random.model.backbone_weights is None
    assert (random.train.freeze, random.train.freeze_bn) == (Freeze.none, False)
    assert [read_space(name).makes_backbones for name in ("detector", "mnasnet")] == [False, True]
    assert found_config(config, named).data.image_size == (64, 96)
    assert found_config(config, named).train == config.train


def test_a_search_starts_from_no_whole_detector(config_file, tmp_path):
    config = load_config(config_file, ["model.weights=best.safetensors"])
    with pytest.raises(ConfigError, match=r"model.weights must be null in a search, .* got best.safetensors"):
        search_architectures(config, read_space(None), settings(tmp_path))


def test_results_go_to_a_folder(config_file):
    with pytest.raises(ValueError, match=r"the results of a search must go to a folder, got the file .*tiny.yaml"):
        search_architectures(load_config(config_file), read_space(None), settings(config_file))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"objective": "both"}, "objective must be one of reward, pareto, got 'both'"),
        ({"sampler": "grid"}, "sampler must be one of tpe, random, nsga2, qmc, got 'grid'"),
        ({"pruner": "mean"}, "pruner must be one of median, halving, hyperband, none, got 'mean'"),
        ({"pruner": "median", "objective": "pareto"}, "a pruner needs a single objective"),
        ({"sampler": "nsga2"}, "the sampler nsga2 is for several objectives; take tpe, or the objective pareto"),
        ({"trials": 0}, "trials must be 1 or more, got 0"),
        ({"images": -5}, "images must be 1 or more, got -5"),
        ({"hours": 0}, "hours must be positive, got 0"),
        ({"skip_above": -1}, "skip_above must be positive, got -1"),
        ({"seed": -1}, "seed must lie in 0…2147483647, got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        settings(tmp_path, **options)


# -- storage -----------------------------------------------------------------------------------------------------------


def test_a_search_with_other_settings_is_not_continued(tmp_path):
    file = str(tmp_path / "journal.log")
    open_study(file, "search", {"space": 1, "images": 5})
    open_study(file, "other", {"space": 2})
    with pytest.raises(ValueError, match=r"journal.log holds a search 'search' whose images, space differ"):
        open_study(file, "search", {"space": 2, "images": 6})


@pytest.mark.parametrize("storage", ["sqlite:///{}/no/such/folder/search.db", "nonsense://x"])
def test_a_storage_that_cannot_be_opened_is_named(tmp_path, storage):
    with pytest.raises(ValueError, match="the storage must be a file or the URL of a database, got"):
        open_study(storage.format(tmp_path), "search", {})


def test_a_trial_that_ends_its_process_three_times_is_given_up(config_file, tmp_path, caplog):
    """The trial is left running three times, as a process leaves it that the system kills for its memory."""
    caplog.set_level(logging.INFO, logger="effdet")
    config, space, chosen = load_config(config_file), read_space(None, ["channels=8,16"]), settings(tmp_path, trials=1)
    from effdet.adaptation.search.search import _Search
    from effdet.adaptation.search.storage import take_up_interrupted

    study = _Search.begin(config, space, chosen).study
    folder = tmp_path / "trials" / "0000"
    folder.mkdir(parents=True)
    for _ in range(3):
        trial = study.ask()
        trial.suggest_categorical("channels", [8, 16])
        trial.set_user_attr("folder", str(folder))
        trial.set_user_attr("host", platform.node())
        take_up_interrupted(study)
    assert "trial 2 has ended its process 3 times and is given up" in caplog.text
    assert [trial.state.name for trial in study.trials] == ["FAIL"] * 3
    assert len({trial.params["channels"] for trial in study.trials}) == 1


def test_without_optuna_the_message_says_how_to_install_it(monkeypatch, config_file, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"a search needs optuna; install it with: pip install .*\[search\]"):
        search_architectures(load_config(config_file), read_space(None, ["channels=8"]), settings(tmp_path))
