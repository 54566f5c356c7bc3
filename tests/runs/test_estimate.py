import math
import sys
from dataclasses import replace

import pytest

from effdet.config import load_config
from effdet.runs import estimate, step_costs
from effdet.runs.data import read_data
from effdet.runs.estimate import Estimate, in_words
from effdet.runs.step_costs import Measured

GIB = 2**30
ESTIMATE = Estimate(
    device="cpu (torch threads: 2)",
    precision="bf16",
    batch_size=8,
    steps_per_epoch=1200,
    epochs=10,
    seconds_per_step=0.5,
    seconds_per_evaluation=60.0,
    seconds=6300.0,
    memory=3 * GIB,
    memory_there=4 * GIB,
    measured_batches=(2, 4),
)


def test_an_estimate_is_one_sentence():
    assert str(ESTIMATE) == (
        "a training takes about 1.8 h and 3.0 GiB of memory on cpu (torch threads: 2) in bf16: 10 epochs of 1,200 "
        "steps of 0.5 s, by steps with 2 and 4 of the 8 images of a batch"
    )
    busy = str(replace(ESTIMATE, is_busy=True))
    assert busy == f"{ESTIMATE}, measured while other programs use this machine"


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.4, "0 s"), (89, "89 s"), (90, "1.5 min"), (5400, "1.5 h"), (200_000, "2.3 days")]
)
def test_a_time_is_said_in_the_unit_that_fits(seconds, words):
    assert in_words(seconds) == words


def test_the_steps_of_an_epoch_show_its_images_or_their_tiles(demo_root, monkeypatch):
    """A stand-in for the measurement, of which only the counts are looked at."""
    measured = [Measured(images, 1.0, 0.1, 0.3, GIB) for images in (2, 4)]
    monkeypatch.setattr(estimate, "measure_training", lambda *_: measured)
    whole = ["data.long_side=null", "data.max_long_side=null", "data.image_size=[64,64]", "train.batch_size=4"]
    for more in ([], ["data.tiles=[120,160]", "data.tile_overlap=0"]):
        config = load_config("custom", [f"data.root={demo_root}", *whole, *more])
        train = read_data(config.data)[0]
        tiles = sum(math.ceil(height / 120) * math.ceil(width / 160) for height, width in train.sizes.tolist())
        steps = math.ceil((tiles if more else len(train)) / 4)
        assert estimate.estimate_training(config, train, 8).steps_per_epoch == steps


def test_where_the_system_tells_no_memory_the_time_is_said_alone(write_tiny_config, monkeypatch):
    """As on Windows, which has neither /proc nor Python's ``resource``."""
    monkeypatch.setattr(step_costs, "_kibibytes", lambda file, key: None)
    monkeypatch.setitem(sys.modules, "resource", None)
    small = "model.architecture={channels: 16, neck_repeats: 1, head_repeats: 1}"
    config = load_config(write_tiny_config("epochs: 1, batch_size: auto, warmup_epochs: 0"), [small])
    found = estimate.estimate_training(config, read_data(config.data)[0], 8)
    assert (found.memory, found.memory_there, found.batch_size) == (None, None, 2)
    assert "GiB" not in str(found)
    assert found.findings() == []


def test_too_little_memory_is_a_warning():
    assert ESTIMATE.findings() == []
    assert replace(ESTIMATE, memory_there=None).findings() == []
    (finding,) = replace(ESTIMATE, memory_there=2 * GIB).findings()
    assert finding.severity == "warning"
    assert finding.text == "training needs 3.0 GiB of memory, and 2.0 GiB are free"
    assert "train.batch_size" in finding.advice
