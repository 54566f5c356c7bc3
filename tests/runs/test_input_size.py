"""The network input follows from the photos and their boxes."""

import logging
import math

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from effdet.config import load_config
from effdet.ops.anchors import level_sizes, make_anchors
from effdet.runs.data import read_data
from effdet.runs.input_report import input_line, log_input
from effdet.runs.input_size import InputFit, Objects, choose_input, fit_input, fit_of, network_of
from effdet.runs.resolve import resolve


class Photos:
    """As much of a data set as is looked at: square boxes of one side in photos of several sizes, and crowds."""

    num_classes, annotation_file = 1, "train.json"

    def __init__(self, *groups, side=50, each=4):
        """Take (count, height, width) of each group of photos."""
        rng = np.random.default_rng(0)
        self.sizes = np.array([size for count, *size in groups for _ in range(count)])
        sides = np.where(np.arange(each * len(self.sizes)) % each, side, np.resize(side, 1))
        self.image_of_box = np.repeat(np.arange(len(self.sizes)), each)
        places = rng.uniform(0, 1, (len(sides), 2)) * (self.sizes[self.image_of_box][:, ::-1] - side)
        self.boxes_xywh = np.concatenate([places, sides[:, None], sides[:, None]], axis=1)
        self.is_crowd = np.zeros(len(sides), dtype=bool)

    def __len__(self):
        return len(self.sizes)


def config(*overrides, name="lite0"):
    return load_config("custom", [f"model.name={name}", "model.backbone_weights=null", *overrides])


NETWORK = network_of(config(), (416, 416))


def chosen(data, *, long_side=416, limit=640, network=NETWORK):
    return choose_input(long_side, limit, Objects.of(data), network)


def fit(data, image_size, network=NETWORK):
    return fit_of(image_size, Objects.of(data), network)


@pytest.mark.parametrize("wide", [45, 50, 55])  # of a hundred photos, so that the median shape is either one
@pytest.mark.parametrize("side", [40, 54])  # pixels of photos of 1,920: 13 and 18 of an input of 640
def test_wide_photos_do_not_decide_alone_where_others_are_higher(wide, side):
    """In 192×640, the input of the wide ones, boxes of the others are half as large, and no anchor reaches them."""
    data = Photos((wide, 480, 1920), (100 - wide, 1080, 1920), side=side)
    image_size = chosen(data)
    assert image_size[1] >= 576
    assert image_size[0] >= 320
    now, before = fit(data, image_size), fit(data, (192, 640))
    assert now.small > 1.7 * before.small
    assert now.reached >= before.reached


def test_where_nearly_all_photos_are_wide_the_input_is_wide():
    assert chosen(Photos((98, 480, 1920), (2, 1080, 1920), side=100)) == (128, 416)


@pytest.mark.parametrize(
    ("groups", "side", "expected"),
    [
        ([(9, 480, 640), (9, 640, 480)], 100, (416, 416)),  # lying and standing ones
        ([(9, 640, 480)], 100, (416, 320)),
        ([(9, 500, 500)], 100, (416, 416)),
        ([(1, 1200, 1600)], 300, (320, 416)),
        ([(9, 500, 4000)], 240, (64, 416)),  # panoramas: 4,000 pixels become 416, 500 become 52
        ([(9, 480, 640)], 470, (320, 416)),  # huge objects save nothing that photos need
        ([(9, 1080, 1920)], 8, (384, 640)),  # tiny ones: as far as it may grow
        ([(19, 480, 640), (1, 640, 480)], 100, (320, 416)),  # one photo in twenty is shown smaller
    ],
)
def test_inputs_of_common_sets(groups, side, expected):
    assert chosen(Photos(*groups, side=side)) == expected


def test_the_input_only_grows_as_far_as_it_may():
    data = Photos((9, 480, 640), side=8)
    for limit in (416, 480, 800):
        assert max(chosen(data, limit=limit)) == limit
    assert max(chosen(data, limit=None)) == 416
    reached = 24 * math.sqrt(0.5)  # pixels, by the smallest anchor
    assert reached < 8 * max(chosen(data, limit=4096)) / 640 < 1.1 * reached


def test_the_input_grows_until_an_anchor_reaches_the_boxes():
    """d0's smallest anchor is 32 pixels large and reaches boxes of 32·√½; lite0's is 24 pixels large."""
    data = Photos((9, 480, 640), side=25)
    small, large = chosen(data), chosen(data, network=network_of(config(name="d0"), (416, 416)))
    assert 24 * math.sqrt(0.5) < 25 * small[1] / 640 < 24
    assert 32 * math.sqrt(0.5) < 25 * large[1] / 640 < 32


def test_smaller_anchors_need_a_smaller_input():
    data = Photos((9, 480, 640), side=25)
    large, small = (config(f"model.architecture.anchor_scale={scale}") for scale in (4, 2))
    assert chosen(data, network=network_of(large, (416, 416)))[1] >= 576
    assert chosen(data, network=network_of(small, (416, 416)))[1] <= 448


def test_a_box_on_every_photo_counts_as_much_as_the_photos_have():
    """Lying photos have nine boxes in ten, so the standing ones are shown smaller."""
    data = Photos((50, 480, 640), (50, 640, 480), side=100)
    keep = np.flatnonzero((data.image_of_box < 50) | (np.arange(len(data.image_of_box)) % 20 == 0))
    for name in ("boxes_xywh", "image_of_box", "is_crowd"):
        setattr(data, name, getattr(data, name)[keep])
    assert chosen(data) == (320, 416)


