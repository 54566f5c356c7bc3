"""Cleaned copies: whole sets that were wrong in one way become what they were before."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from effdet.data.conversion import convert
from effdet.data.findings import DataError
from effdet.data.formats import read_parts
from effdet.runs.check_data import check_data, clean_data


def change(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


@pytest.fixture
def photos(photo_sets, tmp_path):
    root = shutil.copytree(photo_sets / "bccd", tmp_path / "bccd")
    drawn_twice = 194  # with a pixel between
    change(
        root / "train.json",
        lambda content: content.update(annotations=[row for row in content["annotations"] if row["id"] != drawn_twice]),
    )
    return root


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for part, dataset in found.items():
        assert dataset.names.tolist() == expected[part].names.tolist()
        assert dataset.class_names == expected[part].class_names
        np.testing.assert_array_equal(dataset.labels, expected[part].labels)
        np.testing.assert_allclose(dataset.boxes_xywh, expected[part].boxes_xywh, atol=1e-9)


def test_a_clean_set_stays_what_it_is(photos, tmp_path):
    done = clean_data(photos, tmp_path / "fixed")
    assert done.changes == ()
    assert_same(read_parts(tmp_path / "fixed"), read_parts(photos))


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x, y, w, h: [x, y, x + w, y + h],
        lambda x, y, w, h: [x / 640, y / 480, w / 640, h / 480],
        lambda x, y, w, h: [x + w / 2, y + h / 2, w, h],
        lambda x, y, w, h: [y, x, h, w],
    ],
    ids=["corners", "parts", "centres", "exchanged"],
)
def test_boxes_of_another_unit_or_order_become_right(photos, tmp_path, wrong):
    expected = read_parts(photos)
    for part in ("train", "val"):
        change(
            photos / f"{part}.json",
            lambda content: [row.update(bbox=wrong(*row["bbox"])) for row in content["annotations"]],
        )
    clean_data(photos, tmp_path / "fixed")
    assert_same(read_parts(tmp_path / "fixed"), expected)
    assert check_data(tmp_path / "fixed", quick=True).has_errors is False


def test_boxes_of_resized_images_are_scaled(photos, tmp_path):
    for file in (photos / "images").iterdir():
        Image.open(file).resize((320, 240)).save(file)
    expected = read_parts(photos)
    clean_data(photos, tmp_path / "fixed")
    for part, dataset in read_parts(tmp_path / "fixed").items():
        np.testing.assert_allclose(dataset.boxes_xywh, expected[part].boxes_xywh / 2)
        assert set(map(tuple, dataset.sizes.tolist())) == {(240, 320)}
        dataset.read(0)


def test_a_part_without_a_box_is_left_out_but_train_must_have_one(photos, tmp_path):
    change(photos / "val.json", lambda content: content.update(annotations=[]))
    done = clean_data(photos, tmp_path / "fixed")
    assert [str(found) for found in done.changes] == [
        "the copy has no part val, as no box of it is left; divide train with effdet data split"
    ]
    assert set(read_parts(tmp_path / "fixed")) == {"train"}
    change(photos / "train.json", lambda content: content.update(annotations=[]))
    with pytest.raises(DataError, match=r"train.json: a cleaned copy must have a box, but none is left"):
        clean_data(photos, tmp_path / "again")


def test_of_two_equal_parts_train_stays(photos, tmp_path):
    shutil.copy(photos / "train.json", photos / "val.json")
    clean_data(photos, tmp_path / "fixed")
    assert set(read_parts(tmp_path / "fixed")) == {"train"}


def test_a_folder_that_holds_something_is_left_alone(photos, tmp_path):
    (tmp_path / "fixed").mkdir()
    (tmp_path / "fixed" / "mine.txt").write_text("mine")
    with pytest.raises(DataError, match=r"must be a new or an empty folder"):
        clean_data(photos, tmp_path / "fixed")
    assert [path.name for path in (tmp_path / "fixed").iterdir()] == ["mine.txt"]


def test_files_of_the_copy_are_not_links(photos, tmp_path):
    clean_data(photos, tmp_path / "fixed")
    for file in (tmp_path / "fixed" / "images").iterdir():
        assert file.stat().st_nlink == 1


def test_images_of_shards_become_files(photos, tmp_path):
    convert(photos, tmp_path / "shards", to="shards")
    done = clean_data(tmp_path / "shards", tmp_path / "fixed")
    assert (done.format, done.changes) == ("coco", ())
    fixed = read_parts(tmp_path / "fixed")
    assert fixed["train"].names[0].startswith("train-000000/")
    for part, dataset in read_parts(photos).items():
        np.testing.assert_array_equal(fixed[part].boxes_xywh, dataset.boxes_xywh)
        np.testing.assert_array_equal(fixed[part].read(0), dataset.read(0))
