from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val, read_parts

BOX = ("cat", (11, 6, 30, 20))


def write_xml(file: Path, image: str, *objects: Any, database: str = "Unknown", size: str = "") -> None:
    items = "".join(
        f"<object><name>{name}</name><pose>x</pose>{extra}<bndbox><xmax>{box[2]}</xmax><xmin>{box[0]}</xmin>"
        f"<ymin>{box[1]}</ymin><ymax>{box[3]}</ymax></bndbox></object>"
        for name, box, *rest in objects
        for extra in (rest or [""])
    )
    size = size or "<size><width>60</width><height>40</height><depth>3</depth></size>"
    source = f"<source><database>{database}</database></source>"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'<annotation verified="yes"><filename>{image}</filename>{source}{size}{items}</annotation>')


def write_image(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (60, 40)).save(file)


def read(folder: Path) -> Dataset:
    return read_parts(folder)["all"]


@pytest.mark.parametrize("home", [".", "VOCdevkit/VOC2012", "VOC2007"])
def test_vocdevkit_with_its_lists(tmp_path: Path, home: str) -> None:
    root = tmp_path / home
    for stem in ("000001", "000002", "000003", "000004"):
        write_image(root / "JPEGImages" / f"{stem}.jpg")
        write_xml(root / "Annotations" / f"{stem}.xml", f"{stem}.jpg", BOX, database="The VOC2012 Database")
    lists = root / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("000003\r\n000001\r\n")
    (lists / "val.txt").write_text("000002  1\n")
    (lists / "test.txt").write_text("000004")
    (lists / "cat_train.txt").write_text("000001 -1\n000003  1\n")
    train, val = find_train_and_val(tmp_path)
    assert train.names.tolist() == ["000003.jpg", "000001.jpg"]  # the order of the list
    assert val.names.tolist() == ["000002.jpg"]
    assert find_dataset(tmp_path, "test").read(0).shape == (40, 60, 3)
    np.testing.assert_array_equal(train.boxes_xywh[0], [10, 5, 20, 15])  # 1-based: pixels 11 to 30
    assert "1 is taken from xmin and ymin" in str(train.findings[0])


@pytest.mark.parametrize(
    ("annotations", "images"),
    [(".", "."), ("Annotations", "JPEGImages"), ("annotations", "images"), ("labels", "images"), (".", "images")],
)
def test_folders_without_lists(tmp_path: Path, annotations: str, images: str) -> None:
    for stem in ("a", "b"):
        write_image(tmp_path / images / f"{stem}.png")
        write_xml(tmp_path / annotations / f"{stem}.xml", f"{stem}.png", BOX)
    dataset = read(tmp_path)
    assert dataset.names.tolist() == ["a.png", "b.png"]
    assert dataset.read(1).shape == (40, 60, 3)
    assert dataset.findings == ()


