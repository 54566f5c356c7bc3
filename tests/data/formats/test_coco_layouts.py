from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val

Write = Callable[..., Path]


@pytest.mark.parametrize(
    ("split", "name", "images"),
    [
        ("train", "annotations/instances_train2017.json", "train2017"),
        ("val", "annotations/instances_val2017.json", "val2017"),
        ("val", "annotations/instances_val2014.json", "val2014"),
        ("train", "annotations/instances_train.json", "train"),
        ("val", "annotations/instances_val.json", "images"),
        ("train", "annotations/instances_Train.json", "images/Train"),  # CVAT
        ("val", "annotations/instances_Validation.json", "images/Validation"),
        ("test", "annotations/instances_TEST.json", "images/test"),
        ("train", "Annotations/train.json", "Images/TRAIN"),
        ("train", "annotations/lvis_v1_train.json", "train"),
        ("val", "val.json", "images"),
        ("val", "val.json", "val"),
        ("val", "valid.json", "images/valid"),
        ("val", "val.json", "."),
        ("test", "test.json", "test"),
        ("train", "train/_annotations.coco.json", "train"),  # Roboflow
        ("train", "train/_annotations.coco.json", "train/images"),
        ("val", "valid/_annotations.coco.json", "valid"),
        ("val", "Valid/_annotations.coco.json", "Valid/images"),
        ("test", "test/_annotations.coco.json", "test"),
    ],
)
def test_layouts_are_found(tmp_path: Path, write_coco: Write, split: Any, name: str, images: str) -> None:
    file = write_coco(tmp_path, name, images)
    if not (tmp_path / "Images").exists():
        (tmp_path / "images").mkdir(exist_ok=True)  # an empty folder leads nobody astray
    dataset = find_dataset(tmp_path, split)
    assert dataset.annotation_file == file
    assert dataset.read(0).shape == (40, 60, 3)
    for other in {"train", "val", "test"} - {split}:
        with pytest.raises(DataError, match=f"no {other} annotations in"):
            find_dataset(tmp_path, other)


@pytest.mark.parametrize(("name", "folder"), [("train.json", "images"), ("annotations/instances_train.json", "photos")])
def test_names_may_be_relative_to_the_annotation_file_or_the_root(
    tmp_path: Path, write_coco: Write, name: str, folder: str
) -> None:
    write_coco(tmp_path, name, folder, prefix=f"{folder}/")
    (tmp_path / "train").mkdir()
    assert find_dataset(tmp_path, "train").read(2).shape == (20, 20, 3)


@pytest.mark.parametrize("name", ["train.json", "train/_annotations.coco.json"])
def test_backslashes_separate_folders(tmp_path: Path, write_coco: Write, name: str) -> None:
    folder = (tmp_path / name).parent.relative_to(tmp_path) / "photos/monday"
    write_coco(tmp_path, name, str(folder), prefix="photos\\monday\\")
    assert find_dataset(tmp_path, "train").read(2).shape == (20, 20, 3)


@pytest.mark.parametrize(
    ("prefix", "folder"),
    [
        ("c:\\cells\\photos\\monday\\", "photos/monday"),
        ("D:/cells/", "images"),
        ("\\\\server\\share\\", "images"),
        ("/data/cells/day1/", "images/day1"),
        ("/", "images"),
        ("https://a.org/v1/", "images"),
    ],
)
def test_the_folder_of_another_machine_is_left_out(tmp_path: Path, write_coco: Write, prefix: str, folder: str) -> None:
    write_coco(tmp_path, "train.json", folder, prefix=prefix)
    dataset = find_dataset(tmp_path, "train")
    assert [dataset.read(index).shape for index in range(3)] == [(40, 60, 3), (50, 30, 3), (20, 20, 3)]
    (note,) = dataset.findings
    assert str(note).startswith("names of images begin with a folder that is not here, ")


