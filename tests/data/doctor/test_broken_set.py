"""A copy of bccd with many faults at once: the doctor names each, and a cleaned copy trains."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from effdet.commands import main
from effdet.data.formats import read_parts

CONFIG = Path(__file__).resolve().parents[1] / "cases" / "tiny.yaml"
JsonObject = dict[str, Any]


class Copy:
    """A copy of bccd in COCO format, to be broken; each fault takes images that no other one has."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.train, self.val = (json.loads((root / f"{part}.json").read_text()) for part in ("train", "val"))
        self._free = iter(self.train["images"][10:])  # the first ones stay as they are
        self._free_val = iter(self.val["images"][10:])

    def image(self) -> JsonObject:
        return next(self._free)

    def val_image(self) -> JsonObject:
        return next(self._free_val)

    def file(self, image: JsonObject) -> Path:
        return self.root / "images" / image["file_name"]

    def rows(self) -> list[JsonObject]:
        return [row for row in self.train["annotations"] if isinstance(row, dict)]

    def boxes(self, image: JsonObject) -> list[JsonObject]:
        return [row for row in self.rows() if row["image_id"] == image["id"]]

    def box(self) -> JsonObject:
        return self.boxes(self.image())[0]

    def add(self, row: JsonObject, **changes: Any) -> JsonObject:
        new = {**row, "id": max(other["id"] for other in self.rows()) + 1, **changes}
        self.train["annotations"].append(new)
        return new

    def save(self) -> None:
        for part in ("train", "val"):
            (self.root / f"{part}.json").write_text(json.dumps(getattr(self, part)))


class Fault(NamedTuple):
    """How a set is broken, and what the doctor must say about it."""

    plant: Callable[[Copy], str]  # returns what an example must contain
    text: str  # how the finding must begin
    example: bool = True  # that it is named by its place


FAULTS: dict[str, Fault] = {}


def fault(text: str, *, example: bool = True) -> Callable[[Callable[[Copy], str]], Callable[[Copy], str]]:
    def register(plant: Callable[[Copy], str]) -> Callable[[Copy], str]:
        FAULTS[plant.__name__] = Fault(plant, text, example)
        return plant

    return register


# --- image files -----------------------------------------------------------------------------------------------------


@fault("image files are missing")
def missing_file(copy: Copy) -> str:
    image = copy.image()
    copy.file(image).unlink()
    return image["file_name"]


@fault("missing files are there under a similar name")
def name_in_capitals(copy: Copy) -> str:
    image = copy.image()
    os.rename(copy.file(image), copy.root / "images" / image["file_name"].upper())
    return image["file_name"]


@fault("image files cannot be decoded")
def cut_off_file(copy: Copy) -> str:
    image = copy.image()
    copy.file(image).write_bytes(copy.file(image).read_bytes()[:3000])
    return image["file_name"]


@fault("image files cannot be decoded")
def empty_file(copy: Copy) -> str:
    image = copy.image()
    copy.file(image).write_bytes(b"")
    return image["file_name"]


@fault("image files cannot be decoded")
def text_as_picture(copy: Copy) -> str:
    image = copy.image()
    copy.file(image).write_text("<html>404 Not Found</html>")
    return image["file_name"]


@fault("image files do not have the size")
def resized_file(copy: Copy) -> str:
    image = copy.image()
    Image.open(copy.file(image)).resize((320, 240)).save(copy.file(image))
    return image["file_name"]


@fault("image files do not have the size")
def exchanged_sides(copy: Copy) -> str:
    image = copy.image()
    image["width"], image["height"] = image["height"], image["width"]
    return image["file_name"]


@fault("images are turned by their EXIF orientation")
def turned_by_exif(copy: Copy) -> str:
    image = copy.image()
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.open(copy.file(image)).save(copy.file(image), exif=exif)
    return image["file_name"]


@fault("image files are copies of another one")
def copy_in_train(copy: Copy) -> str:
    one, other = copy.image(), copy.image()
    shutil.copy(copy.file(one), copy.file(other))
    return f"{other['file_name']} = {one['file_name']}"


@fault("images of val are also in train")
def copy_in_val(copy: Copy) -> str:
    one, other = copy.image(), copy.val_image()
    shutil.copy(copy.file(one), copy.file(other))
    return f"{other['file_name']} = {one['file_name']}"


