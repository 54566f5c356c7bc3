"""``train.precision: auto`` on a CPU, and training in bf16 with the fused blocks."""

import contextlib
import logging
import re
from dataclasses import replace

import pytest
import torch

from effdet.config import AUTO_BATCH, Precision, load_config
from effdet.kernels.library import load_kernels
from effdet.runs import auto_batch, auto_precision
from effdet.runs.auto_precision import comparable, faster
from effdet.runs.data import read_data
from effdet.runs.estimate import estimate_training
from effdet.runs.find_lr import find_lr
from effdet.runs.folder import write_config
from effdet.runs.step_costs import measure_training
from effdet.runs.train import prepare_run, train
from effdet.training.checkpoint import load_checkpoint
from effdet.training.distributed import World


@pytest.fixture
def config(write_tiny_config):
    return load_config(write_tiny_config("epochs: 2, batch_size: 8, warmup_epochs: 0"))


@contextlib.contextmanager
def prepared(config, resumed=None):
    with contextlib.ExitStack() as lock:
        yield prepare_run(config, World(torch.device("cpu")), resumed, lock)[0]


def precise(config, value):
    return replace(config, train=replace(config.train, precision=Precision(value)))


def test_bf16_must_be_faster_by_a_tenth():
    assert [faster(1.0, bf16).value for bf16 in (0.5, 0.9, 0.95, 2.0)] == ["bf16", "bf16", "fp32", "fp32"]


@pytest.mark.parametrize(
    ("has_them", "change", "reason"),
    [
        (False, {"epochs": 1000}, "this processor has no instructions for bf16"),
        (True, {"epochs": 1000, "compile": True}, "train.compile=true"),
        (True, {}, "a measurement does not pay in a run of fewer than 2,000 images"),
    ],
)
def test_where_nothing_is_measured_it_is_fp32_and_the_log_says_why(
    config, caplog, monkeypatch, has_them, change, reason
):
    monkeypatch.setattr(auto_precision, "has_bf16", lambda: has_them)
    caplog.set_level(logging.INFO)
    with prepared(replace(config, train=replace(config.train, **change))) as run:
        assert run.trainer.settings.precision is Precision.fp32
    assert f"train.precision=auto: fp32, as {reason}" in caplog.messages


def test_a_measured_run_starts_as_one_that_was_told_and_keeps_its_choice(config, caplog, monkeypatch):
    """The probe trains a copy: the weights of the run and its random numbers are the same all the same."""
    monkeypatch.setattr(auto_precision, "LEAST_IMAGES", 1)
    monkeypatch.setattr(auto_precision, "has_bf16", lambda: True)
    monkeypatch.setattr(auto_precision, "faster", lambda fp32, bf16: Precision.bf16 if fp32 and bf16 else None)
    caplog.set_level(logging.INFO)
    torch.manual_seed(0)
    with prepared(config) as run:
        folder, numbers = run.checkpoints.folder, torch.rand(3)
        first = {name: tensor.clone() for name, tensor in run.trainer.model.state_dict().items()}
        run.checkpoints.save()
    line = r"train.precision=auto: bf16; steps with 4 images took [\d.e-]+ s in fp32 and [\d.e-]+ s in bf16"
    assert any(re.fullmatch(line, message) for message in caplog.messages)
    assert load_config(folder / "config.yaml").train.precision is Precision.bf16

    torch.manual_seed(0)
    with prepared(precise(config, "bf16")) as told:
        assert torch.equal(numbers, torch.rand(3))
        assert all(torch.equal(tensor, first[name]) for name, tensor in told.trainer.model.state_dict().items())

    monkeypatch.setattr(auto_precision, "faster", lambda fp32, bf16: pytest.fail("measured again"))
    with prepared(config, folder) as resumed:
        assert resumed.trainer.settings.precision is Precision.bf16


