"""Which tiles follow from the size of objects."""

import numpy as np
import pytest

from effdet.config import Config, ConfigError, DataConfig, load_config
from effdet.detector.views import PLAIN, Views
from effdet.images.preprocessing import Preprocessing
from effdet.ops.tiles import Tiles
from effdet.runs.resolve import resolve
from effdet.runs.training_tiles import auto_tiles, tiles_like_training, tiles_of, validation_views


class Data:
    """As much of a data set as is looked at: square boxes in images of one size, and a crowd that fills an image."""

    num_classes, annotation_file = 3, "train.json"

    def __init__(self, side, size=(3000, 4000), images=4, each=10):
        self.sizes = np.tile(size, (images, 1))
        self.boxes_xywh = np.tile(np.array([5.0, 5.0, side, side]), (images * each, 1))
        self.is_crowd = np.zeros(images * each, dtype=bool)
        if each:
            self.boxes_xywh[-1], self.is_crowd[-1] = (0, 0, size[1], size[0]), True
        self.image_of_box = np.repeat(np.arange(images), each)

    def __len__(self):
        return len(self.sizes)


@pytest.mark.parametrize(
    ("side", "expected"),
    [
        (64, Tiles(size=(640, 832), overlap=0.1)),  # 64 pixels become 32: factor 2; 64 / 640 = 0.1
        (16, Tiles(size=(160, 208), overlap=0.1)),  # small objects are enlarged
        (2000, None),  # 62 times 320 × 416: the whole image fits
    ],
)
def test_auto_tiles_show_objects_at_32_pixels(side, expected):
    assert auto_tiles((320, 416), Data(side)) == expected


def test_auto_tiles_hold_large_objects_beside_small_ones():
    """A tenth and more are 20 pixels large, nine in ten 300: tiles of 600 pixels, half of which overlaps."""
    data = Data(300)
    data.boxes_xywh[:8, 2:] = 20
    assert auto_tiles((320, 416), data) == Tiles(size=(600, 780), overlap=0.5)


def test_without_boxes_there_are_no_auto_tiles():
    data = Data(10, each=0)
    assert auto_tiles((320, 416), data) is None
    assert tiles_like_training((320, 416), Preprocessing(), data) is None


def test_tiles_like_training_have_the_size_of_the_photos():
    """480 × 640 photos fit into 320 × 416 by the factor 0.65; a tile of 492 × 640 has it too."""
    assert tiles_like_training((320, 416), Preprocessing(), Data(64, (480, 640))) == Tiles(
        size=(492, 640), overlap=0.13
    )
    stretched = tiles_like_training((320, 416), Preprocessing(fit="stretch"), Data(64, (480, 640)))
    assert stretched == Tiles(size=(480, 640), overlap=0.133)


def test_a_config_gets_numbers_in_place_of_auto():
    config = Config(data=DataConfig(image_size=(320, 416), tiles="auto"))
    resolved = resolve(config, Data(64))
    assert (resolved.data.tiles, resolved.data.tile_overlap) == ([640, 832], 0.1)
    assert tiles_of(resolved.data) == Tiles(size=(640, 832), overlap=0.1)
    assert validation_views(resolved.data) == Views(tiles=(640, 832), overlap=0.1)
    kept = resolve(Config(data=DataConfig(image_size=(320, 416), tiles="auto", tile_overlap=0.4)), Data(64))
    assert kept.data.tile_overlap == 0.4
    whole = resolve(config, Data(2000)).data
    assert (whole.tiles, whole.tile_overlap, tiles_of(whole), validation_views(whole)) == (None, None, None, PLAIN)


def test_epochs_count_tiles():
    """4 images of 3000 × 4000 are 4 · 48 tiles of 640 pixels: 10,000 / 192 epochs."""
    resolved = resolve(Config(data=DataConfig(image_size=(320, 320), tiles=640)), Data(64))
    assert tiles_of(resolved.data) == Tiles(size=(640, 640), overlap=0.2)
    assert resolved.train.epochs == round(10_000 / (4 * 6 * 8))


def test_the_long_side_follows_from_tiles():
    """Objects of 20 pixels in tiles of 640 need an input of 512 pixels; in the whole photo, 3,200."""
    data = DataConfig(long_side=416, max_long_side=640, tiles=[480, 640])
    assert resolve(Config(data=data), Data(20)).data.image_size == (384, 512)
    auto = DataConfig(long_side=416, max_long_side=640, tiles="auto")
    assert resolve(Config(data=auto), Data(20)).data.image_size == (320, 416)  # the tiles are small instead


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"tiles": 0}, r"data.tiles must be a side, \[height, width\], auto or null, got 0"),
        ({"tiles": "big"}, "data.tiles must be a side, .*, got big"),
        ({"tiles": [640, 640, 3]}, r"data.tiles must be .*, got \[640, 640, 3\]"),
        ({"tiles": [640.5, 640]}, r"data.tiles must be .*, got \[640.5, 640\]"),
        ({"tiles": True}, "data.tiles must be .*, got True"),
        (
            {"tile_overlap": 0.2},
            "data.tile_overlap must .* be null where data.tiles is null, got 0.2",
        ),
        ({"tiles": 640, "tile_overlap": 1}, r"data.tile_overlap must lie in \[0, 0.9\], .* got 1"),
    ],
)
def test_config_values_that_cannot_be(values, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**values)


def test_a_config_file_takes_all_forms(tmp_path):
    (tmp_path / "run.yaml").write_text("data: {tiles: [300, 400], tile_overlap: 0.3}")
    assert tiles_of(load_config(tmp_path / "run.yaml").data) == Tiles(size=(300, 400), overlap=0.3)
    assert tiles_of(load_config(tmp_path / "run.yaml", ["data.tiles=640"]).data) == Tiles(size=(640, 640), overlap=0.3)
    assert load_config(tmp_path / "run.yaml", ["data.tiles=auto"]).data.tiles == "auto"
