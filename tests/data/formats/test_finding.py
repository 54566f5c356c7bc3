"""Which format and which parts a folder has, where there is a choice."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from effdet.data.conversion import convert
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val, read_parts
from effdet.data.formats.finding import find_data
from effdet.data.formats.folders import list_folder, remember_folders

Write = Callable[..., Path]


@pytest.fixture
def both(tmp_path: Path, write_coco: Write) -> Path:
    """A folder with train and val in COCO JSON and in YOLO."""
    for part in ("train", "val"):
        write_coco(tmp_path / "coco", f"{part}.json")
    convert(tmp_path / "coco", tmp_path / "both", to="yolo")
    for part in ("train", "val"):
        (tmp_path / "coco" / f"{part}.json").rename(tmp_path / "both" / f"{part}.json")
    return tmp_path / "both"


def test_of_two_formats_the_first_of_the_table_is_read_with_a_warning(
    both: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        dataset = find_dataset(both, "train")
    assert dataset.annotation_file == both / "train.json"
    sentence = (
        f"{both} holds annotations in 2 formats: COCO JSON (train.json) is read, as that format comes first, "
        "and YOLO (data.yaml) is not; name the file that is meant, or move the other one"
    )
    assert str(dataset.findings[0]) == sentence
    assert sentence in caplog.text
    assert find_dataset(both / "data.yaml", "train").category_ids == (0, 1)  # the other one, by its file
    assert find_dataset(both, "train", annotations="data.yaml").category_ids == (0, 1)


def test_of_two_formats_the_one_with_more_parts_is_read(both: Path) -> None:
    (both / "val.json").unlink()
    train, val = find_train_and_val(both)
    assert train.annotation_file == val.annotation_file == both / "data.yaml"
    assert "YOLO (data.yaml) is read, as it has more of the parts train, val and test" in str(train.findings[0])


@pytest.mark.parametrize(
    ("files", "images", "part"),
    [
        (("train/labels.json", "val/labels.json"), "{part}/data", "val"),  # FiftyOne
        (("dataset-3.json",), "photos", "all"),  # COCO Annotator, or any file beside a folder
        (("result.json",), "images", "all"),  # Label Studio's export as COCO
        (("annotations/instances_default.json",), "images", "all"),  # CVAT
        (("labels.json",), "data", "all"),  # FiftyOne, not divided
        (("train/annotations.json", "valid/annotations.json"), "{part}/images", "val"),
    ],
)
def test_more_layouts_of_coco(
    tmp_path: Path, write_coco: Write, files: tuple[str, ...], images: str, part: Any
) -> None:
    for file in files:
        write_coco(tmp_path, file, images.format(part=file.partition("/")[0]))
    assert read_parts(tmp_path)[part].read(0).shape == (40, 60, 3)


def test_a_part_that_is_missing_is_named_with_the_command(tmp_path: Path, write_coco: Write) -> None:
    write_coco(tmp_path / "my data")
    command = r'effdet data split ".*my data" --val 0\.2$'
    sentence = rf"no val annotations in .*: it has train \(COCO JSON\); divide train with: {command}"
    with pytest.raises(DataError, match=sentence):
        find_train_and_val(tmp_path / "my data")
    with pytest.raises(DataError, match=r"no test annotations in .*: it has train \(COCO JSON\)$"):
        find_dataset(tmp_path / "my data", "test")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_coco_json_in_other_encodings(tmp_path: Path, write_coco: Write, encoding: str) -> None:
    file = write_coco(tmp_path)
    content = json.loads(file.read_text())
    content["categories"][0]["name"] = "bête"
    file.write_bytes(json.dumps(content, ensure_ascii=False, indent=1).replace("\n", "\r\n").encode(encoding))
    dataset = find_dataset(tmp_path, "train")
    assert dataset.class_names == ("bête", "cat")
    assert bool(dataset.findings) == (encoding == "cp1252")


def test_a_named_pipe_is_not_opened(tmp_path: Path) -> None:
    import os

    for name in ("train.json", "data.yaml", "train.csv", "train.xml", "a.txt"):
        os.mkfifo(tmp_path / name)
    with pytest.raises(DataError, match=r"data\.yaml: cannot be read: it is no file$"):
        find_dataset(tmp_path, "train")
    with pytest.raises(DataError, match=r"train\.json must be a folder or a file, but it is a pipe"):
        find_dataset(tmp_path / "train.json", "train")


def test_a_folder_is_listed_once_inside_of_the_block(tmp_path: Path) -> None:
    with remember_folders():
        assert list_folder(tmp_path).folders == ()
        (tmp_path / "new").mkdir()
        assert list_folder(tmp_path).folders == ()
    assert list_folder(tmp_path).folders == ("new",)
    with pytest.raises(DataError, match=r"folder .*gone cannot be listed: No such file"):
        list_folder(tmp_path / "gone")


# --- splits.json ---------------------------------------------------------------------------------------------------


@pytest.fixture
def divided(tmp_path: Path, write_coco: Write) -> Path:
    write_coco(tmp_path, "all.json")
    write_split(tmp_path)
    return tmp_path


def write_split(folder: Path, **changes: Any) -> None:
    content = {"data": ".", "part": "all", "images": {"train": ["b.jpg", "c.jpg"], "val": ["a.jpg"]}, **changes}
    (folder / "splits.json").write_text(json.dumps(content))


def test_a_split_file_divides_a_set(divided: Path) -> None:
    train, val = find_train_and_val(divided)
    assert (train.names.tolist(), val.names.tolist()) == (["b.jpg", "c.jpg"], ["a.jpg"])
    assert (train.class_names, train.category_ids) == (val.class_names, val.category_ids)
    assert read_parts(divided).keys() == {"train", "val"}
    with pytest.raises(DataError, match="no test annotations"):
        find_dataset(divided, "test")


def test_a_split_file_may_divide_one_named_file(divided: Path) -> None:
    write_split(divided, data="all.json")
    assert find_dataset(divided / "all.json", "val").names.tolist() == ["a.jpg"]
    assert find_dataset(divided, "val").names.tolist() == ["a.jpg"]


def test_images_that_do_not_fit_the_split_file_are_named(divided: Path) -> None:
    write_split(divided, images={"train": ["b.jpg", "gone.jpg"], "val": ["a.jpg"]})
    texts = [str(finding) for finding in find_dataset(divided, "train").findings]
    assert texts == [
        "images are not named in splits.json: 1 (c.jpg); they are left out; divide the data anew",
        "images that splits.json names are not in the data set: 1 (gone.jpg); divide the data anew",
    ]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data": "go\nne"}, r"splits\.json: .*go\\nne, which it divides, does not exist; divide the data anew"),
        ({"data": "gone"}, r"splits\.json: .*gone, which it divides, does not exist; divide the data anew"),
        ({"data": 3}, r"splits\.json: must be a file that `effdet data split` has written; write it anew"),
        ({"part": "test"}, "must be a file that `effdet data split` has written"),
        ({"images": {"training": []}}, "must be a file that `effdet data split` has written"),
        ({"images": {"train": [1]}}, "must be a file that `effdet data split` has written"),
        ({"images": []}, "must be a file that `effdet data split` has written"),
        ({"part": "train"}, r"has no part train, which it divides; divide the data anew"),
        ({"images": {"train": ["x"], "val": ["a.jpg"]}}, r"none of the images of .*all\.json belongs to train; divide"),
    ],
)
def test_wrong_split_files_are_one_sentence(divided: Path, changes: dict[str, Any], sentence: str) -> None:
    write_split(divided, **changes)
    with pytest.raises(DataError, match=sentence):
        find_dataset(divided, "train")


def test_a_split_file_that_is_no_json(divided: Path) -> None:
    (divided / "splits.json").write_text("{")
    with pytest.raises(DataError, match=r"splits\.json: is not valid JSON"):
        find_data(divided)


def test_nothing_outside_of_the_data_folder_is_looked_at(tmp_path: Path, write_coco: Write) -> None:
    write_coco(tmp_path / "coco")
    for to in ("voc", "csv", "yolo", "openimages"):
        convert(find_dataset_as_parts(tmp_path / "coco"), tmp_path / to, to=to)
        for name in ("classes.txt", "classes.csv", "class-descriptions-boxable.csv"):
            if to != "yolo":
                (tmp_path / to / name).unlink(missing_ok=True)
            (tmp_path / name).write_text("dog,0\nant,1\n")
        assert "dog" not in " ".join(read_parts(tmp_path / to)["train"].class_names)


def find_dataset_as_parts(folder: Path) -> dict[Any, Any]:
    return {"train": find_dataset(folder, "train")}
