"""A data set is the same in every format: its boxes, what the doctor says, and the losses of a training."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from effdet.commands import main
from effdet.data.conversion import convert
from effdet.data.formats import read_parts
from effdet.data.formats.finding import find_data
from effdet.data.formats.table import FORMATS

Write = Callable[[str, Path, Path], None]

HOLD_CROWDS = ("coco", "voc", "csv", "openimages", "shards")
CONFIG = Path(__file__).resolve().parents[1] / "cases" / "tiny.yaml"


@pytest.mark.parametrize("photos", ["bccd", "coco_open"])
@pytest.mark.parametrize("name", FORMATS)
def test_boxes_come_back(name: str, photos: str, photo_sets: Path, tmp_path: Path, write_as: Write) -> None:
    write_as(name, photo_sets / photos, tmp_path)
    assert {source.format for source in find_data(tmp_path).parts.values()} == {"coco" if name == "shards" else name}
    plain, written = read_parts(photo_sets / photos), read_parts(tmp_path)
    assert written.keys() == plain.keys() == {"train", "val"}
    for part, dataset in written.items():
        expected = plain[part]
        if name != "shards":  # where images are numbered
            assert dataset.names.tolist() == expected.names.tolist()
        assert dataset.class_names == expected.class_names
        np.testing.assert_array_equal(dataset.sizes, expected.sizes)
        np.testing.assert_array_equal(dataset.offsets, expected.offsets)
        np.testing.assert_array_equal(dataset.labels, expected.labels)
        np.testing.assert_allclose(dataset.boxes_xywh, expected.boxes_xywh, rtol=0, atol=2e-13)
        if name in HOLD_CROWDS:
            np.testing.assert_array_equal(dataset.is_crowd, expected.is_crowd)
        for index in range(len(dataset)):
            boxes = dataset.annotations(index).boxes, expected.annotations(index).boxes
            np.testing.assert_array_equal(*boxes)  # float32: equal to the last bit
            assert dataset.stored(index).read_bytes() == expected.stored(index).read_bytes()


@pytest.mark.parametrize("name", FORMATS)
def test_the_doctor_finds_nothing_in_any_format(
    name: str, photo_sets: Path, tmp_path: Path, write_as: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    write_as(name, photo_sets / "bccd", tmp_path)
    assert main(["data", "check", str(tmp_path), "--no-estimate"]) == 0
    found = capsys.readouterr().out
    assert main(["data", "check", str(photo_sets / "bccd"), "--no-estimate"]) == 0
    expected = capsys.readouterr().out
    assert found.splitlines()[-1] == expected.splitlines()[-1]
    assert "218 boxes" in found
    assert "219 boxes" in found


def losses(root: Path, folder: Path, *overrides: str) -> dict[str, str]:
    """Return the losses and, where areas are kept, the AP of an epoch on a data set."""
    arguments = [f"data.root={root}", f"run.dir={folder}", "data.image_size=[96, 128]", "data.long_side=null"]
    assert main(["train", str(CONFIG), *arguments, *overrides]) == 0
    (file,) = folder.glob("*/metrics.csv")
    names, values = (line.split(",") for line in file.read_text().splitlines()[:2])
    return {name: value for name, value in zip(names, values, strict=True) if "loss" in name}


@pytest.fixture(scope="module")
def losses_of_coco(photo_sets: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return losses(photo_sets / "bccd", tmp_path_factory.mktemp("coco"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in FORMATS if name != "coco"])
def test_a_training_has_the_same_losses(
    name: str, photo_sets: Path, tmp_path: Path, write_as: Write, losses_of_coco: dict[str, str]
) -> None:
    write_as(name, photo_sets / "bccd", tmp_path / "data")
    assert len(losses_of_coco) >= 2
    assert losses(tmp_path / "data", tmp_path / "runs") == losses_of_coco


FEW_STEPS = ("data.max_train_images=32", "data.max_val_images=8")
DIGITS = 3e-13  # pixels that a format may lose of a coordinate; training uses float32, which hides it


@pytest.fixture(scope="module")
def plain_losses(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], dict[str, str]]:
    """A function that gives the losses of a set as it is, or without crowds; each is computed once."""

    @functools.cache
    def compute(photos: str, has_crowds: bool) -> dict[str, str]:
        folder = tmp_path_factory.mktemp(photos)
        if has_crowds:
            return losses(shared_data / photos, folder, *FEW_STEPS)
        parts = read_parts(shared_data / photos)
        cleared = {part: replace(data, is_crowd=np.zeros_like(data.is_crowd)) for part, data in parts.items()}
        convert(cleared, folder / "cleared", to="coco")
        return losses(folder / "cleared", folder / "runs", *FEW_STEPS)

    return compute


@pytest.mark.sweep
@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("photos", ["bccd", "microcontroller", "coco_open"])
def test_whole_sets_have_the_same_boxes_and_losses_in_every_format(
    photos: str,
    name: str,
    shared_data: Path,
    tmp_path: Path,
    write_as: Write,
    plain_losses: Callable[[str, bool], dict[str, str]],
) -> None:
    write_as(name, shared_data / photos, tmp_path / name)
    plain, written = read_parts(shared_data / photos), read_parts(tmp_path / name)
    for part, dataset in written.items():
        np.testing.assert_allclose(dataset.boxes_xywh, plain[part].boxes_xywh, rtol=0, atol=DIGITS)
        for index in range(len(dataset)):
            np.testing.assert_array_equal(dataset.annotations(index).boxes, plain[part].annotations(index).boxes)
    keeps_all = name in HOLD_CROWDS or not any(data.is_crowd.any() for data in plain.values())
    found = losses(tmp_path / name, tmp_path / "runs", *FEW_STEPS)
    assert found == plain_losses(photos, keeps_all)
