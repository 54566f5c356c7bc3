"""Training on tiles: which there are, and what becomes of boxes at their edges."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.config import AugmentConfig
from effdet.data.dataset import Dataset
from effdet.data.loader import TrainLoader
from effdet.data.samples import Sample
from effdet.data.text_column import TextColumn
from effdet.data.tiles import TileTable
from effdet.ops.tiles import Tiles

TILES = Tiles(size=(40, 60), overlap=0)


def dataset_of(folder: Path, sizes, boxes=()):
    """Images named 0.png, 1.png, …, and boxes (image, x, y, width, height) in the order of the images."""
    counts = np.bincount([int(box[0]) for box in boxes], minlength=len(sizes))
    return Dataset(
        class_names=("a",),
        category_ids=(1,),
        image_ids=np.arange(len(sizes)) + 100,
        names=TextColumn.from_texts([f"{number}.png" for number in range(len(sizes))]),
        folder=folder,
        sizes=np.array(sizes, dtype=np.int64),
        boxes_xywh=np.array([box[1:] for box in boxes], dtype=np.float64).reshape(-1, 4),
        labels=np.zeros(len(boxes), np.int64),
        is_crowd=np.zeros(len(boxes), bool),
        areas=np.ones(len(boxes)),
        annotation_ids=np.arange(len(boxes)),
        offsets=np.concatenate([[0], counts.cumsum()]).astype(np.int64),
        annotation_file=folder / "train.json",
    )


def sample_of(size, boxes, is_crowd=None):
    boxes = np.array(boxes, dtype=np.float32).reshape(-1, 4)
    crowd = np.zeros(len(boxes), bool) if is_crowd is None else np.array(is_crowd)
    image = np.arange(np.prod(size) * 3, dtype=np.int64).reshape(*size, 3).astype(np.uint8)
    return Sample(image, boxes, np.arange(len(boxes)), crowd)


def test_the_table_lists_the_tiles_image_by_image(tmp_path):
    table = TileTable.of(dataset_of(tmp_path, [(30, 50), (80, 60), (0, 0), (30, 50), (40, 120)]), TILES)
    assert table.images.tolist() == [0, 1, 1, 2, 3, 4, 4]
    assert table.boxes[[1, 2, 6]].tolist() == [[0, 0, 60, 40], [0, 40, 60, 80], [60, 0, 120, 40]]
    assert table.boxes[3].tolist() == [0, 0, 0, 0]  # of a size that nobody knows
    assert [table.first_of(image) for image in range(5)] == [0, 1, 3, 4, 5]
    assert len(TileTable.of(dataset_of(tmp_path, [(30, 50), (80, 60)]), None)) == 2


def test_boxes_at_an_edge_are_cut_or_become_crowds():
    """The tile is the right half of a 40 × 120 image."""
    table = TileTable(np.zeros(1, np.int64), np.array([[60, 0, 120, 40]]))
    boxes = [
        (70, 5, 90, 25),  # inside
        (50, 0, 70, 10),  # half inside: an object, cut
        (40, 0, 70, 10),  # a third inside: a region to ignore
        (10, 0, 60, 10),  # touches only
        (0, 0, 120, 40),  # covers everything: half of it lies here
    ]
    cut = table.cut(sample_of((40, 120), boxes), 0)
    assert cut.boxes.tolist() == [[10, 5, 30, 25], [0, 0, 10, 10], [0, 0, 10, 10], [0, 0, 60, 40]]
    assert cut.is_crowd.tolist() == [False, False, True, False]
    assert cut.labels.tolist() == [0, 1, 2, 4]
    assert np.array_equal(cut.image, sample_of((40, 120), []).image[:, 60:])


def test_crowds_stay_crowds_and_thin_boxes_stay():
    table = TileTable(np.zeros(1, np.int64), np.array([[0, 0, 60, 40]]))
    cut = table.cut(sample_of((40, 120), [(0, 0, 10, 10), (5, 5, 5.5, 9)], [True, False]), 0)
    assert cut.boxes.tolist() == [[0, 0, 10, 10], [5, 5, 5.5, 9]]
    assert cut.is_crowd.tolist() == [True, False]


def test_an_image_that_is_not_cut_is_as_it_was():
    sample = sample_of((40, 120), [(0, 0, 10, 10)])
    assert TileTable(np.zeros(1, np.int64), np.zeros((1, 4), np.int64)).cut(sample, 0) is sample


@pytest.fixture
def gray_steps(tmp_path):
    """Two images of 2 and 3 tiles, each tile in one gray: 10, 20, and 30, 40, 50; a box in the second tile of each."""
    for number, grays in enumerate([(10, 20), (30, 40, 50)]):
        image = np.repeat(np.repeat(np.array(grays, np.uint8), 60)[None, :, None], 40, axis=0)
        Image.fromarray(image.repeat(3, axis=2)).save(tmp_path / f"{number}.png")
    return dataset_of(tmp_path, [(40, 120), (40, 180)], [(0, 70, 10, 20, 20), (1, 70, 10, 20, 20)])


def loader_of(dataset, workers=0):
    augment = AugmentConfig(horizontal_flip=0.0, scale=(1.0, 1.0))
    options = {
        "image_size": (40, 60),
        "batch_size": 1,
        "augment": augment,
        "seed": 0,
        "fill": (0, 0, 0),
        "tiles": TILES,
    }
    return TrainLoader(dataset, workers=workers, **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_epoch_shows_every_tile_once(gray_steps, workers):
    loader = loader_of(gray_steps, workers)
    batches = list(loader.epoch(0))
    assert loader.steps_per_epoch == loader.num_items == 5
    shown = {int(batch.images[0, 0, 0, 0]): batch for batch in batches}
    assert sorted(shown) == [10, 20, 30, 40, 50]
    assert all((batch.images == gray).all() for gray, batch in shown.items())
    assert {gray: batch.targets[0].boxes.tolist() for gray, batch in shown.items()} == {
        gray: [[10, 10, 30, 30]] if gray in (20, 40) else [] for gray in shown
    }
    assert [shown[gray].image_ids[0] for gray in (10, 20, 30)] == [100, 100, 101]


def test_the_tiles_of_an_image_that_cannot_be_read_are_replaced_by_those_of_another(gray_steps):
    gray_steps.path(1).write_bytes(b"broken")
    batches = list(loader_of(gray_steps).epoch(0))
    assert {int(batch.images[0, 0, 0, 0]) for batch in batches} == {10, 20}
    assert {name for batch in batches for name in batch.unreadable} == {str(gray_steps.path(1))}
