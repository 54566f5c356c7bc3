"""Pictures of a data set: the contact sheet, the plots and the page."""

import io
import shutil
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from effdet.config import AugmentConfig
from effdet.data.doctor.anchor_fit import Network
from effdet.data.findings import DataError
from effdet.data.formats import read_parts
from effdet.data.show import plots
from effdet.data.show.contact_sheet import COLUMNS, Augmentation, contact_rows, draw_contact_sheet
from effdet.data.show.page import make_page
from effdet.models.architecture import EXACT_RATIOS

PLAIN = Augmentation(AugmentConfig(horizontal_flip=0.0, scale=(1.0, 1.0)), (96, 128), (1, 2, 3))


@pytest.fixture(scope="module")
def parts(photo_sets):
    return read_parts(photo_sets / "bccd")


def without_boxes(dataset):
    nothing = np.zeros(0, np.int64)
    return replace(
        dataset,
        boxes_xywh=np.zeros((0, 4)),
        labels=nothing,
        is_crowd=np.zeros(0, bool),
        areas=np.zeros(0),
        annotation_ids=nothing,
        offsets=np.zeros(len(dataset) + 1, np.int64),
    )


def test_a_row_has_the_image_itself_and_its_augmented_forms(parts):
    train = without_boxes(parts["train"])
    (row,) = contact_rows(train, PLAIN, 1, width=128)
    assert row.name == train.names[0]
    assert len(row.pictures) == len(COLUMNS)
    whole = np.array(Image.fromarray(train.read(0)).resize((128, 96), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(row.pictures[0], whole)
    for picture in row.pictures[1:3]:  # flipped and scaled by nothing: the same but for the way of resizing
        assert np.abs(picture.astype(int) - whole).mean() < 5
    for picture in row.pictures[3:]:  # four images, and two
        assert np.abs(picture.astype(int) - whole).mean() > 6


def test_boxes_are_drawn_where_they_are(parts):
    train = parts["train"]
    (row,) = contact_rows(train, PLAIN, 1, width=640)
    plain = contact_rows(without_boxes(train), PLAIN, 1, width=640)[0].pictures[0]
    changed = (row.pictures[0] != plain).any(axis=2)
    left, top, right, bottom = train.annotations(0).boxes[0].round().astype(int)
    assert changed[top : bottom - 1, left].all()
    assert changed[min(bottom, len(changed)) - 1, left : right - 1].all()
    assert 0.01 < changed.mean() < 0.5


def test_the_same_seed_draws_the_same_sheet_and_images_are_spread(parts):
    sheets = [draw_contact_sheet(contact_rows(parts["train"], PLAIN, 3, width=64)) for _ in range(2)]
    np.testing.assert_array_equal(*sheets)
    names = [row.name for row in contact_rows(parts["train"], PLAIN, 3, width=64)]
    places = [parts["train"].names.tolist().index(name) for name in names]
    assert places[0] == 0
    assert places == sorted(places)
    assert places[2] >= 2 * len(parts["train"]) // 3


def test_images_that_cannot_be_read_are_not_shown(photo_sets, tmp_path):
    root = shutil.copytree(photo_sets / "bccd", tmp_path / "bccd")
    train = read_parts(root)["train"]
    train.path(0).write_bytes(b"no image")
    rows = contact_rows(train, PLAIN, 2, width=64)
    assert rows[0].name == train.names[1]
    for index in range(len(train)):
        train.path(index).write_bytes(b"no image")
    with pytest.raises(DataError, match=r"train.json: must have an image that can be read, got none"):
        contact_rows(train, PLAIN, 2)


def test_the_map_of_places_counts_boxes(parts):
    found = plots._coverage(parts["val"])
    expected = np.zeros((64, 64))
    for index in range(len(parts["val"])):
        height, width = parts["val"].sizes[index]
        for left, top, right, bottom in parts["val"].annotations(index).boxes.astype(float):
            x1, x2 = int(np.floor(left / width * 64)), int(np.ceil(right / width * 64))
            y1, y2 = int(np.floor(top / height * 64)), int(np.ceil(bottom / height * 64))
            expected[y1:y2, x1:x2] += 1
    np.testing.assert_array_equal(found, expected)


def test_all_plots_are_drawn_also_without_boxes(photo_sets):
    parts = read_parts(photo_sets / "coco_open")  # of more classes than have a bar of their own
    network = Network(name="a network", image_size=(320, 416), aspect_ratios=EXACT_RATIOS)
    figure = plots.plot_boxes(parts, network)
    titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
    assert len(titles) == 6
    counts = [bar.get_width() for bar in figure.axes[0].patches]
    assert sum(counts) == sum(len(dataset.labels) for dataset in parts.values())
    figure.savefig(io.BytesIO(), format="png")
    plots.plot_boxes({"train": without_boxes(parts["train"])}, network).savefig(io.BytesIO(), format="png")


class Tags(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.sources, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.sources += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(parts):
    train = replace(parts["train"], class_names=("<b>", "R&D", "WBC"))
    rows = contact_rows(train, PLAIN, 2, width=64)
    page = make_page("a <set>", {"train": train}, rows, b"png", "about & more")
    tags = Tags(page)
    assert tags.open == []
    assert len(tags.sources) == 1 + 2 * len(COLUMNS)
    assert all(source.startswith("data:image/") for source in tags.sources)
    assert "<h1>a &lt;set&gt;</h1>" in page
    assert "&lt;b&gt;" in page
    assert "R&amp;D" in page