@pytest.fixture
def bf16_is_faster(monkeypatch):
    """As on a processor where the measured steps were faster in bf16."""
    monkeypatch.setattr(auto_precision, "LEAST_IMAGES", 1)
    monkeypatch.setattr(auto_precision, "has_bf16", lambda: True)
    monkeypatch.setattr(auto_precision, "faster", lambda fp32, bf16: Precision.bf16)


@pytest.mark.slow
@pytest.mark.usefixtures("bf16_is_faster")
def test_a_learning_rate_is_tested_in_the_precision_of_the_training(config):
    found = {kind: find_lr(precise(config, kind), steps=10) for kind in ("auto", "bf16", "fp32")}
    assert found["auto"] == found["bf16"] != found["fp32"]


@pytest.mark.usefixtures("bf16_is_faster")
def test_an_estimate_is_made_in_the_precision_of_the_training(config, monkeypatch):
    images = read_data(config.data)[0]
    assert estimate_training(config, images, num_val=1).precision == "bf16"
    assert estimate_training(precise(config, "fp32"), images, num_val=1).precision == "fp32"


@pytest.mark.usefixtures("bf16_is_faster")
def test_a_chosen_batch_is_measured_in_the_chosen_precision(config, monkeypatch):
    measured = []

    def measure(config, *others):
        measured.append(config.train.precision)
        return measure_training(config, *others)

    monkeypatch.setattr(auto_batch, "measure_training", measure)
    with prepared(replace(config, train=replace(config.train, batch_size=AUTO_BATCH))) as run:
        assert run.trainer.settings.precision is Precision.bf16
    assert measured == [Precision.bf16]


def test_trainings_that_are_compared_are_all_in_fp32_unless_they_are_told(config, caplog):
    caplog.set_level(logging.INFO)
    assert comparable(config).train.precision is Precision.fp32
    line = "train.precision=auto: fp32, as trainings are compared; train.precision=bf16 takes bf16 for all"
    assert caplog.messages == [line]
    assert comparable(precise(config, "bf16")).train.precision is Precision.bf16


def test_a_run_of_an_earlier_version_goes_on_in_fp32(config, monkeypatch):
    with prepared(config) as run:
        run.checkpoints.save()
    write_config(run.checkpoints.folder, config)  # with auto, as they were written
    monkeypatch.setattr(auto_precision, "LEAST_IMAGES", 1)
    with prepared(config, run.checkpoints.folder) as resumed:
        assert resumed.trainer.settings.precision is Precision.fp32


# -- training in bf16 ------------------------------------------------------------------------------------------------


class StopError(Exception):
    """Ends a run after an epoch."""


def stop_after_the_first(history):
    raise StopError


@pytest.mark.slow
@pytest.mark.skipif(load_kernels() is None, reason="this machine cannot compile the kernels")
def test_bf16_follows_fp32_and_a_resumed_run_ends_bit_for_bit_as_an_unbroken_one(config):
    d0 = replace(config, model=replace(config.model, name="d0"))
    whole = {kind: train(precise(d0, kind)) for kind in ("bf16", "fp32")}
    losses = {kind: [row["loss"] for row in run.history] for kind, run in whole.items()}
    assert losses["bf16"] != losses["fp32"]
    assert losses["bf16"] == pytest.approx(losses["fp32"], rel=0.03)

    broken = precise(d0, "bf16")
    broken = replace(broken, run=replace(broken.run, name="broken"))
    with pytest.raises(StopError):
        train(broken, after_epoch=stop_after_the_first)
    again = train(broken, resume=whole["bf16"].folder.parent / "broken")
    states = [load_checkpoint(run.folder / "last.ckpt") for run in (whole["bf16"], again)]
    for part in (lambda state: state["model"], lambda state: state["ema"]["model"]):
        one, other = map(part, states)
        assert [name for name, tensor in one.items() if not torch.equal(tensor, other[name])] == []
        statistics = {tensor.dtype for name, tensor in one.items() if "running" in name}
        assert statistics == {torch.float32}