def test_names_that_lead_out_of_the_data_set_are_refused_unless_their_folder_is_named(
    tmp_path: Path, write_coco: Write
) -> None:
    elsewhere = tmp_path / "elsewhere"
    write_coco(elsewhere, folder="photos")
    write_coco(tmp_path / "here", prefix=f"{elsewhere}/photos/")
    for file in ("a.jpg", "b.jpg", "c.jpg"):  # other pictures of the same names
        Image.new("RGB", (5, 5)).save(tmp_path / "here" / "images" / file)
    with pytest.raises(DataError, match=r"names of images lead out of the data set: 3 \('/"):
        find_dataset(tmp_path / "here", "train")
    dataset = find_dataset(tmp_path / "here", "train", images=elsewhere / "photos")
    assert dataset.path(0) == elsewhere / "photos" / "b.jpg"
    assert not dataset.findings


def test_a_folder_may_be_called_like_a_file(tmp_path: Path, write_coco: Write) -> None:
    write_coco(tmp_path / "cells.json")
    assert len(find_dataset(tmp_path / "cells.json", "train")) == 3


def test_the_year_2017_comes_before_others(tmp_path: Path, write_coco: Write) -> None:
    for year in ("2014", "2017", ""):
        write_coco(tmp_path, f"annotations/instances_val{year}.json", f"val{year}")
    assert find_dataset(tmp_path, "val").annotation_file.name == "instances_val2017.json"


