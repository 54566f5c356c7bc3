"""``train.batch_size: auto`` takes a batch that fits."""

import contextlib
import logging
from dataclasses import replace

import pytest
import torch

from effdet.config import load_config
from effdet.runs import auto_batch
from effdet.runs.auto_batch import largest_batch, with_batch_size
from effdet.runs.data import read_data
from effdet.runs.resolve import resolve
from effdet.runs.step_costs import Measured, measure_training, value_at
from effdet.runs.train import prepare_run
from effdet.training.distributed import World

GIB = 2**30


@pytest.fixture
def config(write_tiny_config):
    return write_tiny_config("epochs: 1, batch_size: auto, warmup_epochs: 0")


def measured(of_two, of_four):
    return [Measured(images, 1.0, 0.1, 0.3, memory) for images, memory in ((2, of_two), (4, of_four))]


@pytest.mark.parametrize(
    ("there", "most", "expected"),
    [
        (16 * GIB, 64, 8),  # 1 GiB, and 1 GiB an image: 12.8 GiB hold 11 images
        (90 * GIB, 64, 64),
        (90 * GIB, 30, 16),  # no more than a data set asks for
        (90 * GIB, 0, 2),  # BN wants two
        (1 * GIB, 64, 1),
        (None, 64, 64),
    ],
)
def test_the_largest_power_of_two_that_fits(there, most, expected):
    assert largest_batch(lambda images: (1 + images) * GIB, there, most) == expected


def test_the_memory_of_a_batch_lies_on_the_line_through_two():
    values = measured(3 * GIB, 5 * GIB)
    assert [value_at(values, "memory", images) / GIB for images in (1, 2, 4, 8)] == [2, 3, 5, 9]


class Many:
    """A data set of which only the length counts."""

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


@pytest.mark.parametrize(
    ("device", "world", "accumulate", "images", "expected"),
    [
        ("cpu", {}, 1, 10_000, 16),  # 24 GiB · 0.8 hold 18 images
        ("cpu", {"size": 2, "local_size": 2}, 1, 10_000, 16),  # each of two processes has half of the memory: 8 images
        ("cuda", {"size": 2, "local_size": 2}, 1, 10_000, 32),  # each has a GPU of its own
        ("cpu", {}, 2, 10_000, 32),  # in two micro-batches
        ("cuda", {"size": 8, "local_size": 8}, 1, 10_000, 64),  # no more in all
        ("cpu", {}, 1, 205, 8),  # 16 steps in an epoch
    ],
)
def test_processes_micro_batches_and_images_count(monkeypatch, device, world, accumulate, images, expected):
    """A stand-in for machines with other memory: what is measured is given."""
    monkeypatch.setattr(auto_batch, "measure_training", lambda *_: measured(3 * GIB, 5 * GIB))
    monkeypatch.setattr(auto_batch, "memory_there_on", lambda device: 24 * GIB)
    settings = load_config("custom", ["train.batch_size=auto", f"train.accumulate={accumulate}"])
    found = with_batch_size(settings, Many(images), World(torch.device(device), **world))
    assert found.train.batch_size == expected


def test_a_number_is_kept_and_nothing_is_measured(monkeypatch):
    monkeypatch.setattr(auto_batch, "measure_training", None)
    settings = load_config("custom")
    assert with_batch_size(settings, Many(9), World(torch.device("cpu"))) is settings


def test_a_continued_run_keeps_the_batch_that_was_chosen(monkeypatch, tmp_path):
    monkeypatch.setattr(auto_batch, "measure_training", None)
    (tmp_path / "config.yaml").write_text("train: {batch_size: 6}")
    settings = load_config("custom", ["train.batch_size=auto"])
    continued = with_batch_size(settings, Many(9), World(torch.device("cpu")), tmp_path)
    assert continued == replace(settings, train=replace(settings.train, batch_size=6))


def test_a_device_that_is_full_after_the_first_batch_is_measured_with_one(config, monkeypatch):
    from effdet.runs import step_costs

    def steps(*_):
        yield from measured(3 * GIB, 5 * GIB)[:1]
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(step_costs, "_measure_steps", steps)
    settings = load_config(config)
    dataset = read_data(settings.data)[0]
    found = measure_training(resolve(settings, dataset), dataset, World(torch.device("cpu")))
    assert [row.images for row in found] == [2]
    assert value_at(found, "memory", 8) == 12 * GIB


@pytest.mark.slow
def test_a_run_says_and_keeps_the_number_and_starts_as_one_with_it(config, caplog):
    """Measuring uses random numbers; the weights of the run are the same all the same."""
    caplog.set_level(logging.INFO)
    settings = load_config(config)
    folder, weights = start_of(settings)
    assert any(line.startswith("train.batch_size=auto: 2 images, by ") for line in caplog.messages)
    kept = load_config(folder / "config.yaml")
    assert kept.train.batch_size == 2
    _, expected = start_of(replace(settings, train=replace(settings.train, batch_size=2)))
    assert all(torch.equal(tensor, expected[name]) for name, tensor in weights.items())


def start_of(settings):
    """Return the folder and the first weights of a run."""
    torch.manual_seed(0)
    with contextlib.ExitStack() as lock:
        run, _ = prepare_run(settings, World(torch.device("cpu")), None, lock)
        return run.checkpoints.folder, run.trainer.model.state_dict()