@fault("images look the same as another one")
def alike_in_train(copy: Copy) -> str:
    one, other = copy.image(), copy.image()
    Image.open(copy.file(one)).save(copy.file(other), quality=50)
    return f"{other['file_name']} ~ {one['file_name']}"


@fault("images of val look the same as one of train")
def alike_in_val(copy: Copy) -> str:
    one, other = copy.image(), copy.val_image()
    Image.open(copy.file(one)).point(lambda value: min(255, value + 12)).save(copy.file(other), quality=70)
    return f"{other['file_name']} ~ {one['file_name']}"


@fault("image files are not in the annotations")
def picture_that_nothing_names(copy: Copy) -> str:
    pixels = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(copy.root / "images" / "a_new_one.jpg")
    return "a_new_one.jpg"


@fault("images have one colour only")
def blank_picture(copy: Copy) -> str:
    image = copy.image()
    Image.new("RGB", (640, 480), "gray").save(copy.file(image))
    return image["file_name"]


@fault("images have a side below 32 pixels")
def thumbnail(copy: Copy) -> str:
    image = copy.image()
    Image.open(copy.file(image)).resize((24, 18)).save(copy.file(image))
    image["width"], image["height"] = 24, 18
    for row in copy.boxes(image):
        row["bbox"] = [value * 24 / 640 for value in row["bbox"]]
    return image["file_name"]


@fault("images are more than 10 times as long as wide")
def strip(copy: Copy) -> str:
    image = copy.image()
    Image.open(copy.file(image)).resize((1200, 100)).save(copy.file(image))
    image["width"], image["height"] = 1200, 100
    for row in copy.boxes(image):
        x, y, width, height = row["bbox"]
        row["bbox"] = [x * 1200 / 640, y * 100 / 480, width * 1200 / 640, height * 100 / 480]
    return image["file_name"]


@fault("images have the suffix of another file type")
def png_called_jpg(copy: Copy) -> str:
    image = copy.image()
    Image.open(copy.file(image)).save(copy.file(image), format="PNG")
    return f"{image['file_name']} is PNG"


# --- entries of images -----------------------------------------------------------------------------------------------


@fault("files are listed twice")
def image_listed_twice(copy: Copy) -> str:
    image = copy.image()
    copy.train["images"].append({**image, "id": 90001})
    return image["file_name"]


@fault("image ids are given twice")
def image_id_twice(copy: Copy) -> str:
    image = copy.image()
    copy.image()["id"] = image["id"]
    return str(image["id"])


@fault("ids of images cannot be used")
def image_id_is_none(copy: Copy) -> str:
    copy.image()["id"] = None
    return "has None"


@fault("images have no file_name")
def image_without_name(copy: Copy) -> str:
    image = copy.image()
    del image["file_name"]
    return str(image["id"])


@fault("images have no width and height")
def image_without_size(copy: Copy) -> str:
    image = copy.image()
    image["width"] = 0
    return image["file_name"]


@fault("entries of 'images' are no objects")
def image_is_text(copy: Copy) -> str:
    copy.train["images"].append("BloodImage_00001.jpg")
    return "is a text"


@fault("images have no boxes")
def image_without_boxes(copy: Copy) -> str:
    image = copy.image()
    copy.train["annotations"] = [row for row in copy.rows() if row["image_id"] != image["id"]]
    return image["file_name"]


