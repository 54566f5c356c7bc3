import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools.coco import COCO

from effdet.data.demo import draw_demo
from effdet.data.shapes import CATEGORIES

ROOT = Path(__file__).resolve().parents[2]
SMALL = {"num_train": 20, "num_val": 8, "image_size": (96, 128)}
DRAW = f"from effdet.data.demo import draw_demo; import sys; draw_demo(sys.argv[1], **{SMALL!r})"


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    root = tmp_path_factory.mktemp("demo")
    assert draw_demo(root, **SMALL) is True
    return root


def contents(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def annotations(root, split):
    return json.loads((root / f"{split}.json").read_text())


def test_the_layout_is_two_annotation_files_and_one_folder(drawn):
    expected = ["train.json", "val.json"]
    expected += [f"images/train_{number:05d}.jpg" for number in range(20)]
    expected += [f"images/val_{number:05d}.jpg" for number in range(8)]
    assert sorted(contents(drawn)) == sorted(expected)


@pytest.mark.parametrize("split", ["train", "val"])
def test_pycocotools_reads_it_and_every_file_has_the_annotated_size(drawn, split):
    coco = COCO(drawn / f"{split}.json")
    for image in coco.loadImgs(coco.getImgIds()):
        pixels = cv2.imread(str(drawn / "images" / image["file_name"]))
        assert pixels.shape == (image["height"], image["width"], 3)
        assert all(96 <= side <= 128 for side in pixels.shape[:2])
        for row in coco.loadAnns(coco.getAnnIds(image["id"])):
            x, y, width, height = row["bbox"]
            assert x >= 0 <= y
            assert x + width <= image["width"]
            assert y + height <= image["height"]
            assert 0 < row["area"] <= width * height


def test_category_ids_have_gaps_and_every_class_is_in_both_splits(drawn):
    assert sorted(CATEGORIES) != list(range(len(CATEGORIES)))
    for split in ("train", "val"):
        content = annotations(drawn, split)
        assert {row["id"]: row["name"] for row in content["categories"]} == CATEGORIES
        assert {row["category_id"] for row in content["annotations"]} == set(CATEGORIES)


def test_one_image_in_fifteen_has_no_boxes(drawn):
    content = annotations(drawn, "train")
    with_boxes = {row["image_id"] for row in content["annotations"]}
    empty = [image["file_name"] for image in content["images"] if image["id"] not in with_boxes]
    assert empty == ["train_00007.jpg"]


def test_ids_and_pictures_of_the_splits_are_different(drawn):
    ids = [{image["id"] for image in annotations(drawn, split)["images"]} for split in ("train", "val")]
    assert ids[0].isdisjoint(ids[1])
    pictures = [data for name, data in contents(drawn).items() if name.endswith(".jpg")]
    assert len(set(pictures)) == len(pictures) == 28


def test_pictures_lie_and_stand_and_shapes_are_small_and_large(tmp_path):
    draw_demo(tmp_path, num_train=40, num_val=1)
    content = annotations(tmp_path, "train")
    assert {image["width"] > image["height"] for image in content["images"]} == {True, False}
    sides = np.sqrt([row["area"] for row in content["annotations"]])
    assert 0.05 < (sides < 32).mean() < 0.4  # COCO's small
    assert (sides > 96).sum() >= 2  # COCO's large


def test_the_same_seed_gives_the_same_bytes(drawn, tmp_path):
    draw_demo(tmp_path, **SMALL)
    assert contents(tmp_path) == contents(drawn)


def test_a_longer_set_begins_with_the_same_pictures(drawn, tmp_path):
    draw_demo(tmp_path, **SMALL | {"num_train": 21})
    for name in ("images/train_00000.jpg", "images/val_00007.jpg"):
        assert contents(tmp_path)[name] == contents(drawn)[name]


def test_a_complete_set_is_left_alone(drawn):
    before = {path: path.stat().st_mtime_ns for path in drawn.rglob("*")}
    assert draw_demo(drawn, **SMALL) is False
    assert {path: path.stat().st_mtime_ns for path in drawn.rglob("*")} == before


def test_other_arguments_replace_the_set_and_leave_nothing_of_it(tmp_path):
    draw_demo(tmp_path, **SMALL)
    first = contents(tmp_path)
    assert draw_demo(tmp_path, **SMALL | {"num_train": 15, "seed": 1}) is True
    second = contents(tmp_path)
    assert "images/train_00015.jpg" in first
    assert "images/train_00015.jpg" not in second
    assert first["images/train_00000.jpg"] != second["images/train_00000.jpg"]


@pytest.mark.parametrize("lost", ["images/train_00003.jpg", "val.json"])
def test_a_set_that_lost_a_file_is_drawn_again(drawn, tmp_path, lost):
    draw_demo(tmp_path, **SMALL)
    (tmp_path / lost).unlink()
    assert draw_demo(tmp_path, **SMALL) is True
    assert contents(tmp_path) == contents(drawn)


def test_a_drawing_that_was_killed_is_completed_by_the_next(drawn, tmp_path):
    process = subprocess.Popen([sys.executable, "-c", DRAW, str(tmp_path)], cwd=ROOT)
    while not (tmp_path / "images" / "train_00004.jpg").exists():
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "val.json").exists()

    draw_demo(tmp_path, **SMALL)
    kept = {name: data for name, data in contents(tmp_path).items() if not Path(name).name.startswith(".")}
    assert kept == contents(drawn)


def test_two_processes_may_draw_the_same_set_at_once(drawn, tmp_path):
    processes = [subprocess.Popen([sys.executable, "-c", DRAW, str(tmp_path)], cwd=ROOT) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert contents(tmp_path) == contents(drawn)


@pytest.mark.parametrize("text", ['{"images": [], "info": {}}', "[]", "not JSON"])
def test_another_data_set_is_not_overwritten(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    with pytest.raises(ValueError, match=r"train\.json is not of a demo set and will not be overwritten"):
        draw_demo(tmp_path, **SMALL)
    assert os.listdir(tmp_path) == ["train.json"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_train": 0}, "num_train must be 1 or more, got 0"),
        ({"num_val": -1}, "num_val must be 1 or more, got -1"),
        ({"seed": -1}, "seed must be 0 or more, got -1"),
        ({"image_size": (300, 200)}, r"64 <= shortest <= longest, got \(300, 200\)"),
        ({"image_size": (32, 200)}, r"64 <= shortest <= longest, got \(32, 200\)"),
    ],
)
def test_arguments_out_of_range_are_refused(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        draw_demo(tmp_path, **SMALL | change)
