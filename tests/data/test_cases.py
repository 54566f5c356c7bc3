"""Small inputs that tools really wrote, beside the clean data set that they were made from."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from effdet.commands import main
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val

CASES = Path(__file__).resolve().parent / "cases"

SAME = [
    "backslash-names",
    "roboflow-images-subfolder",
    "cvat-export",
    "instances-without-year",
    "bbox-number-strings",
    "iscrowd-string-zero",
    "huge-image-ids",
    "string-image-ids",
    "masks-without-bbox",
    "lvis-coco-url",
    "roboflow-root-category",
    "test-split",
]


def assert_same_learning(dataset: Dataset, plain: Dataset) -> None:
    """Assert that training and evaluation see the same pixels, boxes and classes."""
    assert dataset.class_names == plain.class_names
    assert len(dataset) == len(plain)
    for index in range(len(plain)):
        np.testing.assert_array_equal(dataset.read(index), plain.read(index))
        for ours, theirs in zip(dataset.annotations(index), plain.annotations(index), strict=True):
            np.testing.assert_array_equal(ours, theirs)
    for column in ("boxes_xywh", "areas", "is_crowd", "annotation_ids", "offsets"):
        np.testing.assert_array_equal(getattr(dataset, column), getattr(plain, column))


def check(name: str) -> int:
    return main(["data", "check", str(CASES / name), "--quick"])


@pytest.mark.parametrize("name", SAME)
def test_other_clothes_hold_the_same_data(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    for dataset, plain in zip(find_train_and_val(CASES / name), find_train_and_val(CASES / "plain"), strict=True):
        assert_same_learning(dataset, plain)
    assert check(name) == 0
    assert "0 errors, 0 warnings" in capsys.readouterr().out


def test_ids_are_kept_for_results_files() -> None:
    assert find_dataset(CASES / "string-image-ids", "val").image_ids.tolist() == ["smear_07", "smear_08", "smear_09"]
    assert find_dataset(CASES / "huge-image-ids", "val").image_id(0) == 9223372036854775815


def test_the_test_split_holds_the_photos_of_valid() -> None:
    assert_same_learning(find_dataset(CASES / "test-split", "test"), find_dataset(CASES / "test-split", "val"))


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("all-crowd", r"train\.json: every box is a crowd \(iscrowd is 1\); there is nothing to learn or to measure"),
        ("train-without-boxes", r"train\.json: no image has a box; there is nothing to learn or to measure"),
        ("one-json", r"has one annotation file, annotations\.json, and no parts for training and validation; divide"),
        (
            "one-json/annotations.json",
            r"annotations\.json has no parts for training and validation; divide it with: effdet",
        ),
    ],
)
def test_what_cannot_be_trained_on_is_one_sentence(
    name: str, sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=sentence) as caught:
        find_train_and_val(CASES / name)
    assert "\n" not in str(caught.value)
    assert "COCO 2017" not in str(caught.value)

    overrides = [f"data.root={CASES / name}", f"run.dir={tmp_path}"]
    assert main(["train", str(CASES / "tiny.yaml"), *overrides]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
    assert len(errors) == 1
    assert re.search(sentence, errors[0])


@pytest.mark.parametrize("name", ["all-crowd", "train-without-boxes"])
def test_check_says_what_training_says(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DataError) as caught:
        find_train_and_val(CASES / name)
    assert check(name) == 1
    assert str(caught.value).partition("train.json: ")[2] in capsys.readouterr().out


def test_categories_are_matched_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    plain, other = (find_dataset(CASES / name, "val") for name in ("plain", "val-other-ids"))
    assert set(other.class_names) == set(plain.class_names)
    assert other.class_names != plain.class_names
    assert find_dataset(CASES / "val-fewer-categories", "val").class_names == ("Platelets", "RBC")
    for name in ("val-other-ids", "val-fewer-categories"):
        assert check(name) == 0
        assert "they are matched by name" in capsys.readouterr().out


def test_an_empty_bbox_makes_no_box(capsys: pytest.CaptureFixture[str]) -> None:
    train = find_dataset(CASES / "empty-bbox-negative", "train")
    assert (np.diff(train.offsets) == 0).any()
    assert check("empty-bbox-negative") == 0
    assert (
        "note    train: annotations have an empty bbox: 1 (annotation 999); they do not count"
        in capsys.readouterr().out
    )


def test_home_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cells").symlink_to(CASES / "plain")
    monkeypatch.setenv("HOME", str(tmp_path))
    for dataset, plain in zip(find_train_and_val("~/cells"), find_train_and_val(CASES / "plain"), strict=True):
        assert_same_learning(dataset, plain)


def test_a_jpeg_with_a_hole_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "check", str(CASES / "jpeg-damaged")]) == 1
    assert "error   train: image files cannot be decoded: 1 (smear_04.jpg: " in capsys.readouterr().out


@pytest.fixture(scope="module")
def numbers_of_plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return _train(CASES / "plain", tmp_path_factory.mktemp("plain"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SAME, "val-other-ids"])
def test_a_training_has_the_numbers_of_plain(name: str, tmp_path: Path, numbers_of_plain: dict[str, str]) -> None:
    assert _train(CASES / name, tmp_path) == numbers_of_plain


@pytest.mark.slow
def test_fewer_categories_in_val_leave_the_losses_as_they_are(tmp_path: Path, numbers_of_plain: dict[str, str]) -> None:
    found = _train(CASES / "val-fewer-categories", tmp_path)
    losses = [name for name in found if "loss" in name]
    assert losses
    assert [found[name] for name in losses] == [numbers_of_plain[name] for name in losses]


@pytest.mark.slow
def test_a_training_with_an_empty_bbox_has_finite_losses(tmp_path: Path) -> None:
    found = _train(CASES / "empty-bbox-negative", tmp_path)
    assert all(np.isfinite(float(value)) for name, value in found.items() if "loss" in name)


def _train(root: Path, folder: Path) -> dict[str, str]:
    """Train an epoch and return its row of numbers, without times."""
    assert main(["train", str(CASES / "tiny.yaml"), f"data.root={root}", f"run.dir={folder}"]) == 0
    (file,) = folder.glob("*/metrics.csv")
    names, values = (line.split(",") for line in file.read_text().splitlines()[:2])
    return {name: value for name, value in zip(names, values, strict=True) if "second" not in name}
