from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val, read_parts

PLAIN = "image,xmin,ymin,xmax,ymax,label\na.jpg,10,5,30,20,cat\na.jpg,1.5,2,4,8,ant\nb.jpg,0,0,60,40,cat\nc.jpg,,,,,\n"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (60, 40)).save(tmp_path / "images" / f"{name}.jpg")
    return tmp_path


def read(folder: Path, text: str | bytes, name: str = "boxes.csv") -> Dataset:
    (folder / name).write_bytes(text.encode() if isinstance(text, str) else text)
    return read_parts(folder)["all"]


def check(dataset: Dataset) -> None:
    assert dataset.names.tolist() == ["a.jpg", "b.jpg", "c.jpg"]
    assert dataset.class_names == ("ant", "cat")
    assert dataset.labels.tolist() == [1, 0, 1]
    assert dataset.sizes.tolist() == [[40, 60]] * 3
    np.testing.assert_array_equal(dataset.offsets, [0, 2, 3, 3])
    np.testing.assert_array_equal(dataset.boxes_xywh, [[10, 5, 20, 15], [1.5, 2, 2.5, 6], [0, 0, 60, 40]])
    assert dataset.read(2).shape == (40, 60, 3)


def test_a_table_with_a_header(images: Path) -> None:
    dataset = read(images, PLAIN)
    check(dataset)
    assert dataset.findings == ()


def test_rows_of_an_image_need_not_stand_together(images: Path) -> None:
    rows = PLAIN.splitlines()
    dataset = read(images, "\n".join([rows[0], rows[1], rows[3], rows[4], rows[2]]))
    check(dataset)


@pytest.mark.parametrize(
    "text",
    [
        PLAIN.partition("\n")[2],  # RetinaNet: no header
        PLAIN.replace(",", ";"),
        PLAIN.replace(",", "\t"),
        PLAIN.replace("\n", "\r\n"),
        PLAIN.replace("\n", "\n\n"),
        PLAIN.replace("a.jpg", "./a.jpg"),
        PLAIN.replace("a.jpg", "images/a.jpg").replace("b.jpg", "images/b.jpg").replace("c.jpg", "images/c.jpg"),
        PLAIN.replace("a.jpg", "/gone/day1/a.jpg")
        .replace("b.jpg", "/gone/day1/b.jpg")
        .replace("c.jpg", "/gone/day1/c.jpg"),
        PLAIN.replace(".jpg", ""),
        PLAIN.replace("image,", '"Image Path",').replace("label", "Class_Name"),
        "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,60,40,cat,10,5,30,20\na.jpg,60,40,ant,1.5,2,4,8\n"
        "b.jpg,60,40,cat,0,0,60,40\nc.jpg,60,40,,,,,\n",
        "label_name,bbox_x,bbox_y,bbox_width,bbox_height,image_name,image_width,image_height\ncat,10,5,20,15,a.jpg,60,40\n"
        "ant,1.5,2,2.5,6,a.jpg,60,40\ncat,0,0,60,40,b.jpg,60,40\n,,,,,c.jpg,60,40\n",
        PLAIN.encode("utf-8-sig"),
        PLAIN.encode("utf-16"),
    ],
)
def test_tables_as_tools_write_them(images: Path, text: str | bytes) -> None:
    dataset = read(images, text)
    if not dataset.names[0].startswith("images/"):
        check(dataset)
    else:
        np.testing.assert_array_equal(dataset.boxes_xywh[0], [10, 5, 20, 15])
        assert dataset.read(0).shape == (40, 60, 3)


@pytest.mark.parametrize(
    ("train", "val"),
    [
        ("train.csv", "val.csv"),
        ("train_labels.csv", "valid_labels.csv"),
        ("annotations.csv", "val_annotations.csv"),
        ("train/_annotations.csv", "valid/_annotations.csv"),
    ],
)
def test_parts(images: Path, train: str, val: str) -> None:
    for name in (train, val):
        (images / name).parent.mkdir(exist_ok=True)
        (images / name).write_text(PLAIN)
    for dataset, name in zip(find_train_and_val(images), (train, val), strict=True):
        check(dataset)
        assert dataset.annotation_file == images / name
    check(find_dataset(images, "val", annotations=train))
    if "/" not in val:
        check(find_dataset(images / val, "test"))


