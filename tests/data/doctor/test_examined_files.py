"""What the doctor saw of a file is remembered until the file changes."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.doctor.examined_files import ExaminedFiles
from effdet.data.doctor.image_files import open_images
from effdet.data.formats import find_dataset
from effdet.progress import report_nothing
from effdet.runs.check_data import check_data


@pytest.fixture
def checked(photo_sets, tmp_path, monkeypatch):
    """Return a function that checks a copy of bccd, its folder, and a list of the images that were decoded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = shutil.copytree(photo_sets / "bccd", tmp_path / "bccd")
    for path in folder.rglob("*.jpg"):
        os.utime(path, (1e9, 1e9))
    decoded = []
    read = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, index: decoded.append(self.names[index]) or read(self, index))
    return lambda: check_data(folder, estimate=False).to_dict(), folder, decoded


def test_only_files_that_changed_are_decoded_again_and_the_findings_are_the_same(checked):
    check, folder, decoded = checked
    first = check()
    assert len(decoded) == sum(split["images"] for split in first["splits"])
    decoded.clear()
    assert check() == first
    assert decoded == []
    names = [image["file_name"] for image in json.loads((folder / "train.json").read_text())["images"]]
    Image.new("RGB", (640, 480)).save(folder / "images" / names[3])
    os.utime(folder / "images" / names[4], (1.1e9, 1.1e9))
    found = check()
    assert sorted(decoded) == [names[3], names[4]]
    assert any(finding["text"] == "images have one colour only" for finding in found["findings"])


def test_bad_files_are_looked_at_until_they_are_good(checked):
    check, folder, decoded = checked
    name = json.loads((folder / "train.json").read_text())["images"][0]["file_name"]
    good = (folder / "images" / name).read_bytes()
    for content, has_errors in ((good[:-2000], True), (good[:-2000], True), (good, False)):
        (folder / "images" / name).write_bytes(content)
        os.utime(folder / "images" / name, (1e9, 1e9))
        decoded.clear()
        assert check()["errors"] == has_errors
        assert name in decoded


@pytest.mark.parametrize("damage", ["", "effdet arrays 1\n", "x" * 5000])
def test_a_damaged_memory_is_as_none(checked, tmp_path, damage):
    check, _, decoded = checked
    first = check()
    for path in (tmp_path / "cache").rglob("*.examined"):
        path.write_text(damage)
    count = len(decoded)
    assert check() == first
    assert len(decoded) == 2 * count


def test_splits_of_one_annotation_file_are_remembered_apart(checked):
    _, folder, _ = checked
    whole = find_dataset(folder, "train")
    odd = np.arange(1, len(whole), 2)
    parts = {"train": whole.without(odd), "val": whole.without(np.setdiff1d(np.arange(len(whole)), odd))}
    for split, part in parts.items():
        ExaminedFiles(part, split).remember(open_images(part, split, report_nothing, decode=True), {})
    assert {split: set(ExaminedFiles(part, split).files) for split, part in parts.items()} == {
        split: set(part.names) for split, part in parts.items()
    }


def test_a_file_that_is_written_while_it_is_checked_is_looked_at_again(checked):
    _, folder, _ = checked
    dataset = find_dataset(folder, "train")
    examined = ExaminedFiles(dataset, "train")
    opened = open_images(dataset, "train", report_nothing, decode=True)
    Image.new("RGB", (640, 480)).save(dataset.path(0))
    os.utime(dataset.path(0), (1e9 + 5, 1e9 + 5))
    examined.remember(opened, {})
    assert set(dataset.names) - set(ExaminedFiles(find_dataset(folder, "train"), "train").files) == {dataset.names[0]}
