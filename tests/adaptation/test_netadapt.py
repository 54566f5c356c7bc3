import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from effdet import EfficientDet, load_config
from effdet.adaptation import AdaptSettings, adapt, netadapt
from effdet.adaptation.netadapt import ratio
from effdet.config import ConfigError, Precision
from effdet.runs import auto_precision

SCRIPT = Path(__file__).with_name("adapt_by_multiply_adds.py")


@pytest.fixture(scope="module")
def weights(small_architecture, photo_sets, tmp_path_factory):
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("weights") / "small.safetensors"
    EfficientDet(
        small_architecture, 3, class_names=["Platelets", "RBC", "WBC"], category_ids=[1, 2, 3]
    ).save_pretrained(file)
    return file


def start(weights, photo_sets, folder):
    command = [sys.executable, str(SCRIPT), str(weights), str(photo_sets / "bccd"), str(folder)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process):
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors.decode()[-2000:]


@pytest.fixture(scope="module")
def whole(weights, photo_sets, tmp_path_factory):
    """The folder of an adaptation that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole") / "adapted"
    finish(start(weights, photo_sets, folder))
    return folder


def trajectory(folder):
    return (folder / "trajectory.csv").read_text()


def tensors(folder):
    return EfficientDet.from_pretrained(folder / "best.safetensors").state_dict()


@pytest.mark.slow
def test_an_adapted_detector_is_one_like_any_other(whole, small_architecture, photo_sets):
    rows = [line.split(",") for line in trajectory(whole).splitlines()]
    times = [float(row[3]) for row in rows[1:]]
    assert times == sorted(times, reverse=True)
    assert times[-1] <= 0.8 * times[0]
    adapted = EfficientDet.from_pretrained(whole / "best.safetensors")
    assert adapted.architecture != small_architecture
    assert adapted.class_names == ("Platelets", "RBC", "WBC")
    assert len(adapted.predict(sorted((photo_sets / "bccd" / "images").iterdir())[0])) == 1
    assert load_config(whole / "last" / "run" / "config.yaml").model.architecture.backbone_blocks is not None
    assert (whole / "trajectory.png").stat().st_size > 10_000


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_a_killed_adaptation_goes_on_and_ends_as_one_that_was_not(whole, weights, photo_sets, tmp_path):
    killed, end = start(weights, photo_sets, tmp_path / "adapted"), time.monotonic() + 300
    while not (results := list(tmp_path.glob("adapted/step_01/*/model.safetensors"))) and time.monotonic() < end:
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.glob("adapted/step_0*/*/result.json")}

    finish(start(weights, photo_sets, tmp_path / "adapted"))
    assert results
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert trajectory(tmp_path / "adapted") == trajectory(whole)
    again = tensors(tmp_path / "adapted")
    assert all(torch.equal(again[name], value) for name, value in tensors(whole).items())


@pytest.mark.sweep
@pytest.mark.slow
def test_two_processes_share_an_adaptation(whole, weights, photo_sets, tmp_path):
    pair = [start(weights, photo_sets, tmp_path / "adapted") for _ in range(2)]
    for process in pair:
        finish(process)
    assert trajectory(tmp_path / "adapted") == trajectory(whole)


@pytest.mark.slow
def test_a_folder_is_continued_with_its_own_settings_alone(whole, weights, photo_sets):
    config = load_config("custom", [f"model.weights={weights}", "model.name=null", "model.backbone_weights=null"])
    config = replace(config, data=replace(config.data, root=str(photo_sets / "bccd"), workers=0))
    settings = AdaptSettings(target_ms=0.1, runtime="torch", held_out=0.3)
    with pytest.raises(ValueError, match=r"must be continued with the settings that it was begun with, but target_ms"):
        adapt(config, settings, whole)


class KilledError(Exception):
    """Ends an adaptation before its first AP is measured."""


@pytest.mark.slow
def test_all_processes_of_an_adaptation_train_in_the_precision_that_was_chosen_first(
    weights, photo_sets, tmp_path, monkeypatch
):
    def measure_ap(model, config, images):
        used.append((config.train.precision, config.train.batch_size))
        raise KilledError

    used = []
    monkeypatch.setattr(netadapt, "measure_ap", measure_ap)
    monkeypatch.setattr(auto_precision, "LEAST_IMAGES", 1)
    monkeypatch.setattr(auto_precision, "has_bf16", lambda: True)
    model = [f"model.weights={weights}", "model.name=null", "model.backbone_weights=null"]
    run = [f"data.root={photo_sets / 'bccd'}", "train.batch_size=auto", "run.device=cpu", "run.threads=1"]
    for faster in (lambda fp32, bf16: Precision.bf16, lambda fp32, bf16: pytest.fail("measured again")):
        monkeypatch.setattr(auto_precision, "faster", faster)
        with pytest.raises(KilledError):
            adapt(load_config("custom", [*model, *run]), AdaptSettings(target_ms=1.0), tmp_path)
    written = load_config(tmp_path / "config.yaml").train
    assert used == 2 * [(Precision.bf16, written.batch_size)]
    assert written.batch_size > 0


def test_the_ratio_is_the_ap_that_a_millisecond_costs():
    assert ratio(0.50, 8.0, 0.56, 10.0) == pytest.approx(-0.03)


def test_a_detector_must_be_given(tmp_path):
    with pytest.raises(ConfigError, match=r"model\.weights must be the detector that is to be adapted, got null"):
        adapt(load_config("custom"), AdaptSettings(target_ms=1), tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_ms": 0}, "target_ms must be a positive number of milliseconds, got 0"),
        ({"step_ms": float("inf")}, "step_ms must be a positive number of milliseconds, got inf"),
        ({"short_steps": 0}, "short_steps must be 1 or more, got 0"),
        ({"held_out": 1.0}, r"held_out must lie in \(0, 1\), got 1.0"),
        ({"choice": "best"}, "choice must be one of ratio, ap, got 'best'"),
    ],
)
def test_settings_out_of_range_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        AdaptSettings(**{"target_ms": 10.0} | changes)
