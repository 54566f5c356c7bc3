from types import SimpleNamespace

import pytest
import torch

from effdet import EfficientDet
from effdet.deployment import speed
from effdet.deployment.load import deploy
from effdet.deployment.speed import Timing, measure_network, measure_speed
from effdet.models.network import Network


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientDet("lite0", 2, image_size=(64, 64))


@pytest.fixture
def photos(photo_sets):
    return sorted((photo_sets / "bccd" / "images").iterdir())[:3]


def test_measuring_changes_nothing_in_the_model(model, photos):
    model.train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    measure_speed(model, photos, runs=2)
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def test_the_photos_are_used_in_turn(model, photos, monkeypatch):
    seen = []
    predict = model.predict
    monkeypatch.setattr(model, "predict", lambda batch, **options: seen.append(batch) or predict(batch, **options))
    measure_speed(model, photos, batch_size=2, runs=2)
    a, b, c = map(str, photos)
    assert seen == [[a, b], [c, a], [b, c], [a, b], [c, a]]


def test_a_stream_gets_all_counted_photos_in_one_call(model, photos, monkeypatch):
    seen = []
    monkeypatch.setattr(model, "predict_iter", lambda batch, **options: seen.append((batch, options)) or iter(()))
    monkeypatch.setattr(model, "predict", lambda *_, **options: None)
    assert measure_speed(model, photos, batch_size=2, runs=2).stream > 0
    a, b, c = map(str, photos)
    assert seen == [([a, b, c, a], {"batch_size": 2})]


def test_the_quartiles_leave_out_the_warm_up_and_count_an_image(monkeypatch):
    # Start and end of three slow runs, then of five that count.
    clock = iter([0, 9, 0, 9, 0, 9, 0, 0.002, 0, 0.004, 0, 0.006, 0, 0.008, 0, 0.010])
    monkeypatch.setattr(speed.time, "perf_counter", lambda: next(clock))
    found = speed.time_runs([lambda: None] * 8, torch.device("cpu"), 2)
    assert (found.first_quartile, found.median, found.third_quartile) == pytest.approx((2, 3, 4))
    assert found.images_per_second == pytest.approx(1000 / 3)
    assert isinstance(found, Timing)


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size must be 1 or more, got 0"), ({"runs": 1}, "runs must be 2 or more, got 1")],
)
def test_numbers_that_cannot_be_are_refused(model, photos, options, message):
    with pytest.raises(ValueError, match=message):
        measure_speed(model, photos, **options)


def test_at_least_one_photo_is_needed(model):
    with pytest.raises(ValueError, match="measuring needs at least one photo, got none"):
        measure_speed(model, [])


def test_the_network_alone_needs_no_photos(model, monkeypatch):
    shapes = []
    forward = Network.forward
    monkeypatch.setattr(Network, "forward", lambda self, images: shapes.append(images.shape) or forward(self, images))
    timing = measure_network(model, runs=2)
    assert shapes == [(1, 3, 64, 64)] * 5  # with three runs to warm up
    assert timing.first_quartile <= timing.median <= timing.third_quartile


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_the_network_is_measured_in_another_runtime(model, runtime):
    pytest.importorskip(runtime)
    deployed = deploy(model, runtime, num_threads=1)
    shapes = []
    deployed.runtime = SimpleNamespace(run=lambda array: shapes.append(array.shape))
    measure_network(deployed, runs=2)
    assert shapes == [(1, 3, 64, 64)] * 5


def test_the_network_is_measured_twice_or_more(model):
    with pytest.raises(ValueError, match="runs must be 2 or more, got 1"):
        measure_network(model, runs=1)
