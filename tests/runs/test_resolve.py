import pytest

from effdet.config import Config, ConfigError, DataConfig, ModelConfig, TrainConfig
from effdet.runs.resolve import resolve


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


@pytest.mark.parametrize(("size", "epochs"), [((320, 416), 49), ((192, 192), 49), ((480, 640), 24), ((448, 448), 32)])
def test_large_inputs_see_fewer_images_but_never_under_five_thousand(size, epochs):
    resolved = resolve(Config(data=DataConfig(image_size=size)), Data(205))
    assert resolved.train.epochs == epochs
