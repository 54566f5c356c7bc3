"""Names of images that lead out of a data set, or that no file can have: the doctor and training say the same."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.data.doctor.examination import examine
from effdet.data.findings import DataError, FindingList
from effdet.data.formats import find_dataset
from effdet.data.formats.finding import find_data
from effdet.data.formats.image_names import check_inside, shorten_names
from effdet.data.text_column import TextColumn


def write(folder: Path, name: str, text: str | None = None, **box: object) -> Path:
    """Write a COCO set of two images, the first of which the annotations call ``name``."""
    (folder / "images").mkdir(parents=True)
    for file in ("a.jpg", "b.jpg"):
        Image.fromarray(np.full((30, 40, 3), 90, np.uint8)).save(folder / "images" / file)
    images = [{"id": i, "file_name": n, "width": 40, "height": 30} for i, n in enumerate((name, "b.jpg"))]
    boxes = [{"id": i, "image_id": i, "category_id": 1, "bbox": [2, 3, 20, 10], **box} for i in range(2)]
    content = json.dumps({"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "x"}]})
    (folder / "train.json").write_text(content if text is None else content.replace("[2, 3, 20, 10]", text, 1))
    return folder


def said(folder: Path) -> list[str]:
    return [str(finding) for finding in examine(find_data(folder).parts).findings if finding.severity == "error"]


@pytest.mark.parametrize("name", ["../../outside.jpg", "/etc/hostname", "a/../../../b.jpg", "..\\..\\outside.jpg"])
def test_a_name_that_leads_out_is_an_error_for_the_doctor_and_for_training(tmp_path, name):
    Image.new("RGB", (40, 30)).save(tmp_path / "outside.jpg")
    folder = write(tmp_path / "data", name)
    message = "names of images lead out of the data set: 1"
    assert any(text.startswith(message) for text in said(folder))
    with pytest.raises(DataError, match=message):
        find_dataset(folder, "train")


def test_names_inside_are_no_error(tmp_path):
    findings = FindingList()
    names = TextColumn.from_texts(
        ["a.jpg", "b..c.jpg", "x/../a.jpg", str(tmp_path / "d.jpg"), "../data/e.jpg", "", "f"]
    )
    check_inside(names, tmp_path / "data" / "images", [tmp_path], findings)
    assert not findings.as_tuple()
    check_inside(TextColumn.from_texts([]), tmp_path, [tmp_path], findings)
    assert not findings.as_tuple()


def test_a_name_of_a_hundred_kilobytes_is_an_error_and_takes_no_memory(tmp_path):
    folder = write(tmp_path / "data", "x" * 100_000 + ".jpg")
    message = "names of images are longer than a file's can be: 1"
    assert any(text.startswith(message) for text in said(folder))
    with pytest.raises(DataError, match=message):
        find_dataset(folder, "train")
    names = shorten_names(TextColumn.from_texts(["a", "y" * 300, "z" * 255]), FindingList())
    assert names.tolist() == ["a", "y" * 40 + "…", "z" * 255]


def test_a_name_with_control_letters_is_one_line_in_every_message(tmp_path):
    folder = write(tmp_path / "data", "a\n\x1b[2J.jpg")
    assert all("\n" not in text and "\x1b" not in text for text in said(folder))
    with pytest.raises(FileNotFoundError, match=r"a\\n\\x1b\[2J.jpg: no such image file"):
        find_dataset(folder, "train").read(0)


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_waited_for(tmp_path, kind):
    folder = write(tmp_path / "data", "a.jpg")
    place = folder / "images" / "a.jpg"
    place.unlink()
    {"pipe": os.mkfifo, "device": lambda path: path.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](place)
    assert any("a.jpg" in text for text in said(folder))
    with pytest.raises(ValueError, match=r"a.jpg: must be a file, got a"):
        find_dataset(folder, "train").read(0)


def test_a_key_that_is_given_twice_is_an_error(tmp_path):
    folder = write(tmp_path / "data", "a.jpg", '[2, 3, 20, 10], "bbox": [1, 1, 2, 2]')
    message = r"keys are given twice in one object: 1 \('bbox'\)"
    assert any(text.startswith("keys are given twice in one object: 1") for text in said(folder))
    with pytest.raises(DataError, match=message):
        find_dataset(folder, "train")


def test_boxes_that_are_mostly_crowds_are_noted(tmp_path):
    folder = write(tmp_path / "data", "a.jpg", '[2, 3, 20, 10], "iscrowd": 1, "area": 1')
    assert not any("of groups" in str(finding) for finding in find_dataset(folder, "train").findings)
    folder = write(tmp_path / "crowds", "a.jpg", iscrowd=1)
    with pytest.raises(DataError, match="every box is a crowd"):
        find_dataset(folder, "train")
    assert any("more than half of the boxes are of groups" in str(f) for f in examine(find_data(folder).parts).findings)
