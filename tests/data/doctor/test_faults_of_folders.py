"""Faults of a whole set or of its folders, each in a copy of bccd: the doctor names them, and mends what it can."""

from __future__ import annotations

import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from effdet.data.conversion import convert
from effdet.data.findings import DataError
from effdet.data.formats import read_parts
from effdet.runs.check_data import check_data, clean_data


@pytest.fixture(scope="module")
def base(photo_sets):
    """The first images of train and val of bccd, with all boxes inside of their image."""
    parts = read_parts(photo_sets / "bccd")
    return {part: dataset.without(range(8, len(dataset))) for part, dataset in parts.items()}


@pytest.fixture
def written(base, tmp_path):
    def write(format):
        folder = tmp_path / format
        convert(base, folder, to=format, images="copy")
        return folder

    return write


def messages(folder, severity="error"):
    found = check_data(folder, estimate=False).findings
    return [f"{finding.split}: {finding}" for finding in found if finding.severity == severity]


def boxes_of(folder, part="train"):
    return read_parts(folder)[part].boxes_xywh


def edit_json(file, edit):
    content = json.loads(file.read_text())
    edit(content)
    file.write_text(json.dumps(content))


def edit_labels(folder, edit):
    for file in sorted((folder / "labels").rglob("*.txt")):
        lines = [edit([float(value) for value in line.split()]) for line in file.read_text().splitlines()]
        file.write_text("".join(f"{int(line[0])} {' '.join(map(str, line[1:]))}\n" for line in lines))


def coco_files(folder):
    return [path for path in sorted(folder.rglob("*.json")) if path.stem in ("train", "val", "instances_train")]


def turn(folder):
    """Store all images turned, with the EXIF orientation that turns them back."""
    for path in folder.rglob("*.jpg"):
        image, exif = Image.open(path).convert("RGB"), Image.Exif()
        exif[0x0112] = 6
        image.transpose(Image.Transpose.ROTATE_90).save(path, exif=exif, quality=92)


def exchange_sizes(content):
    for image in content["images"]:
        image["width"], image["height"] = image["height"], image["width"]


def test_boxes_in_percent_are_named_and_put_right(written, base, tmp_path):
    folder = written("yolo")
    edit_labels(folder, lambda line: [line[0], *(100 * value for value in line[1:])])
    assert "train: boxes are in percent of the image" in messages(folder)[0]
    clean_data(folder, tmp_path / "clean")
    expected = base["train"].boxes_xywh
    assert len(boxes_of(tmp_path / "clean")) >= 0.98 * len(expected)
    np.testing.assert_allclose(boxes_of(tmp_path / "clean")[0], expected[0], atol=0.6)


@pytest.mark.parametrize(("shift", "word"), [(1, "high"), (-1, "low")])
def test_class_numbers_that_begin_one_off_are_named_and_not_cleaned(written, tmp_path, shift, word):
    folder = written("coco")

    def edit(content):
        for row in content["annotations"]:
            row["category_id"] += shift

    for file in coco_files(folder):
        edit_json(file, edit)
    assert any(f"numbers of classes seem to be one too {word}" in text for text in messages(folder))
    with pytest.raises(DataError, match=f"one too {word}.*a cleaned copy would have wrong classes"):
        clean_data(folder, tmp_path / "clean")


def test_class_numbers_of_yolo_that_begin_at_1_are_named(written):
    folder = written("yolo")
    edit_labels(folder, lambda line: [line[0] + 1, *line[1:]])
    assert any("one too high: 3 is not listed, and 0 has no box" in text for text in messages(folder))


def test_label_files_in_another_folder_are_found(written):
    folder = written("yolo")
    for one, other in (("train", "x"), ("val", "train"), ("x", "val")):
        (folder / "labels" / one).rename(folder / "labels" / other)
    told = messages(folder)
    assert "train: no image has its label file in" in told[0]
    assert f"8 files of these names are in {folder / 'labels' / 'val'}: move them" in told[0]


def test_label_files_in_another_normal_form_of_unicode_are_read(written):
    folder = written("yolo")
    count = len(boxes_of(folder))
    for path in [*folder.rglob("*.jpg"), *folder.rglob("labels/*/*.txt")]:
        form = "NFC" if path.suffix == ".txt" else "NFD"
        path.rename(path.with_name(unicodedata.normalize(form, f"ü{path.name}")))
    assert messages(folder) == []
    assert len(boxes_of(folder)) == count


