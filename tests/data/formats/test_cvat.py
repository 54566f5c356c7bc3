from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import find_train_and_val, read_parts

META = "<meta><task><labels><label><name>cat</name></label><label><name>ant</name></label></labels></task></meta>"


def read(folder: Path, shapes: str, image: str = 'name="a.jpg" width="100" height="80"') -> Dataset:
    (folder / "images").mkdir(exist_ok=True)
    Image.new("RGB", (100, 80)).save(folder / "images" / "a.jpg")
    (folder / "annotations.xml").write_text(
        f"<?xml version='1.0'?><annotations><version>1.1</version>{META}<image id='0' {image}>{shapes}</image>"
        "</annotations>"
    )
    return read_parts(folder)["all"]


@pytest.mark.parametrize(
    ("shape", "box"),
    [
        ('<box label="ant" xtl="10.5" ytl="20" xbr="30" ybr="60" occluded="0" z_order="0"/>', [10.5, 20, 19.5, 40]),
        ('<box label="ant" xtl="10" ytl="20" xbr="30" ybr="60" rotation="90"/>', [0, 30, 40, 20]),
        ('<box label="ant" xtl="10" ytl="20" xbr="30" ybr="60" rotation="180"/>', [10, 20, 20, 40]),
        ('<polygon label="ant" points="10,20;30,25;15.5,60"/>', [10, 20, 20, 40]),
        ('<ellipse label="ant" cx="20" cy="40" rx="10" ry="20"/>', [10, 20, 20, 40]),
        ('<ellipse label="ant" cx="20" cy="40" rx="10" ry="20" rotation="90"/>', [0, 30, 40, 20]),
        ('<mask label="ant" rle="0, 5" left="10" top="20" width="20" height="40"/>', [10, 20, 20, 40]),
    ],
)
def test_shapes_have_boxes(tmp_path: Path, shape: str, box: list[float]) -> None:
    dataset = read(tmp_path, shape)
    assert dataset.class_names == ("cat", "ant")
    assert dataset.labels.tolist() == [1]
    assert dataset.findings == ()
    np.testing.assert_allclose(dataset.boxes_xywh, [box], atol=1e-12)
    assert dataset.read(0).shape == (80, 100, 3)


def test_shapes_without_a_box_are_counted(tmp_path: Path) -> None:
    dataset = read(
        tmp_path,
        '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="60"/><points label="ant" points="1,2"/><tag label="ant"/>',
    )
    assert [str(f) for f in dataset.findings] == [
        "shapes <points> have no box: 1 (in a.jpg); they do not count",
        "shapes <tag> have no box: 1 (in a.jpg); they do not count",
    ]


@pytest.mark.parametrize(
    "shape",
    [
        '<box label="ant" xtl="x" ytl="20" xbr="30" ybr="60"/>',
        '<box label="ant" xtl="1" ytl="20" xbr="30"/>',
        '<box xtl="1" ytl="20" xbr="30" ybr="60"/>',
        '<box label="ant" xtl="1" ytl="20" xbr="30" ybr="60" rotation="inf"/>',
        '<polygon label="ant" points="10,20;30,25"/>',
        '<polygon label="ant" points="10,20;30,25;x,3"/>',
        '<polygon label="ant"/>',
        "<cloud/>",
    ],
)
def test_wrong_shapes_are_errors(tmp_path: Path, shape: str) -> None:
    finding = read(tmp_path, shape).findings[0]
    assert finding.severity == "error"
    assert str(finding).startswith("shapes have no box or no label: 1 (<")


def test_images_without_name_or_size(tmp_path: Path) -> None:
    assert str(read(tmp_path, "", 'width="1"').findings[0]).startswith("images have no name: 1 (image 1)")
    dataset = read(tmp_path, '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="60"/>', 'name="a.jpg"')
    assert dataset.sizes.tolist() == [[80, 100]]


def test_parts_are_found_by_name(tmp_path: Path) -> None:
    read(tmp_path, '<box label="cat" xtl="1" ytl="2" xbr="30" ybr="60"/>')
    for part in ("Train", "Validation"):
        (tmp_path / part).mkdir()
        (tmp_path / part / "annotations.xml").write_bytes((tmp_path / "annotations.xml").read_bytes())
        (tmp_path / "images" / part).mkdir()
        Image.new("RGB", (100, 80)).save(tmp_path / "images" / part / "a.jpg")
    (tmp_path / "annotations.xml").unlink()
    for dataset, part in zip(find_train_and_val(tmp_path), ("Train", "Validation"), strict=True):
        assert dataset.annotation_file.parent.name == part
        assert dataset.read(0).shape == (80, 100, 3)


def test_videos_are_refused_with_advice(tmp_path: Path) -> None:
    read(tmp_path, "")
    (tmp_path / "annotations.xml").write_text("<annotations><track id='0' label='cat'/></annotations>")
    with pytest.raises(DataError, match=r"must be 'CVAT for images', but it holds the tracks of a video; export"):
        read_parts(tmp_path)
    (tmp_path / "annotations.xml").write_text("<!-- <annotations> --><other/>")
    with pytest.raises(DataError, match=r"must be CVAT's XML with <annotations>, but it has <other>"):
        read_parts(tmp_path)
