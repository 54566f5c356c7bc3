from dataclasses import replace

import pytest

from effdet.runs.estimate import Estimate, in_words

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


def test_too_little_memory_is_a_warning():
    assert ESTIMATE.findings() == []
    assert replace(ESTIMATE, memory_there=None).findings() == []
    (finding,) = replace(ESTIMATE, memory_there=2 * GIB).findings()
    assert finding.severity == "warning"
    assert finding.text == "training needs 3.0 GiB of memory, and 2.0 GiB are free"
    assert "train.batch_size" in finding.advice