def test_images_in_the_folder_of_another_split_are_found(base, tmp_path):
    for part, below in (("train", "train"), ("val", "valid")):
        convert({part: base[part]}, tmp_path / part, to="coco", images="copy")
        (tmp_path / "set" / below).mkdir(parents=True, exist_ok=True)
        file = next(path for path in (tmp_path / part).rglob("*.json"))
        shutil.copy(file, tmp_path / "set" / below / "_annotations.coco.json")
        edit_json(
            tmp_path / "set" / below / "_annotations.coco.json",
            lambda content: [image.update(file_name=Path(image["file_name"]).name) for image in content["images"]],
        )
        for path in (tmp_path / part).rglob("*.jpg"):
            other = tmp_path / "set" / {"train": "valid", "valid": "train"}[below]
            other.mkdir(exist_ok=True)
            shutil.copy(path, other)
    assert any("missing files are in the folder of val: 8" in text for text in messages(tmp_path / "set", "warning"))


def test_exchanged_width_and_height_are_not_taken_for_exchanged_boxes(written, base, tmp_path):
    folder = written("voc")
    for file in folder.rglob("*.xml"):
        text = file.read_text().replace("<width>640</width>", "<width>_</width>")
        file.write_text(text.replace("<height>480</height>", "<height>640</height>").replace(">_<", ">480<"))
    told = messages(folder)
    assert [text.partition(":")[2].split(":")[0].strip() for text in told] == [
        *["annotated width and height of images are exchanged"] * 2,
        *["image files do not have the size that the annotations were made for"] * 2,
    ]
    clean_data(folder, tmp_path / "clean")
    assert messages(tmp_path / "clean") == []
    np.testing.assert_allclose(boxes_of(tmp_path / "clean")[0], base["train"].boxes_xywh[0], atol=0.6)


def test_annotated_sizes_that_are_too_small_for_the_boxes_are_put_right(written, base, tmp_path):
    folder = written("coco")
    halve = lambda content: [image.update(width=320, height=240) for image in content["images"]]  # noqa: E731
    for file in coco_files(folder):
        edit_json(file, halve)
    assert (
        "boxes lie outside of the annotated size of their image, and inside of that of its file" in messages(folder)[0]
    )
    clean_data(folder, tmp_path / "clean")
    np.testing.assert_allclose(boxes_of(tmp_path / "clean")[0], base["train"].boxes_xywh[0], atol=0.6)


def test_sizes_of_images_that_exif_turns_are_put_right(written, base, tmp_path):
    folder = written("coco")
    turn(folder)
    assert messages(folder) == []
    for file in coco_files(folder):
        edit_json(file, exchange_sizes)
    assert (
        "boxes fit their images only with width and height exchanged, as EXIF turns the images" in messages(folder)[0]
    )
    clean_data(folder, tmp_path / "clean")
    assert messages(tmp_path / "clean") == []
    cleaned = read_parts(tmp_path / "clean")["train"]
    np.testing.assert_allclose(cleaned.boxes_xywh[0], base["train"].boxes_xywh[0], atol=0.6)
    assert cleaned.read(0).shape == (480, 640, 3)


def test_boxes_that_were_drawn_on_larger_images_are_an_error(written):
    folder = written("yolo")
    convert(folder, folder.parent / "coco", to="coco", images="copy")
    for path in (folder.parent / "coco").rglob("*.jpg"):
        Image.open(path).resize((320, 240)).save(path)
    for file in coco_files(folder.parent / "coco"):
        edit_json(file, lambda content: [image.update(width=320, height=240) for image in content["images"]])
    assert any("reach up to 2.0 × 2.0 of width and height" in text for text in messages(folder.parent / "coco"))


def test_tables_with_decimal_commas_and_with_sides_of_boxes_are_read(base, tmp_path):
    dataset = base["train"]
    convert({"all": dataset}, tmp_path / "original", to="csv", images="copy")
    corners = np.concatenate([dataset.boxes_xywh[:, :2], dataset.boxes_xywh.reshape(-1, 2, 2).sum(axis=1)], axis=1)
    tables = {"image;xmin;ymin;xmax;ymax;label": corners, "image;x;y;width;height;label": dataset.boxes_xywh}
    for number, (head, boxes) in enumerate(tables.items()):
        shutil.copytree(tmp_path / "original" / "images", tmp_path / str(number) / "images")
        rows = [head]
        for index, box in zip(dataset.image_of_box, boxes, strict=True):
            values = ";".join(f"{value:.2f}" for value in box).replace(".", ",")
            rows.append(f"{Path(dataset.names[index]).name};{values};cell")
        (tmp_path / str(number) / "train.csv").write_text("\n".join(rows))
        np.testing.assert_allclose(boxes_of(tmp_path / str(number)), dataset.boxes_xywh, atol=0.02)
