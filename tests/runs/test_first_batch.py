"""The picture of the first batch shows what the network receives."""

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.config import load_config
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.first_batch import draw_first_batch
from effdet.runs.train import train
from effdet.structures import Batch, Target
from effdet.visualize import class_color


def batch_of(count, size=(96, 128), content=(96, 64), channels=3):
    rng = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, channels, 96, 32), dtype=torch.uint8, generator=rng)
    images = images.repeat(1, 1, -(-size[0] // 96), -(-size[1] // 32))[..., : size[0], : size[1]]
    return Batch(
        images=images,
        content_sizes=torch.tensor([content] * count),
        scales=torch.ones(count, 2),
        original_sizes=torch.tensor([size] * count),
        image_ids=tuple(range(count)),
        targets=[Target(torch.tensor([[8.0, 16, 40, 60]]), torch.tensor([1])) for _ in range(count)],
    )


@pytest.fixture(scope="module")
def model():
    return EfficientDet("lite0", num_classes=2, class_names=("a", "b"))


def picture_of(tmp_path, model, batch):
    draw_first_batch(tmp_path / "first.png", model, batch)
    with Image.open(tmp_path / "first.png") as picture:
        return np.array(picture)


def test_the_levels_are_those_of_the_batch_and_the_padding_has_the_mean_colour(tmp_path, model):
    batch = batch_of(3)
    found = picture_of(tmp_path, model, batch)
    assert found.shape == (2 * 96, 2 * 128, 3)  # two by two
    images = batch.images.permute(0, 2, 3, 1).numpy()
    np.testing.assert_array_equal(found[64:96, :64], images[0, 64:96, :64])  # beside the box
    np.testing.assert_array_equal(found[96 + 64 :, :64], images[2, 64:96, :64])
    assert (found[:96, 64:128] == 127).all()  # lite0's mean
    assert (found[96:, 128:] == 255).all()  # there is no fourth image


def test_boxes_lie_where_the_targets_say_in_the_colour_of_their_class(tmp_path, model):
    found = picture_of(tmp_path, model, batch_of(1))
    assert (found[30:59, 8] == class_color(1)).all()
    assert (found[30:59, 39] == class_color(1)).all()
    assert (found[30:59, 60] != class_color(1)).any()


def test_crowds_have_a_colour_of_their_own(tmp_path, model):
    batch = batch_of(1)
    crowd = torch.tensor([[70.0, 20, 90, 80]])
    batch.targets[0] = Target(batch.targets[0].boxes, batch.targets[0].classes, crowd)
    plain, found = picture_of(tmp_path, model, batch_of(1)), picture_of(tmp_path, model, batch)
    assert (found[40:79, 70] == class_color(2)).all()
    assert (found[:, :64] == plain[:, :64]).all()


def test_at_most_sixteen_images_and_few_large_ones_are_drawn(tmp_path, model):
    assert picture_of(tmp_path, model, batch_of(20, (32, 32), (32, 32))).shape == (4 * 32, 4 * 32, 3)
    assert picture_of(tmp_path, model, batch_of(5, (1280, 96), (1280, 96))).shape == (2 * 1280, 3 * 96, 3)
    assert picture_of(tmp_path, model, batch_of(2, (2700, 32), (9, 9))).shape == (2700, 2 * 32, 3)


def test_images_without_colours_are_drawn_gray(tmp_path):
    model = EfficientDet("lite0", num_classes=2)
    model.mean, model.std = torch.tensor([50.0]), torch.tensor([20.0])
    batch = batch_of(1, channels=1)
    found = picture_of(tmp_path, model, batch)
    np.testing.assert_array_equal(found[64:96, :64], np.repeat(batch.images[0, 0, 64:96, :64, None].numpy(), 3, axis=2))


@pytest.mark.slow
def test_a_run_draws_its_first_batch(tmp_path, demo_root):
    config = tmp_path / "tiny.yaml"
    config.write_text(
        f"model: {{name: lite0}}\n"
        f"data: {{root: {demo_root}, image_size: [64, 64], workers: 0, max_train_images: 4, max_val_images: 2,\n"
        f"       augment: {{scale: [0.5, 1.5]}}}}\n"
        f"train: {{epochs: 1, batch_size: 2}}\n"
        f"run: {{dir: {tmp_path / 'runs'}, device: cpu, threads: 1, report: false}}\n"
    )
    run = train(load_config(config))
    with Image.open(run.folder / "first_batch.png") as first:
        assert first.size == (128, 64)