@pytest.mark.parametrize(
    ("name", "content", "ids"),
    [
        ("classes.csv", "dog,2\ncat,0\nant,5\n", (0, 2, 5)),
        ("classes.csv", "class_name,id\ndog,2\ncat,0\nant,5\n", (0, 2, 5)),
        ("classes.txt", "cat\ndog\nant\n", (1, 2, 3)),
    ],
)
def test_a_class_list_gives_the_order(images: Path, name: str, content: str, ids: tuple[int, ...]) -> None:
    (images / name).write_text(content)
    dataset = read(images, PLAIN)
    assert dataset.class_names == ("cat", "dog", "ant")
    assert dataset.category_ids == ids
    assert dataset.labels.tolist() == [0, 2, 0]


def test_crowds_and_areas_are_read(images: Path) -> None:
    dataset = read(images, "image,x1,y1,x2,y2,class,is_crowd,area\na.jpg,1,1,9,9,cat,1,33.5\nb.jpg,1,1,9,9,cat,0,\n")
    assert dataset.is_crowd.tolist() == [True, False]
    assert dataset.areas.tolist() == [33.5, 64]


def test_a_crowd_may_be_said_in_words(images: Path) -> None:
    words = ["True", "false", "yes", "", "1.0", "0", "maybe"]
    rows = "".join(f"a.jpg,{place},1,9,9,cat,{word}\n" for place, word in enumerate(words))
    dataset = read(images, f"image,x1,y1,x2,y2,class,is_crowd\n{rows}")
    assert dataset.is_crowd.tolist() == [True, False, True, False, True, False, False]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            "a.jpg,1,2,x,4,cat",
            r"error: rows have no box: 1 (row 3 of boxes.csv has 'a.jpg,1,2,x,4,cat'); a row must have",
        ),
        ("a.jpg,1,2,3,4,", "error: rows have no box: 1 (row 3 of boxes.csv"),
        (",1,2,3,4,cat", "error: rows have no box: 1 (row 3 of boxes.csv"),
        ("a.jpg,1,2,3", "error: rows have no box: 1 (row 3 of boxes.csv"),
        ("a.jpg,1_0,2,30,4,cat", "error: rows have no box: 1 (row 3 of boxes.csv"),
        ("a.jpg,1,2,nan,4,cat", "warning: boxes are not finite: 1 (in a.jpg); they do not count"),
        ("a.jpg,9,2,3,4,cat", "warning: boxes have no area: 1 (box 2 of a.jpg)"),
        ("a.jpg,90,2,93,4,cat", "warning: boxes lie outside of their image: 1 (box 2 of a.jpg)"),
    ],
)
def test_wrong_rows(images: Path, row: str, sentence: str) -> None:
    dataset = read(images, f"image,xmin,ymin,xmax,ymax,label\na.jpg,10,5,30,20,cat\n{row}\n")
    found = [f"{finding.severity}: {finding}" for finding in dataset.findings]
    assert any(text.startswith(sentence) for text in found), found


def test_windows_1252_is_read_with_a_note(images: Path) -> None:
    dataset = read(images, "image,xmin,ymin,xmax,ymax,label\na.jpg,10,5,30,20,bête\n".encode("cp1252"))
    assert dataset.class_names == ("bête",)
    assert str(dataset.findings[0]) == "files are not UTF-8: 1 (boxes.csv); they are read as Windows-1252"


def test_relative_boxes_are_named(images: Path) -> None:
    dataset = read(images, "image,xmin,ymin,xmax,ymax,label\na.jpg,0.1,0.5,0.3,0.9,cat\n")
    assert str(dataset.findings[0]).startswith("all boxes lie in [0, 1]; bbox must be in pixels")


def test_files_that_are_no_table(images: Path) -> None:
    for name, content in (("a.csv", b"one,two\n1,2\n"), ("b.csv", b""), ("c.csv", b"\0\0\0")):
        (images / name).write_bytes(content)
    with pytest.raises(DataError, match=r"no train annotations in .*: looked for annotations/instances_train"):
        find_dataset(images, "train")
    with pytest.raises(DataError, match=r"a\.csv is no folder, and no file of a known format: COCO or Label Studio"):
        find_dataset(images / "a.csv", "train")
