"""The learning-rate range test."""

import math

import numpy as np
import pytest
from PIL import Image

import effdet
from effdet.commands import main
from effdet.config import load_config
from effdet.runs.find_lr import LrRange, find_lr, smooth, suggest


@pytest.fixture
def config(tmp_path, demo_root):
    path = tmp_path / "tiny.yaml"
    path.write_text(
        f"model: {{name: lite0}}\n"
        f"data: {{root: {demo_root}, image_size: [64, 64], workers: 0, augment: {{scale: [0.9, 1.1]}}}}\n"
        f"train: {{batch_size: 4, optimizer: adamw}}\n"
        f"run: {{dir: {tmp_path / 'runs'}, device: cpu, threads: 1}}\n"
    )
    return path


def test_the_smoothed_loss_is_the_mean_of_neighbours_and_does_not_lag():
    assert smooth([3.0, 1.0, 2.0]) == pytest.approx([2.0, 2.0, 2.0])
    line = np.arange(30.0)
    assert smooth(line.tolist())[5:25] == pytest.approx(line[5:25])


def test_the_suggested_rate_is_where_the_loss_falls_fastest():
    """The loss falls by a logistic curve around the rate 0.01, and rises from 0.3 on."""
    rates = np.geomspace(1e-5, 1, 101)
    losses = 2 / (1 + (rates / 0.01) ** 2) + np.where(rates > 0.3, 20 * (rates - 0.3), 0)
    assert suggest(rates, losses) == pytest.approx(0.01, rel=0.15)


def test_where_the_loss_never_falls_the_suggested_rate_is_a_tenth_of_the_best():
    assert suggest([0.1, 0.2, 0.4], [1.0, 2.0, 3.0]) == pytest.approx(0.01)


def test_a_plot_is_a_picture(tmp_path):
    rates = np.geomspace(1e-4, 1, 20).tolist()
    found = LrRange.of(rates, [2 - math.sqrt(rate) for rate in rates])
    found.plot(tmp_path / "lr.png")
    with Image.open(tmp_path / "lr.png") as picture:
        assert picture.size == (880, 495)


def test_a_test_that_cannot_be_is_refused(config):
    settings = load_config(config)
    with pytest.raises(ValueError, match=r"the rates must be 0 < low < high, got 0\.1 and 0\.01"):
        find_lr(settings, low=0.1, high=0.01)
    with pytest.raises(ValueError, match="steps must be 10 or more, got 5"):
        find_lr(settings, steps=5)
    with pytest.raises(
        ValueError, match="needs ten steps before the loss is not finite, got 3; start with lower rates"
    ):
        LrRange.of([1, 2, 3], [1, 2, 3])


@pytest.mark.slow
def test_rates_rise_until_the_loss_diverges_and_nothing_is_written(config, tmp_path):
    settings = load_config(config)
    found = effdet.find_lr(settings, low=1e-4, high=1e5, steps=30)
    assert list(found.rates) == pytest.approx(np.geomspace(1e-4, 1e5, 30)[: len(found.rates)])
    assert 10 <= len(found.losses) < 30  # 1e5 is too much
    assert found.suggested in found.rates
    assert not (tmp_path / "runs").exists()
    assert find_lr(settings, low=1e-4, high=1e5, steps=30) == found


def test_the_command_prints_an_override_and_draws_the_losses(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("effdet.runs.find_lr.find_lr.__kwdefaults__", {**find_lr.__kwdefaults__, "steps": 10})
    assert main(["train", str(config), "--find-lr", "run.name=mine"]) == 0
    text = capsys.readouterr().out.strip()
    assert 1e-6 < load_config(config, [text]).train.lr < 1
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["mine-lr.png"]


def test_micro_batches_of_several_sizes_train_together(config):
    """Each has the anchors of its own size."""
    overrides = ["data.multi_scale=[0.5,2.5]", "train.accumulate=2", "data.image_size=[64,96]"]
    found = find_lr(load_config(config, overrides), low=1e-5, high=1e-4, steps=10)
    assert all(0 < loss < 10 for loss in found.losses)


def test_it_does_not_go_together_with_resume(config, capsys):
    assert main(["train", str(config), "--find-lr", "--resume"]) == 2
    assert "--find-lr starts anew: leave out --resume" in capsys.readouterr().err
