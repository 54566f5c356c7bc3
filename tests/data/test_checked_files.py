import json
import os

import pytest
from PIL import Image

from effdet.data import unreadable_images
from effdet.data.formats.coco import read_coco
from effdet.data.unreadable_images import drop_unreadable


@pytest.fixture
def large(tmp_path, monkeypatch):
    """Return a function that reads a set of 40 images anew, which counts as large, and a list of what is looked at."""
    monkeypatch.setattr(unreadable_images, "DECODE_ALL_UP_TO", 10)
    monkeypatch.setattr(unreadable_images, "SAMPLE_SIZE", 5)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    looked_at = []
    look = unreadable_images._looks_whole

    def looking(image):
        looked_at.append(image.path.name)
        return look(image)

    monkeypatch.setattr(unreadable_images, "_looks_whole", looking)
    images = [{"id": n, "file_name": f"{n:03}.jpg", "width": 16, "height": 12} for n in range(40)]
    boxes = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n % 8, 0, 4, 4]} for n in range(1, 40)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    for number, image in enumerate(images):
        Image.new("RGB", (16, 12), (number, 0, 0)).save(tmp_path / image["file_name"])
        os.utime(tmp_path / image["file_name"], (1e9, 1e9))
    return lambda: drop_unreadable(read_coco(tmp_path / "a.json", tmp_path)), looked_at


def test_only_files_that_changed_are_looked_at_again(large, tmp_path):
    check, looked_at = large
    assert check()[1] == []
    assert sorted(looked_at) == [f"{n:03}.jpg" for n in range(40)]
    looked_at.clear()
    assert check()[1] == []
    assert looked_at == []
    os.utime(tmp_path / "007.jpg", (1.1e9, 1.1e9))
    (tmp_path / "009.jpg").write_bytes((tmp_path / "009.jpg").read_bytes()[:-20])
    dataset, problems = check()
    assert sorted(looked_at) == ["007.jpg", "009.jpg"]
    assert [os.path.basename(problem.split(":")[0]) for problem in problems] == ["009.jpg"]
    assert len(dataset) == 39


def test_bad_files_are_looked_at_until_they_are_good(large, tmp_path):
    check, looked_at = large
    good = (tmp_path / "003.jpg").read_bytes()
    (tmp_path / "003.jpg").write_bytes(good[:-20])
    os.utime(tmp_path / "003.jpg", (1e9, 1e9))
    assert len(check()[1]) == len(check()[1]) == 1
    assert looked_at.count("003.jpg") == 2
    (tmp_path / "003.jpg").write_bytes(good)
    assert check()[1] == []


def test_a_file_that_was_changed_just_now_is_not_remembered(large, tmp_path):
    check, looked_at = large
    os.utime(tmp_path / "003.jpg")
    check()
    looked_at.clear()
    check()
    assert looked_at == ["003.jpg"]


@pytest.mark.parametrize("damage", ["", "effdet arrays 1\n", "x" * 5000])
def test_a_damaged_memory_is_as_none(large, tmp_path, damage):
    check, looked_at = large
    check()
    for file in (tmp_path / "cache" / "effdet" / "datasets").glob("*.checked"):
        file.write_text(damage)
    looked_at.clear()
    assert check()[1] == []
    assert len(looked_at) == 40
