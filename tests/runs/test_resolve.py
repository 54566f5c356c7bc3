import numpy as np
import pytest

from effdet.config import Config, ConfigError, DataConfig, ModelConfig, TrainConfig
from effdet.runs.resolve import fit_input, grow_long_side, resolve


class Data:
    """As much of a data set as ``resolve`` looks at."""

    num_classes, annotation_file = 3, "train.json"

    def __init__(self, length):
        self.length = length

    def __len__(self):
        return self.length


@pytest.mark.parametrize(("images", "epochs", "every"), [(10, 300, 30), (205, 25, 2), (4000, 12, 1), (118_000, 12, 1)])
def test_epochs_follow_from_the_number_of_images(images, epochs, every):
    resolved = resolve(Config(), Data(images))
    assert (resolved.train.epochs, resolved.eval.every) == (epochs, every)
    assert resolved.model.num_classes == 3
    assert resolved.data.image_size == (512, 512)  # d0's


def test_what_the_config_says_is_kept():
    config = Config(model=ModelConfig(num_classes=3), data=DataConfig(image_size=(96, 64)), train=TrainConfig(epochs=7))
    resolved = resolve(config, Data(10))
    assert (resolved.train.epochs, resolved.eval.every, resolved.data.image_size) == (7, 1, (96, 64))


def test_a_warm_up_longer_than_the_chosen_epochs_is_refused():
    with pytest.raises(ConfigError, match=r"train\.warmup_epochs must lie in \[0, train\.epochs=12\], got 20"):
        resolve(Config(train=TrainConfig(warmup_epochs=20)), Data(10**6))


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([(480, 640)] * 9 + [(640, 480)], (384, 512)),  # nine in ten lie: their shape, 3:4
        ([(480, 640)] * 8 + [(640, 480)] * 2, (512, 512)),
        ([(640, 480)] * 10, (512, 384)),
        ([(500, 500)] * 10, (512, 512)),
        ([(300, 640)] * 10, (256, 512)),  # 240, up to a multiple of 32
        ([(639, 640)] * 10, (512, 512)),
    ],
)
def test_a_long_side_becomes_an_input_in_the_shape_of_most_images(sizes, expected):
    assert fit_input(512, np.array(sizes)) == expected
    data = Data(len(sizes))
    data.sizes = np.array(sizes)
    assert resolve(Config(data=DataConfig(long_side=512)), data).data.image_size == expected


def boxes_of(side, *, images=4, each=10):
    """As much of a data set as ``grow_long_side`` looks at: square boxes in 640×480 images, the last a huge crowd."""
    data = Data(images)
    data.sizes = np.tile([480, 640], (images, 1))
    data.boxes_xywh = np.tile(np.array([0.0, 0.0, side, side]), (images * each, 1))
    data.is_crowd = np.zeros(images * each, dtype=bool)
    data.boxes_xywh[-1], data.is_crowd[-1] = (0, 0, 640, 480), True
    data.image_of_box = np.repeat(np.arange(images), each)
    return data


@pytest.mark.parametrize(
    ("side", "expected"),
    [(100, 416), (25, 416), (20, 512), (18, 576), (4, 640)],  # 16 px / (20 px of 640) = 512, by hand
)
def test_the_input_grows_until_small_objects_have_sixteen_pixels(side, expected):
    assert grow_long_side(416, 640, boxes_of(side)) == expected


def test_the_input_does_not_grow_for_a_data_set_without_boxes():
    assert grow_long_side(416, 640, empty_data()) == 416


def empty_data():
    data = Data(2)
    data.sizes, data.boxes_xywh = np.tile([480, 640], (2, 1)), np.zeros((0, 4))
    data.is_crowd, data.image_of_box = np.zeros(0, dtype=bool), np.zeros(0, dtype=int)
    return data


@pytest.mark.parametrize(("size", "epochs"), [((320, 416), 49), ((192, 192), 49), ((480, 640), 24), ((448, 448), 32)])
def test_large_inputs_see_fewer_images_but_never_under_five_thousand(size, epochs):
    resolved = resolve(Config(data=DataConfig(image_size=size)), Data(205))
    assert resolved.train.epochs == epochs
