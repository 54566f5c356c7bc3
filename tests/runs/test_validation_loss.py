"""The losses on validation images are those of one large batch."""

import csv
import logging

import pytest
import torch

from effdet.config import ConfigError, load_config
from effdet.data.loader import EvalLoader
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.build import build_evaluation
from effdet.runs.data import read_data
from effdet.runs.log import RunLog
from effdet.runs.validation_loss import validation_loss
from effdet.training.distributed import World
from effdet.training.losses import DetectionLoss

WORLD = World(torch.device("cpu"))


@pytest.fixture(scope="module")
def val(demo_root):
    return read_data(load_config("demo", [f"data.root={demo_root}"]).data)[1]


@pytest.fixture(scope="module")
def model(val):
    torch.manual_seed(0)
    classes = {"class_names": val.class_names, "category_ids": val.category_ids}
    return EfficientDet("lite0", num_classes=val.num_classes, image_size=(64, 64), **classes)


@pytest.mark.parametrize("kinds", [{}, {"assigner": "task_aligned", "class_loss": "quality_focal", "box_loss": "giou"}])
@pytest.mark.parametrize("batch_size", [3, 8])
def test_the_loss_is_that_of_all_images_in_one_batch(model, val, kinds, batch_size):
    criterion = DetectionLoss(**kinds)
    found = validation_loss(model, val, criterion, batch_size=batch_size, workers=0, world=WORLD)

    (batch,) = EvalLoader(val, letterbox=model.letterbox, batch_size=len(val), workers=0)
    model.eval()
    with torch.no_grad():
        predictions = model.network(model.normalise(batch.images, batch.content_sizes))
        expected = criterion(predictions, model.anchors((64, 64), "cpu"), batch.targets)
    for name, value in expected.items():
        assert found[f"val_{name}"] == pytest.approx(float(value), rel=1e-4)
    assert found["val_loss"] == pytest.approx(found["val_class_loss"] + found["val_box_loss"])


def test_the_model_stays_as_it_was(model, val):
    model.train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    validation_loss(model, val, DetectionLoss(), batch_size=4, workers=0, world=WORLD)
    assert model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_it_does_not_go_together_with_tiles(model, val, demo_root):
    config = load_config("demo", [f"data.root={demo_root}", "data.tiles=64", "eval.loss=true"])
    with pytest.raises(
        ConfigError, match=r"eval\.loss must be false where images are cut into tiles, got data\.tiles=64"
    ):
        build_evaluation(config, model, val, WORLD)


def test_the_table_and_the_events_have_it_where_it_was_measured(tmp_path, caplog):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    losses = {"loss": 1.0, "class_loss": 0.75, "box_loss": 0.25, "lr": 0.1, "images_per_second": 9.0}
    rows = [{"epoch": 1, "step": 4, **losses}, {"epoch": 2, "step": 8, **losses, "ap": 0.5, "val_loss": 1.5}]
    rows[1] |= {"val_class_loss": 1.25, "val_box_loss": 0.25}
    caplog.set_level(logging.INFO)
    log = RunLog(tmp_path, total_steps=8)
    with log.opened():
        log.epoch(rows[:1])
        assert "val_loss" not in (tmp_path / "metrics.csv").read_text()
        log.epoch(rows)
    with (tmp_path / "metrics.csv").open() as file:
        table = list(csv.DictReader(file))
    assert [row["val_loss"] for row in table] == ["", "1.5"]
    assert [row["val_box_loss"] for row in table] == ["", "0.25"]
    assert "validation loss 1.5000" in (tmp_path / "log.txt").read_text()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert [(event.step, event.value) for event in events.Scalars("val/loss")] == [(8, 1.5)]
    assert [event.value for event in events.Scalars("val/class_loss")] == [1.25]
