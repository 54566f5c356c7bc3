from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val, read_parts

HEADER = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
)
ROWS = (
    "aa,xclick,/m/01g317,1,0.1,0.5,0.25,1.0,0,0,0,0,0\n"
    "bb,xclick,/m/04yx4,1,0,1,0,1,0,0,1,0,0\n"
    "aa,xclick,/m/04yx4,1,0.5,0.6,0.5,0.75,1,0,0,0,0\n"
)
CLASSES = "/m/04yx4,Man\n/m/01g317,Person\n/m/0dog,Dog\n"


def write(root: Path, table: str, folder: str, rows: str = ROWS, names: tuple[str, ...] = ("aa", "bb", "cc")) -> None:
    (root / table).parent.mkdir(parents=True, exist_ok=True)
    (root / table).write_text(HEADER + rows)
    (root / folder).mkdir(parents=True, exist_ok=True)
    for name in names:
        Image.new("RGB", (60, 40)).save(root / folder / f"{name}.jpg")


@pytest.mark.parametrize(
    ("tables", "folders"),
    [
        (("train-annotations-bbox.csv", "validation-annotations-bbox.csv"), ("train", "validation")),
        (
            ("oidv6-train-annotations-bbox.csv", "validation-annotations-bbox.csv"),
            ("images/train", "images/validation"),
        ),
        (("annotations/train.csv", "annotations/val.csv"), ("images", "images")),
        (("train/labels/detections.csv", "validation/labels/detections.csv"), ("train/data", "validation/data")),
    ],
)
def test_layouts(tmp_path: Path, tables: tuple[str, str], folders: tuple[str, str]) -> None:
    for table, folder in zip(tables, folders, strict=True):
        write(tmp_path, table, folder)
        (tmp_path / table).with_name("class-descriptions-boxable.csv").write_text(CLASSES)
    for dataset in find_train_and_val(tmp_path):
        assert dataset.names.tolist() == ["aa.jpg", "bb.jpg"]
        assert dataset.class_names == ("Man", "Person", "Dog")
        assert dataset.labels.tolist() == [1, 0, 0]
        assert dataset.is_crowd.tolist() == [False, False, True]
        expected = [[6, 10, 24, 30], [30, 20, 6, 10], [0, 0, 60, 40]]
        np.testing.assert_allclose(dataset.boxes_xywh, expected, atol=1e-12)
        assert str(dataset.findings[0]) == "images are not in the table: 1 (cc.jpg); they are left out"


def test_a_table_of_images_adds_those_without_boxes(tmp_path: Path) -> None:
    write(tmp_path, "train-annotations-bbox.csv", "train")
    (tmp_path / "train-images-boxable.csv").write_text(
        "ImageID,Subset,OriginalURL\ncc,train,x\naa,train,x\nbb,train,x\n"
    )
    dataset = find_dataset(tmp_path, "train")
    assert dataset.names.tolist() == ["cc.jpg", "aa.jpg", "bb.jpg"]
    assert dataset.offsets.tolist() == [0, 0, 2, 3]
    assert dataset.class_names == ("/m/01g317", "/m/04yx4")  # no table of classes
    assert dataset.findings == ()


def test_boxes_of_images_that_were_not_downloaded_are_named(tmp_path: Path) -> None:
    write(tmp_path, "train-annotations-bbox.csv", "train", names=("aa",))
    dataset = find_dataset(tmp_path, "train")
    assert len(dataset) == 1
    assert "images are not in " in str(dataset.findings[0])
    assert str(dataset.findings[0]).endswith(": 1 (bb); they are left out, with their boxes")
    (tmp_path / "train" / "aa.jpg").unlink()
    with pytest.raises(DataError, match=r"none of its 2 images, such as 'aa', is in .*; download them, or name their"):
        find_dataset(tmp_path, "train")


@pytest.mark.parametrize(
    "row",
    [
        "cc,x,/m/1,1,0.1,x,0.2,0.3,0,0,0,0,0",
        "cc,x,,1,0.1,0.2,0.2,0.3,0,0,0,0,0",
        "cc,x,/m/1",
        ",x,/m/1,1,0,1,0,1,0,0,0,0,0",
    ],
)
def test_wrong_rows_are_named(tmp_path: Path, row: str) -> None:
    write(tmp_path, "train-annotations-bbox.csv", "train", rows=ROWS + row + "\n")
    (finding,) = (f for f in read_parts(tmp_path)["train"].findings if f.severity == "error")
    assert str(finding).startswith(f"rows have no box: 1 (row 5 of train-annotations-bbox.csv has '{row[:20]}")


def test_a_table_that_changes_its_columns_is_one_sentence(tmp_path: Path) -> None:
    write(tmp_path, "train-annotations-bbox.csv", "train")
    source = read_parts(tmp_path)["train"].annotation_file
    source.write_text("\n" + HEADER.replace("XMin", "Left") + ROWS)
    with pytest.raises(DataError, match="no train annotations"):
        find_dataset(tmp_path, "train")
