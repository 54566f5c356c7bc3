from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val, read_parts
from effdet.data.formats.finding import find_data
from effdet.data.formats.yolo_layouts import is_data_yaml

MakeImages = Callable[..., None]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data set of three training images (60×40), the last one without objects, and one to validate on."""
    for part, names in (("train", ("a", "b", "c")), ("val", ("d",))):
        (tmp_path / "images" / part).mkdir(parents=True)
        (tmp_path / "labels" / part).mkdir(parents=True)
        for name in names:
            Image.new("RGB", (60, 40)).save(tmp_path / "images" / part / f"{name}.png")
    (tmp_path / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.25\n1 0.1 0.2 0.1 0.2\n")
    (tmp_path / "labels/train/b.txt").write_text("2 0.1 0.2 0.5 0.2 0.5 0.9 0.3 0.95\n")
    (tmp_path / "labels/val/d.txt").write_text("1 0.5 0.5 1 1\n")
    write_yaml(tmp_path, {"path": ".", "train": "images/train", "val": "images/val", "names": ["ant", "bee", "cat"]})
    return tmp_path


def write_yaml(folder: Path, content: Any) -> None:
    (folder / "data.yaml").write_text(content if isinstance(content, str) else yaml.safe_dump(content))


def check_train(dataset: Any) -> None:
    """Assert the boxes of the fixture, by hand: 60×40 pixels."""
    assert [Path(name).name for name in dataset.names] == ["a.png", "b.png", "c.png"]
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.category_ids == (0, 1, 2)
    np.testing.assert_array_equal(dataset.offsets, [0, 2, 3, 3])
    np.testing.assert_array_equal(dataset.labels, [0, 1, 2])
    expected = [[15, 15, 30, 10], [3, 4, 6, 8], [6, 8, 24, 30]]
    np.testing.assert_allclose(dataset.boxes_xywh, expected, atol=1e-12)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"names": {0: "ant", 1: "bee", 2: "cat"}},
        {"path": None},
        {"path": "/datasets/of/another/machine"},
        {"train": ["images/train"]},
        {"train": ["images/train/a.png", "images/train/b.png", "images/train/c.png"]},
        {"train": "../images/train", "val": "../images/val"},  # Roboflow, for a file beside the folders
        {"train": "./images/train/"},
        {"train": "train.txt"},
        {"train": ["train.txt"]},
        {"train": r"images\train"},
        {"val": None, "valid": "images/val"},
        {"nc": 3, "download": "https://a.org/b.zip", "roboflow": {"license": "CC0"}},
    ],
)
def test_data_yaml_as_tools_write_it(data: Path, changes: dict[str, Any]) -> None:
    content = yaml.safe_load((data / "data.yaml").read_text())
    (data / "train.txt").write_text("./images/train/a.png\r\nimages/train/b.png\n\nimages\\train\\c.png\n")
    write_yaml(data, {key: value for key, value in {**content, **changes}.items() if value is not None})
    train, val = find_train_and_val(data)
    check_train(train)
    np.testing.assert_allclose(val.boxes_xywh, [[0, 0, 60, 40]])
    check_train(find_dataset(data / "data.yaml", "train"))
    assert is_data_yaml(data / "data.yaml")


def test_class_numbers_may_have_gaps(data: Path) -> None:
    write_yaml(data, {"train": "images/train", "val": "images/val", "names": {7: "cat", 0: "ant", 1: "bee", 5: "dog"}})
    (data / "labels/train/b.txt").write_text("7 0.5 0.5 0.1 0.1")
    dataset = find_dataset(data, "train")
    assert dataset.category_ids == (0, 1, 5, 7)
    assert [dataset.class_names[label] for label in dataset.labels] == ["ant", "bee", "cat"]


@pytest.mark.parametrize("file", ["classes.txt", "obj.names"])
@pytest.mark.parametrize("first", ["background", ""])
def test_the_number_of_a_class_is_that_of_its_line(data: Path, file: str, first: str) -> None:
    (data / "data.yaml").unlink()
    (data / file).write_text(f"{first}\nant\nbee\n\n")
    (data / "labels/train/b.txt").write_text("2 0.5 0.5 0.1 0.1")
    (data / "labels/train/a.txt").write_text("1 0.5 0.5 0.1 0.1")
    dataset = find_dataset(data, "train")
    assert dataset.class_names == ((first, "ant", "bee") if first else ("ant", "bee"))
    assert dataset.category_ids == ((0, 1, 2) if first else (1, 2))
    assert [dataset.class_names[label] for label in dataset.labels] == ["ant", "bee"]


def test_some_images_may_have_absolute_names(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data.parent)
    content = yaml.safe_load((data / "data.yaml").read_text())
    rest = [f"{data.name}/../{data.name}/images/train/{name}.png" for name in "bc"]
    (data / "list.txt").write_text("\n".join(str((data.parent / name).resolve()) for name in rest))
    write_yaml(data, {**content, "train": ["images/train/a.png", "list.txt"]})
    check_train(find_dataset(Path(data.name), "train"))


@pytest.mark.parametrize("layout", ["by part", "whole", "beside", "darknet", "capitals"])
def test_layouts_without_data_yaml(data: Path, tmp_path: Path, layout: str) -> None:
    (data / "data.yaml").unlink()
    (data / "classes.txt").write_text("ant\nbee\ncat\n")
    if layout == "by part":
        for part in ("train", "val"):
            (data / part).mkdir()
            for kind in ("images", "labels"):
                (data / kind / part).rename(data / part / kind)
        (data / "images").rmdir()
    elif layout == "capitals":
        (data / "images").rename(data / "Images")
        (data / "labels").rename(data / "Labels")
    elif layout == "darknet":
        (data / "obj.data").write_text("classes = 3\ntrain = data/train.txt\nnames = data/obj.names\nbackup = b/\n")
        (data / "classes.txt").rename(data / "obj.names")
        (data / "train.txt").write_text("".join(f"data/images/train/{name}.png\n" for name in "abc"))
    else:
        target = data / ("images" if layout == "whole" else "flat")
        target.mkdir(exist_ok=True)
        for file in (data / "images/train").iterdir():
            file.rename(target / file.name)
        for file in (data / "labels/train").iterdir():
            file.rename((data / "labels" if layout == "whole" else target) / file.name)
        for folder in ("images/train", "labels/train", "images/val"):
            for file in (data / folder).iterdir():
                file.unlink()
            (data / folder).rmdir()
        root = data if layout == "whole" else target
        (data / "classes.txt").rename(root / "classes.txt")
        check_train(read_parts(root)["all"])
        with pytest.raises(DataError, match=r"holds YOLO annotations and no parts .*effdet data split"):
            find_dataset(root, "val")
        return
    check_train(find_dataset(data, "train"))


def test_keypoints_are_left_out(data: Path) -> None:
    content = yaml.safe_load((data / "data.yaml").read_text())
    write_yaml(data, {**content, "kpt_shape": [2, 3]})
    (data / "labels/train/a.txt").write_text("0 0.5 0.5 0.5 0.25 0.1 0.1 2 0.2 0.2 2\n1 0.1 0.2 0.1 0.2 0 0 0 0 0 0\n")
    (data / "labels/train/b.txt").write_text("2 0.3 0.575 0.4 0.75 0 0 0 0 0 0\n")
    check_train(find_dataset(data, "train"))


def test_labels_lie_beside_images_below_a_folder_called_images(data: Path) -> None:
    root = data / "deep" / "images" / "mine"
    root.mkdir(parents=True)
    for name in "ab":
        (data / f"images/train/{name}.png").rename(root / f"{name}.png")
        (data / f"labels/train/{name}.txt").rename(root / f"{name}.txt")
    assert len(read_parts(root)["all"].boxes_xywh) == 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_encodings(data: Path, encoding: str) -> None:
    (data / "data.yaml").write_bytes(b"train: images/train\r\nval: images/val\r\nnames: " + b"")
    text = "train: images/train\r\nval: images/val\r\nnames: [fourmi, abeille, bête]\r\n"
    (data / "data.yaml").write_bytes(text.encode(encoding))
    (data / "labels/train/a.txt").write_bytes(b"0 0.5 0.5 0.5 0.25\r\n1 0.1 0.2 0.1 0.2\r\n".decode().encode(encoding))
    dataset = find_dataset(data, "train")
    assert dataset.class_names == ("fourmi", "abeille", "bête")
    assert len(dataset.boxes_xywh) == 3


# --- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        (
            "0 0.5 0.5 0.1",
            r"error: lines of label files cannot be read: 1 \(a\.txt has '0 0\.5 0\.5 0\.1'\); a line must be",
        ),
        ("ant 0.5 0.5 0.1 0.1", "error: lines of label files cannot be read"),
        ("0.5 0.5 0.5 0.1 0.1", "error: lines of label files cannot be read"),
        ("nan 0.5 0.5 0.1 0.1", "error: lines of label files cannot be read"),
        ("0 0,5 0,5 0,1 0,1", "error: lines of label files cannot be read"),
        ("0 1_0 0.5 0.1 0.1", "error: lines of label files cannot be read"),
        ("0 0.1 0.1 0.2 0.2 0.3 0.3 0.4", "error: lines of label files cannot be read"),
        (
            "3 0.5 0.5 0.1 0.1",
            r"error: labels have a class that .* does not list: 1 \(class 3 in the labels of a\.png\)",
        ),
        ("-1 0.5 0.5 0.1 0.1", r"error: labels have a class .*class -1 in the labels of a\.png"),
        ("99999999999 0.5 0.5 0.1 0.1", "error: lines of label files cannot be read"),
        ("0 nan 0.5 0.1 0.1", r"warning: boxes are not finite: 1 \(in a\.png\); they do not count"),
        ("0 inf 0.5 0.1 0.1", "warning: boxes are not finite"),
        ("0 0.5 0.5 0.1 0.1 0.9", r"warning: lines have six numbers: 1 .*; the last one, a score, is left out"),
        ("0 0.5 0.5 0 0.1", r"warning: boxes have no area: 1 \(box 1 of a\.png\); training leaves them out"),
        ("0 2.5 0.5 0.1 0.1", r"warning: boxes lie outside of their image: 1 \(box 1 of a\.png\)"),
        (
            "0 30 20 30 20\n1 5 5 5 5\n1 5 5 5 5\n1 5 5 5 5",
            "error: boxes are in pixels; they must be parts of the image",
        ),
    ],
)
def test_wrong_lines(data: Path, lines: str, sentence: str) -> None:
    (data / "labels/train/a.txt").write_text(lines)
    import re

    found = [f"{finding.severity}: {finding}" for finding in read_parts(data)["train"].findings]
    assert any(re.match(sentence, text) for text in found), found


def test_labels_without_images_are_named(data: Path) -> None:
    (data / "labels/train/gone.txt").write_text("0 0.5 0.5 0.1 0.1")
    found = find_dataset(data, "train").findings
    assert [str(finding) for finding in found] == [
        "label files have no image: 1 (gone.txt); add the images, or remove the files"
    ]


def test_boxes_of_an_unreadable_image_are_named(data: Path) -> None:
    (data / "images/train/a.png").write_bytes(b"no image")
    (finding,) = find_dataset(data, "train").findings
    assert str(finding).startswith("images are missing or cannot be read: 1 (a.png); boxes that are parts of an image")


def test_no_label_files_at_all_is_an_error(data: Path) -> None:
    for file in (data / "labels/train").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"data\.yaml: no image has a box"):
        find_dataset(data, "train")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"train": "images/gone", "names": ["a"]}, r"data\.yaml: train names 'images/gone', which does not exist in "),
        ({"train": 3, "names": ["a"]}, r"data\.yaml: train must be a folder, a list of images, .* got 3"),
        ({"train": [["images"]], "names": ["a"]}, r"data\.yaml: train must be a folder, a list of images"),
        (
            {"train": "images/train", "names": "a"},
            r"data\.yaml: names must be a list of class names, or a map .* got 'a'",
        ),
        ({"train": "images/train", "names": {"x": "a"}}, r"data\.yaml: names must be a list"),
        ({"train": "images/train", "names": {-1: "a"}}, r"data\.yaml: names must be a list"),
        ({"train": "labels/train", "names": ["a"]}, r"data\.yaml: no image files in "),
        ("train: [", r"data\.yaml: is not valid YAML: "),
        ("- a", r"data\.yaml: must be a map with train, val and names, got \['a'\]"),
        (
            "a: &a [1]\n" + "".join(f"b{i}: &b{i} [*a, *a]\n" for i in range(30)),
            r"is not valid YAML: it has more than 20",
        ),
    ],
)
def test_wrong_data_yaml_is_one_sentence(data: Path, content: Any, sentence: str) -> None:
    write_yaml(data, content)
    with pytest.raises(DataError, match=sentence) as caught:
        find_dataset(data, "train")
    assert "\n" not in str(caught.value)


def test_train_and_val_must_not_be_the_same(data: Path) -> None:
    write_yaml(data, {"train": "images/train", "val": "images/train", "names": ["ant", "bee", "cat"]})
    with pytest.raises(DataError, match="has no parts for training and validation; divide it with"):
        find_train_and_val(data)


def test_a_config_is_no_data_yaml(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("data: {root: data/coco}\ntrain: {epochs: 3}\n")
    assert not is_data_yaml(tmp_path / "mine.yaml")
    assert find_data(tmp_path).parts == {}