def test_roboflow_has_a_folder_for_each_part(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        write_image(tmp_path / part / f"{part}.jpg")
        write_xml(tmp_path / part / f"{part}.xml", f"{part}.jpg", BOX)
    train, val = find_train_and_val(tmp_path)
    assert (train.names[0], val.names[0]) == ("train.jpg", "valid.jpg")


@pytest.mark.parametrize(
    ("database", "box", "expected"),
    [
        ("Unknown", (11, 6, 30, 20), (11, 6, 19, 14)),
        ("The VOC2007 Database", (11, 6, 30, 20), (10, 5, 20, 15)),
        ("The VOC2007 Database", (0, 6, 30, 20), (0, 6, 30, 14)),
        ("The VOC2012 Database", (11.5, 6.25, 30.5, 20), (10.5, 5.25, 20, 14.75)),
    ],
)
def test_coordinates_count_from_one_where_the_files_are_those_of_pascal(
    tmp_path: Path, database: str, box: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    write_image(tmp_path / "a.jpg")
    write_xml(tmp_path / "a.xml", "a.jpg", ("cat", box), database=database)
    np.testing.assert_array_equal(read(tmp_path).boxes_xywh[0], expected)


def test_difficult_objects_are_crowds(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    hard = "<difficult>1</difficult>"
    write_xml(tmp_path / "a.xml", "a.jpg", BOX, ("cat", (1, 1, 9, 9), hard), ("cat", (1, 1, 8, 8), "<difficult/>"))
    dataset = read(tmp_path)
    assert dataset.is_crowd.tolist() == [False, True, False]
    assert str(dataset.findings[0]).startswith("1 objects are marked as difficult; they are ignored in training")


@pytest.mark.parametrize("file", ["classes.txt", "labels.txt", "labelmap.txt"])
def test_a_class_list_gives_the_order(tmp_path: Path, file: str) -> None:
    write_image(tmp_path / "a.jpg")
    write_xml(tmp_path / "a.xml", "a.jpg", BOX, ("ant", (1, 1, 9, 9)), ("  big\n bee ", (1, 1, 9, 9)))
    assert read(tmp_path).class_names == ("ant", "big bee", "cat")
    lines = ["dog", "cat", "big bee", "ant"]
    if file == "labelmap.txt":
        lines = ["# label:color_rgb:parts:actions", "background:0,0,0::", *(f"{line}:1,2,3::" for line in lines)]
    (tmp_path / file).write_text("\n".join(lines))
    dataset = read(tmp_path)
    assert dataset.class_names == ("dog", "cat", "big bee", "ant")
    assert dataset.labels.tolist() == [1, 3, 2]


def test_names_of_images_are_taken_as_tools_write_them(tmp_path: Path) -> None:
    for name in ("a.jpg", "Frühling 2.jpg", "c.png", "d.jpeg"):
        write_image(tmp_path / name)
    write_xml(tmp_path / "a.xml", "c:\\cells\\a.jpg", BOX)
    write_xml(tmp_path / "Frühling 2.xml", "", BOX)
    write_xml(tmp_path / "c.xml", "other.jpg", BOX)
    write_xml(tmp_path / "d.xml", "d", BOX)
    assert read(tmp_path).names.tolist() == ["Frühling 2.jpg", "a.jpg", "c.png", "d.jpeg"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("declared", ["", "<?xml version='1.0' encoding='utf-8'?>\n"])
def test_encodings(tmp_path: Path, encoding: str, declared: str) -> None:
    write_image(tmp_path / "a.jpg")
    write_xml(tmp_path / "a.xml", "a.jpg", ("bête", (11, 6, 30, 20)))
    text = declared + (tmp_path / "a.xml").read_text()
    (tmp_path / "a.xml").write_bytes(text.encode(encoding))
    assert read(tmp_path).class_names == ("bête",)


# --- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("", "error: annotation files cannot be read: 1 ("),
        ("<annotation><object>", "error: annotation files cannot be read: 1 ("),
        ("<!DOCTYPE a [<!ENTITY b 'c'>]><annotation/>", "defines XML entities"),
        ("<annotations/>", "error: XML files do not hold <annotation>: 1 (b.xml has <annotations>)"),
        ("<annotation><object/></annotation>", "error: objects have no box or no name: 1 (object 1 of b.xml has"),
        (
            "<annotation><object><name>a</name><bndbox><xmin>x</xmin><ymin>1</ymin><xmax>2</xmax><ymax>2</ymax></bndbox>"
            "</object></annotation>",
            "error: objects have no box or no name",
        ),
        (
            "<annotation><object><name>a</name><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>nan</xmax><ymax>2</ymax>"
            "</bndbox></object></annotation>",
            "warning: boxes are not finite: 1 (in b.jpg); they do not count",
        ),
        (
            "<annotation><object><name>a</name><difficult>maybe</difficult><bndbox><xmin>1</xmin><ymin>1</ymin>"
            "<xmax>3</xmax><ymax>2</ymax></bndbox></object></annotation>",
            "error: values of difficult are neither 0 nor 1: 1 (object 1 of b.xml)",
        ),
        (
            "<annotation><object><name>a</name><bndbox><xmin>30</xmin><ymin>1</ymin><xmax>3</xmax><ymax>2</ymax></bndbox>"
            "</object></annotation>",
            "warning: boxes have no area: 1 (box 1 of b.jpg); training leaves them out",
        ),
        ("<annotation/>", "note: XML files give no size of the image: 1 (b.xml); it is taken from the image file"),
    ],
)
def test_wrong_files_are_findings(tmp_path: Path, content: str, sentence: str) -> None:
    for stem in ("a", "b"):
        write_image(tmp_path / f"{stem}.jpg")
        write_xml(tmp_path / f"{stem}.xml", f"{stem}.jpg", BOX)
    (tmp_path / "b.xml").write_text(content)
    found = [f"{finding.severity}: {finding}" for finding in read(tmp_path).findings]
    assert any(sentence in text for text in found), found


def test_images_without_xml_are_named(tmp_path: Path) -> None:
    for stem in ("a", "b"):
        write_image(tmp_path / f"{stem}.jpg")
    write_xml(tmp_path / "a.xml", "a.jpg", BOX)
    assert str(read(tmp_path).findings[0]) == "images have no XML file: 1 (b.jpg); they are left out"


def test_classes_that_the_list_lacks_are_named(tmp_path: Path) -> None:
    write_image(tmp_path / "a.jpg")
    write_xml(tmp_path / "a.xml", "a.jpg", BOX)
    (tmp_path / "classes.txt").write_text("dog\n")
    dataset = read(tmp_path)
    assert dataset.class_names == ("dog", "cat")
    assert str(dataset.findings[0]).startswith("classes are not in the class list: 1 ('cat'); add them to the list")


def test_lists_that_are_wrong(tmp_path: Path) -> None:
    write_image(tmp_path / "JPEGImages" / "a.jpg")
    write_xml(tmp_path / "Annotations" / "a.xml", "a.jpg", BOX)
    lists = tmp_path / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("a\na\nb\n")
    train = read_parts(tmp_path)["train"]
    assert str(train.findings[0]) == "train.txt names 1 images twice; they count once"
    assert any("annotation file" in str(f) and "b.xml does not exist" in str(f) for f in train.findings)
    (lists / "train.txt").write_text("")
    with pytest.raises(DataError, match=r"train\.txt: must name the images of train, one a line, but it is empty"):
        find_dataset(tmp_path, "train")


def test_two_years_are_two_data_sets(tmp_path: Path) -> None:
    for year in ("VOC2007", "VOC2012"):
        write_xml(tmp_path / year / "Annotations" / "a.xml", "a.jpg", BOX)
    with pytest.raises(DataError, match="holds several data sets, VOC2007 and VOC2012; name one of them, such as "):
        find_dataset(tmp_path, "train")
