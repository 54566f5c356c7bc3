from dataclasses import replace

import pytest
import torch

from effdet import Architecture
from effdet.adaptation.measurement import Stopwatch

TINY = replace(Architecture.named("lite0"), image_size=(64, 64), channels=8, neck_repeats=1, head_repeats=1)


@pytest.mark.parametrize("runtime", ["torch", "onnxruntime", "openvino"])
def test_a_network_is_measured_in_each_runtime(runtime):
    pytest.importorskip(runtime)
    timing = Stopwatch(runtime=runtime, num_threads=1, runs=2).measure(TINY, num_classes=2)
    assert 0 < timing.first_quartile <= timing.median <= timing.third_quartile


def test_torch_keeps_its_threads(monkeypatch):
    used = []
    set_threads = torch.set_num_threads
    monkeypatch.setattr(torch, "set_num_threads", lambda number: used.append(number) or set_threads(number))
    before = torch.get_num_threads()
    Stopwatch(num_threads=2, runs=2).measure(TINY, num_classes=2)
    assert (used, torch.get_num_threads()) == ([2, before], before)


@pytest.mark.parametrize(
    ("stopwatch", "message"),
    [
        (Stopwatch(num_threads=0), "num_threads must be 1 or more, or None for one per core, got 0"),
        (Stopwatch(runs=1), "runs must be 2 or more, got 1"),
        (Stopwatch(runtime="tensorrt"), "got runtime 'tensorrt'"),
    ],
)
def test_what_cannot_be_is_refused(stopwatch, message):
    with pytest.raises(ValueError, match=message):
        stopwatch.measure(TINY, num_classes=2)