@fault("images have more boxes than the 100 detections")
def crowded_image(copy: Copy) -> str:
    image = copy.image()
    for number in range(110):
        place = [10 + 30.0 * (number % 20), 10 + 30.0 * (number // 20), 28.0, 28.0]
        copy.add(copy.boxes(image)[0], bbox=place, area=784)
    return image["file_name"]


# --- annotations -----------------------------------------------------------------------------------------------------


@fault("annotations belong to images that are not listed")
def unknown_image(copy: Copy) -> str:
    return str(copy.add(copy.box(), image_id=777777)["id"])


@fault("annotations belong to categories that are not listed")
def unknown_category(copy: Copy) -> str:
    return str(copy.add(copy.box(), category_id=55)["id"])


@fault("entries of 'annotations' are no objects")
def annotation_is_number(copy: Copy) -> str:
    copy.train["annotations"].append(5)
    return "is a number"


@fault("annotations have no box")
def box_of_three_numbers(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = row["bbox"][:3]
    return str(row["id"])


@fault("annotations have no box")
def box_of_words(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = ["left", "top", 5, 5]
    return str(row["id"])


@fault("annotations have an empty bbox")
def empty_box(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = []
    return str(row["id"])


@fault("boxes are not finite")
def box_not_a_number(copy: Copy) -> str:
    row = copy.box()
    row["bbox"][0] = float("nan")
    return str(row["id"])


@fault("boxes are not finite")
def box_infinite(copy: Copy) -> str:
    row = copy.box()
    row["bbox"][2] = float("inf")
    return str(row["id"])


@fault("boxes have no area")
def box_without_width(copy: Copy) -> str:
    row = copy.box()
    row["bbox"][2] = 0
    return str(row["id"])


@fault("boxes lie outside of their image")
def box_outside(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [700, 500, 40, 40]
    return str(row["id"])


@fault("boxes reach out of their image")
def box_reaching_out(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [620, 300, 40, 40]
    return str(row["id"])


@fault("single boxes seem to hold x1, y1, x2, y2")
def box_of_corners(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [400, 200, 560, 370]
    return str(row["id"])


@fault("single boxes seem to hold parts of the image")
def box_of_parts(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [0.2, 0.3, 0.1, 0.2]
    return str(row["id"])


@fault("boxes have no area")
def box_with_negative_sides(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [420, 330, -60, -50]
    return str(row["id"])


@fault("boxes are narrower than 4 pixels:")
def thin_box(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [100, 100, 3, 50]
    return str(row["id"])


@fault("boxes are more than 20 times as long as wide")
def long_box(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [10, 100, 500, 6]
    return str(row["id"])


@fault("boxes cover more than 95% of their image")
def box_of_the_whole_image(copy: Copy) -> str:
    row = copy.box()
    row["bbox"] = [0, 0, 640, 480]
    return str(row["id"])


@fault("boxes are there more than once, with the same class")
def box_twice(copy: Copy) -> str:
    return str(copy.add(copy.box())["id"])


@fault("boxes are nearly the same as another one of their class")
def box_nearly_twice(copy: Copy) -> str:
    row = copy.boxes(copy.train["images"][3])[0]
    x, y, width, height = row["bbox"]
    copy.add(row, bbox=[x + 1, y, width, height])
    return ""


@fault("boxes are the same as one of another class")
def box_of_two_classes(copy: Copy) -> str:
    row = copy.box()
    return str(copy.add(row, category_id=1 if row["category_id"] != 1 else 2)["id"])


@fault("areas of objects are 0, or larger than their boxes")
def area_of_the_image(copy: Copy) -> str:
    row = copy.box()
    row["area"] = 640 * 480
    return str(row["id"])


@fault("areas are no numbers of 0 or more")
def negative_area(copy: Copy) -> str:
    row = copy.box()
    row["area"] = -5
    return str(row["id"])


@fault("values of iscrowd are neither 0 nor 1")
def crowd_in_words(copy: Copy) -> str:
    row = copy.box()
    row["iscrowd"] = "perhaps"
    return str(row["id"])


@fault("annotation ids are given twice")
def annotation_id_twice(copy: Copy) -> str:
    one, other = copy.boxes(copy.image())[:2]
    other["id"] = one["id"]
    return str(one["id"])


# --- classes ---------------------------------------------------------------------------------------------------------


@fault("classes have no boxes")
def unused_class(copy: Copy) -> str:
    copy.train["categories"].append({"id": 20, "name": "Basophil"})
    return "Basophil"


@fault("class names differ only in capitals, spaces or signs")
def class_in_small_letters(copy: Copy) -> str:
    copy.train["categories"].append({"id": 21, "name": "rbc "})
    copy.box()["category_id"] = 21
    return "'rbc '"


@fault("class names are nearly the same")
def class_with_a_slip(copy: Copy) -> str:
    copy.train["categories"].append({"id": 22, "name": "Platelet"})
    copy.box()["category_id"] = 22
    return "'Platelet'"


@fault("class names are given twice")
def class_name_twice(copy: Copy) -> str:
    copy.train["categories"].append({"id": 23, "name": "WBC"})
    return "WBC"


@fault("category ids are given twice")
def category_id_twice(copy: Copy) -> str:
    copy.train["categories"].append({"id": 20, "name": "Monocyte"})
    return "20"


@fault("categories have no name")
def class_without_name(copy: Copy) -> str:
    copy.train["categories"].append({"id": 24})
    return "24"


@fault("ids of categories are no whole numbers")
def category_id_in_words(copy: Copy) -> str:
    copy.train["categories"].append({"id": "four", "name": "Four"})
    return "four"


@fault("classes have boxes in val but none in train")
def class_of_val_only(copy: Copy) -> str:
    for part in (copy.train, copy.val):
        part["categories"].append({"id": 30, "name": "Parasite"})
    copy.val["annotations"][0]["category_id"] = 30
    return "Parasite"


@fault("categories of val are not among those of train")
def class_that_train_lacks(copy: Copy) -> str:
    copy.val["categories"].append({"id": 31, "name": "Neutrophil"})
    return "Neutrophil"


@fault("classes have fewer than 20 boxes")
def rare_class(copy: Copy) -> str:
    copy.train["categories"].append({"id": 25, "name": "Sickle"})
    copy.box()["category_id"] = 25
    return ""


@fault("classes have less than 1/100 of the boxes of RBC")
def imbalance(copy: Copy) -> str:
    return ""


class Result(NamedTuple):
    """What the doctor said, and what the cleaned copy is."""

    found: JsonObject
    expected: dict[str, str]
    root: Path
    fixed: Path
    before: dict[str, bytes]


@pytest.fixture(scope="module")
def result(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Result:
    folder = tmp_path_factory.mktemp("broken")
    copy = Copy(Path(shutil.copytree(shared_data / "bccd", folder / "bccd")))
    expected = {name: fault.plant(copy) for name, fault in FAULTS.items()}
    copy.save()
    before = contents(copy.root)
    out = folder / "found.json"
    with out.open("w") as file, pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stdout", file)
        main(["data", "check", str(copy.root), "--json", "--no-estimate", "--fix", str(folder / "fixed")])
    return Result(json.loads(out.read_text()), expected, copy.root, folder / "fixed", before)


def contents(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def test_there_are_many_different_faults() -> None:
    assert len(FAULTS) >= 55


@pytest.mark.parametrize("name", FAULTS)
def test_each_fault_is_named(result: Result, name: str) -> None:
    text = FAULTS[name].text
    found = [row for row in result.found["findings"] if f"{row['text']}:".startswith(text)]
    assert found, sorted(row["text"] for row in result.found["findings"])
    assert all(row["advice"] for row in found), "says no fix"
    examples = [example for row in found for example in row["examples"]]
    assert max(row["count"] or 1 for row in found) >= 1
    if len(examples) == sum(row["count"] or 0 for row in found):  # all are named
        assert any(result.expected[name] in example for example in examples), examples
    assert all(len(row["examples"]) == min(3, row["count"]) for row in found if row["count"] is not None)


def test_the_source_stays_as_it_was(result: Result) -> None:
    assert contents(result.root) == result.before


def test_the_cleaned_copy_has_no_errors_and_says_what_was_done(result: Result) -> None:
    fixed = result.found["fixed"]
    assert fixed["check"]["errors"] is False
    assert fixed["format"] == "coco"
    changes = {change["text"]: change for change in fixed["changes"]}
    for text in (
        "names of images are written as their files are called",
        "boxes are converted from x1, y1, x2, y2",
        "boxes are scaled with their image, which has another size than annotated",
        "width and height are corrected: annotated width and height of images are exchanged",
        "entries of the same file are joined",
        "images are left out, as their files cannot be decoded",
        "images of train are left out, as another part has them too",
        "boxes are clipped to their image",
        "classes are joined with one of nearly the same name",
    ):
        assert text in changes
    parts = read_parts(result.fixed)
    assert set(parts["train"].class_names) == {"Platelets", "RBC", "WBC", "Platelet", "Sickle", "Parasite"}
    assert parts["train"].class_names == parts["val"].class_names


def test_the_cleaned_copy_trains(result: Result, tmp_path: Path) -> None:
    arguments = [f"data.root={result.fixed}", f"run.dir={tmp_path}", "data.image_size=[96, 128]", "data.long_side=null"]
    arguments += ["data.max_train_images=16", "data.max_val_images=8"]
    assert main(["train", str(CONFIG), f"data.root={result.root}", f"run.dir={tmp_path / 'broken'}"]) == 1
    assert main(["train", str(CONFIG), *arguments]) == 0