def test_crowds_and_boxes_without_area_do_not_count():
    data = Photos((9, 480, 640), side=100)
    crowds, empty = data.boxes_xywh.copy(), data.boxes_xywh.copy()
    crowds[:, 2:], empty[:, 2:] = 5, 0
    data.boxes_xywh = np.concatenate([data.boxes_xywh, crowds, empty])
    data.is_crowd = np.repeat([False, True, False], len(crowds))
    data.image_of_box = np.tile(data.image_of_box, 3)
    assert fit(data, (320, 416)).num_boxes == len(crowds)
    assert chosen(data) == (320, 416)


def test_photos_without_boxes_or_sizes_have_an_input():
    assert chosen(Photos((9, 480, 640), each=0)) == (320, 416)
    assert chosen(Photos((9, 0, 0), each=0)) == (416, 416)
    assert math.isnan(fit(Photos((9, 480, 640), each=0), (320, 416)).reached)


def test_stretched_photos_are_measured_as_they_are_shown():
    network = network_of(config("data.resize=stretch"), (416, 416))
    found = fit(Photos((9, 480, 640), side=64), (240, 640), network)
    assert (found.small, found.padding) == pytest.approx((64 * math.sqrt(0.5), 0.0))
    assert chosen(Photos((9, 480, 640), side=100), network=network) == (320, 416)


def test_what_becomes_of_the_boxes_is_what_a_literal_letterbox_and_all_anchors_say():
    data = Photos((5, 480, 1920), (7, 1080, 1920), side=60)
    data.boxes_xywh[:, 2] *= np.random.default_rng(1).uniform(0.3, 3, len(data.boxes_xywh))
    found = fit(data, (320, 640))
    anchors = make_anchors((320, 640), level_sizes((320, 640)), scale=3.0)
    sides, reached = [], []
    for (x, y, width, height), image in zip(data.boxes_xywh, data.image_of_box, strict=True):
        scale = min(320 / data.sizes[image][0], 640 / data.sizes[image][1])
        right, bottom = min(x + width, 1920), min(y + height, data.sizes[image][0])
        box = torch.tensor([[x * scale, y * scale, right * scale, bottom * scale]])
        sides.append(math.sqrt((right - x) * (bottom - y)) * scale)
        reached.append(bool(box_iou(box.float(), anchors).max() >= 0.5))
    assert found.small == pytest.approx(np.quantile(sides, 0.1))
    assert found.reached == pytest.approx(np.mean(reached))
    assert found.padding == pytest.approx(1 - (5 * 160 * 640 + 7 * 320 * 320 * 16 / 9) / 12 / (320 * 640))


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


@pytest.mark.parametrize(("name", "expected"), [("bccd", (320, 416)), ("coco_open", (416, 416))])
def test_inputs_of_real_photos(photo_sets, name, expected):
    settings = config(f"data.root={photo_sets / name}")
    image_size = resolve(settings, read_data(settings.data)[0]).data.image_size
    assert image_size == expected


@pytest.mark.outside
@pytest.mark.parametrize(
    ("name", "expected"),
    [("microcontroller", (320, 416)), ("foosball", (352, 640)), ("deeppcb", (416, 416)), ("coco_open", (416, 608))],
)
def test_inputs_of_real_sets(shared_data, name, expected):
    settings = config(f"data.root={shared_data / name}")
    assert resolve(settings, read_data(settings.data)[0]).data.image_size == expected


def test_a_training_says_its_input_and_that_most_boxes_match_no_anchor(caplog):
    data = Photos((50, 480, 1920), (50, 1080, 1920), side=40)
    asked = config()
    with caplog.at_level(logging.INFO):
        log_input(asked, resolve(asked, data), data)
    line, warning = caplog.messages
    assert line.startswith("input 384×640 (height×width), chosen for the photos and their boxes: 32% of it is padding")
    assert "nine boxes in ten are at least 13 pixels large, 0% match an anchor" in line
    assert warning.startswith("most boxes (100%) match no anchor with IoU 0.5, so AP will be low: ")
    assert "model.architecture.anchor_scale=" in warning
    assert "data.tiles=auto shows nine boxes in ten at 32 pixels or more" in warning
    better = config(warning.split(": ")[1].split(" ")[0])
    assert fit(data, (384, 640), network_of(better, (384, 640))).reached > 0.7


def test_an_input_of_the_config_and_one_of_tiles_are_called_so(caplog):
    data = Photos((9, 480, 640), side=100)
    for overrides in (
        ["data.long_side=null", "data.max_long_side=null", "data.image_size=[256,256]"],
        ["data.tiles=240"],
    ):
        asked = config(*overrides)
        with caplog.at_level(logging.INFO):
            log_input(asked, resolve(asked, data), data)
    assert [line.split(":")[0] for line in caplog.messages] == [
        "input 256×256 (height×width), as the config says",
        "input 416×416 (height×width), chosen for the tiles and their boxes",
    ]


def test_without_boxes_only_the_padding_is_told():
    line = input_line(InputFit((320, 416), 0, math.nan, math.nan, 0.25), chosen=True)
    assert line == "input 320×416 (height×width), chosen for the photos and their boxes: 25% of it is padding"


def test_a_million_photos_are_looked_at_as_a_whole():
    """No loop over images or boxes: the data is drawn from, so that the choice is that of a thousandth of it."""
    data = Photos((500, 480, 1920), (500, 1080, 1920), side=54)
    large = Photos((1, 10, 10), side=5)
    large.sizes = np.tile(data.sizes, (1000, 1))
    large.boxes_xywh, large.is_crowd = np.tile(data.boxes_xywh, (1000, 1)), np.tile(data.is_crowd, 1000)
    large.image_of_box = (np.arange(1000)[:, None] * 1000 + data.image_of_box).ravel()
    assert len(Objects.of(large).boxes) <= 4000
    assert chosen(large) == chosen(data)