def test_home_is_understood(tmp_path: Path, write_coco: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    write_coco(tmp_path / "cells")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert find_dataset("~/cells", "train").annotation_file == tmp_path / "cells" / "train.json"
    found = find_dataset(tmp_path, "train", annotations="~/cells/train.json", images="~/cells/images")
    assert found.read(0).shape == (40, 60, 3)


def test_annotation_file_itself_may_be_the_root(tmp_path: Path, write_coco: Write) -> None:
    file = write_coco(tmp_path, "boxes.json", "photos")
    assert find_dataset(file, "val", images="photos").read(0).shape == (40, 60, 3)
    (tmp_path / "photos").rename(tmp_path / "boxes")  # a folder of the same name is found
    assert find_dataset(file, "test").read(0).shape == (40, 60, 3)


def test_named_files_are_relative_to_the_root(tmp_path: Path, write_coco: Write) -> None:
    write_coco(tmp_path, "labels/some.json", "photos")
    dataset = find_dataset(tmp_path, "train", annotations="labels/some.json", images=tmp_path / "photos")
    assert dataset.read(0).shape == (40, 60, 3)


# --- what is missing -----------------------------------------------------------------------------------------------

ADVICE = r"COCO 2017 is fetched by: python tools/data\.py download coco2017 --root "


def test_only_a_folder_that_is_meant_for_coco_gets_the_advice_to_download_it(tmp_path: Path, write_coco: Write) -> None:
    with pytest.raises(DataError, match=f"data folder data/none-coco does not exist; {ADVICE}data/none-coco$"):
        find_dataset("data/none-coco", "train")
    with pytest.raises(DataError, match=rf"data folder {tmp_path}/own does not exist$"):
        find_dataset(tmp_path / "own", "train")
    (tmp_path / "mine" / "annotations").mkdir(parents=True)
    (tmp_path / "mine" / "annotations" / "instances_default.json").write_text("{}")
    with pytest.raises(DataError, match=r"one annotation file, annotations/instances_default\.json, and no parts"):
        find_dataset(tmp_path / "mine", "val")
    (tmp_path / "half" / "val2017").mkdir(parents=True)
    with pytest.raises(DataError, match=rf"no train annotations in .*half: looked for .*; {ADVICE}"):
        find_dataset(tmp_path / "half", "train")


def test_what_is_missing_is_named(tmp_path: Path, write_coco: Write) -> None:
    with pytest.raises(DataError, match=r"looked for annotations/instances_val\.json, val\.json, valid/_ann"):
        find_dataset(tmp_path, "val")
    with pytest.raises(DataError, match=r"annotation file .*some\.json does not exist"):
        find_dataset(tmp_path, "val", annotations="some.json")
    write_coco(tmp_path, "annotations/instances_val2017.json", "pictures")
    with pytest.raises(DataError, match=r"image folder .*val2017 for the annotations in .*\.json does not exist"):
        find_dataset(tmp_path, "val")
    with pytest.raises(DataError, match=r"image folder .*photos for the annotations in .*\.json does not exist"):
        find_dataset(tmp_path, "val", images="photos")
    file = tmp_path / "notes.txt"
    file.write_text("x")
    with pytest.raises(DataError, match=r"data folder .*notes\.txt is no folder"):
        find_dataset(file, "val")


def test_files_with_other_names_are_listed(tmp_path: Path, write_coco: Write) -> None:
    for name in ("part_a.json", "part_b.json"):
        write_coco(tmp_path, name)
    message = r"; there are part_a\.json, part_b\.json; rename one of them, or name it by data\.val_annotations"
    with pytest.raises(DataError, match=message):
        find_dataset(tmp_path, "val")


# --- training and validation apart ---------------------------------------------------------------------------------


def test_one_file_for_all_has_no_part_for_validation(tmp_path: Path, write_coco: Write) -> None:
    file = write_coco(tmp_path, "all.json")
    with pytest.raises(DataError, match=r"has one annotation file, all\.json, and no parts for training and valid"):
        find_train_and_val(tmp_path)
    for options in ({}, {"train_annotations": "all.json"}):
        with pytest.raises(
            DataError, match=r"all\.json has no parts for training and validation; divide it with: effdet data split"
        ):
            find_train_and_val(file, **options)
    linked = tmp_path / "link.json"
    linked.symlink_to(file)
    with pytest.raises(DataError, match="has no parts for training and validation"):
        find_train_and_val(file, val_annotations="link.json")


def test_the_same_file_named_twice_is_a_warning(
    tmp_path: Path, write_coco: Write, caplog: pytest.LogCaptureFixture
) -> None:
    write_coco(tmp_path, "all.json")
    with caplog.at_level(logging.WARNING):
        train, val = find_train_and_val(tmp_path, train_annotations="all.json", val_annotations="all.json")
    assert train.fingerprint() == val.fingerprint()
    assert "used to train and to validate" in caplog.text


def test_warnings_are_logged_and_errors_raised(
    tmp_path: Path, write_coco: Write, caplog: pytest.LogCaptureFixture
) -> None:
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    content["annotations"].append({"id": 3, "image_id": 7, "category_id": 90, "bbox": [1, 1, 0, 5]})
    file.write_text(json.dumps(content))
    with caplog.at_level(logging.WARNING):
        find_dataset(tmp_path, "train")
    assert "train.json: boxes have no area: 1 (annotation 3); training leaves them out" in caplog.text
    content["annotations"] = []
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"train\.json: no image has a box"):
        find_dataset(tmp_path, "train")


def test_names_that_differ_in_their_normal_form_are_found(tmp_path: Path) -> None:
    composed, decomposed = "Bl\u00fcte/caf\u00e9.jpg", "Blu\u0308te/cafe\u0301.jpg"
    mixed = "Blu\u0308te/caf\u00e9.jpg"
    for on_disk in (composed, decomposed):
        root = tmp_path / str(len(on_disk))
        (root / "images" / on_disk).parent.mkdir(parents=True)
        Image.new("RGB", (8, 6)).save(root / "images" / on_disk)
        rows = [{"id": n, "file_name": name, "width": 8, "height": 6} for n, name in enumerate((composed, decomposed))]
        rows.append({"id": 3, "file_name": mixed.replace("/", "\\"), "width": 8, "height": 6})
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 1, 2, 2]}
        content = {"images": rows, "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
        (root / "val.json").write_text(json.dumps(content))
        dataset = find_dataset(root, "val")
        assert [dataset.read(index).shape for index in range(3)] == [(6, 8, 3)] * 3
