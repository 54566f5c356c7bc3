from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from effdet.data.conversion import WRITABLE, convert
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, read_parts
from effdet.data.image_copies import safe_name


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(names: list[str], labels: tuple[str, ...] = ("cat",), **changes: Any) -> Path:
        """Write a COCO set with a box on each image, and the images whose names stay in the folder."""
        root = tmp_path / "source"
        root.mkdir(exist_ok=True)
        images = [{"id": i, "file_name": name, "width": 60, "height": 40} for i, name in enumerate(names)]
        boxes = [
            {"id": i + 1, "image_id": i, "category_id": i % len(labels), "bbox": [i + 1.25, 2, 10, 20 + i / 3]}
            for i in range(len(names))
        ]
        classes = [{"id": i, "name": name} for i, name in enumerate(labels)]
        content = {"images": images, "annotations": boxes, "categories": classes, **changes}
        (root / "train.json").write_text(json.dumps(content))
        for i, name in enumerate(names):
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60, 40), (i * 20, 0, 0)).save(file)
        return root

    return write


def reds(folder: Path) -> list[int]:
    """Return the red of the first pixel of each image, which tells it from the others."""
    dataset = find_dataset(folder, "train")
    return [round(int(dataset.read(index)[0, 0, 0]) / 20) for index in range(len(dataset))]


@pytest.mark.parametrize("to", WRITABLE)
def test_names_that_would_meet_are_kept_apart(write: Callable[..., Path], tmp_path: Path, to: str) -> None:
    names = ["a.png", "a.jpg", "day 1/a.png", "day 2/a.png", "A.bmp", "Käse/日本 x.png", "a.b.png"]
    root = write(names)
    done = convert(root, tmp_path / "out", to=to)
    assert done.images["copied" if to == "shards" else "linked"] == len(names)
    found, plain = find_dataset(tmp_path / "out", "train"), find_dataset(root, "train")
    assert sorted(reds(tmp_path / "out")) == list(range(len(names)))
    order = np.argsort(reds(tmp_path / "out"))
    boxes = np.concatenate([found.annotations(int(index)).boxes for index in order])
    np.testing.assert_allclose(boxes, np.concatenate([plain.annotations(i).boxes for i in range(len(names))]))


@pytest.mark.parametrize("to", WRITABLE)
def test_names_cannot_lead_out_of_the_new_folder(write: Callable[..., Path], tmp_path: Path, to: str) -> None:
    outside = tmp_path / "outside.png"
    root = write(["../outside.png", "in.png"])
    with pytest.raises(DataError, match=r"names of images lead out of the data set: 1 \('../outside.png'\)"):
        convert(root, tmp_path / "out", to=to)
    root = write(["in.png", "other.png", "link.png"])
    (root / "link.png").unlink()
    (root / "link.png").symlink_to(outside)
    before = sorted(tmp_path.rglob("*"))
    convert(root, tmp_path / "out", to=to)
    new = [path for path in tmp_path.rglob("*") if path not in before]
    assert all(path.is_relative_to(tmp_path / "out") for path in new)
    assert not any(path.is_symlink() for path in (tmp_path / "out").rglob("*"))
    assert len(find_dataset(tmp_path / "out", "train").boxes_xywh) == 3


def test_images_are_links_or_copies(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write(["a.png", "b.png"])
    assert convert(root, tmp_path / "links", to="coco").images["linked"] == 2
    assert (tmp_path / "links/images/a.png").stat().st_ino == (root / "a.png").stat().st_ino
    assert convert(root, tmp_path / "copies", to="coco", images="copy").images["copied"] == 2
    assert (tmp_path / "copies/images/a.png").stat().st_ino != (root / "a.png").stat().st_ino
    (root / "b.png").unlink()
    assert convert(root, tmp_path / "fewer", to="voc").images["missing"] == 1


def test_ids_and_areas_are_kept_by_coco(write: Callable[..., Path], tmp_path: Path) -> None:
    box = {"id": 77, "image_id": 0, "category_id": 9, "bbox": [1, 2, 10, 20], "area": 33.5, "iscrowd": 1}
    other = {**box, "id": 5, "iscrowd": 0}
    root = write(["a.png"], annotations=[box, other], categories=[{"id": 9, "name": "x"}, {"id": 3, "name": "y"}])
    convert(root, tmp_path / "out", to="coco")
    found = find_dataset(tmp_path / "out", "train")
    assert found.annotation_ids.tolist() == [77, 5]
    assert found.areas.tolist() == [33.5, 33.5]
    assert (found.category_ids, found.class_names) == ((3, 9), ("y", "x"))
    assert found.image_ids.tolist() == [0]


def test_what_a_format_cannot_hold_is_counted(photo_sets: Path, tmp_path: Path) -> None:
    lost = {to: convert(photo_sets / "coco_open", tmp_path / to, to=to).lost for to in WRITABLE}
    areas = "334 areas of masks become width × height"
    assert lost == {
        "coco": (),
        "csv": (),
        "openimages": (areas,),
        "shards": (),
        "voc": ("5 crowd boxes are written as difficult", areas),
        "yolo": ("5 crowd boxes are written as ordinary boxes", areas),
    }


def test_parts_with_other_categories_get_one_list(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write(["a.png", "b.png"], ("cat", "ant"))
    content = json.loads((root / "train.json").read_text())
    content["categories"] = [{"id": 0, "name": "ant"}, {"id": 1, "name": "bee"}]
    (root / "val.json").write_text(json.dumps(content))
    convert(root, tmp_path / "out", to="yolo")
    parts = read_parts(tmp_path / "out")
    assert parts["train"].class_names == parts["val"].class_names == ("cat", "ant", "bee")
    assert parts["train"].labels.tolist() == [0, 1]
    assert parts["val"].labels.tolist() == [1, 2]


def test_wrong_arguments_are_one_sentence(write: Callable[..., Path], tmp_path: Path) -> None:
    root = write(["a.png", "b.png"], ("big  cat", "big cat"))
    with pytest.raises(
        ValueError, match="the format must be one of coco, yolo, voc, openimages, csv, shards, got 'tfrecord'"
    ):
        convert(root, tmp_path / "out", to="tfrecord")
    with pytest.raises(ValueError, match="class names must differ to be written as YOLO, but 'big cat' is there twice"):
        convert(root, tmp_path / "out", to="yolo")
    with pytest.raises(DataError, match="must be a new or an empty folder; choose another place, or remove it"):
        convert(root, root, to="yolo")
    with pytest.raises(DataError, match="no train annotations in"):
        convert(tmp_path, tmp_path / "new", to="yolo")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../etc/x.jpg", "etc/x.jpg"),
        ("/a/b.jpg", "a/b.jpg"),
        ("c:\\a\\b.jpg", "a/b.jpg"),
        ("./a//b.jpg", "a/b.jpg"),
        ('a\nb:"*?.jpg', "a_b____.jpg"),
        ("..", "image"),
    ],
)
def test_safe_names_stay_below_their_folder(name: str, expected: str) -> None:
    assert safe_name(name) == expected
