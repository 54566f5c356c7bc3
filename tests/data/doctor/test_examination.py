import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from effdet.data.doctor.anchor_fit import Network
from effdet.data.doctor.examination import examine
from effdet.data.findings import Finding
from effdet.data.formats import Source
from effdet.models.architecture import EXACT_RATIOS

ERROR, WARNING, NOTE = "error", "warning", "note"
CATEGORIES = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]


def content(split):
    first = {"train": 1, "val": 11}[split]
    images = [{"id": first + i, "file_name": f"{split}{i}.png", "height": 40, "width": 60 + 10 * i} for i in range(3)]
    boxes = [(0, 3, [5, 5, 20, 10]), (0, 7, [30, 10, 15, 20]), (1, 3, [8, 8, 12, 12])]
    annotations = [
        {"id": i + 1, "image_id": first + image, "category_id": category, "bbox": bbox, "area": 100, "iscrowd": 0}
        for i, (image, category, bbox) in enumerate(boxes)
    ]
    return {"images": images, "annotations": annotations, "categories": [dict(row) for row in CATEGORIES]}


# Notes that hold for every set as small as this one.
OF_SMALL_SETS = ("classes have fewer than 20 boxes to learn from", "images have no boxes")


def besides_small(result):
    return [finding for finding in result.findings if finding.text not in OF_SMALL_SETS]


class DataSet:
    """A small clean data set on disk, to be spoilt."""

    def __init__(self, root):
        self.root = root
        self.contents = {split: content(split) for split in ("train", "val")}
        (root / "images").mkdir()
        rng = np.random.default_rng(0)
        for parts in self.contents.values():
            for image in parts["images"]:
                pixels = rng.integers(0, 256, (image["height"], image["width"], 3), dtype=np.uint8)
                cv2.imwrite(str(root / "images" / image["file_name"]), pixels)

    def image(self, name):
        return self.root / "images" / name

    def examine(self, **options):
        for split, parts in self.contents.items():
            (self.root / f"{split}.json").write_text(json.dumps(parts))
        files = {split: Source(self.root / f"{split}.json", (self.root / "images",)) for split in self.contents}
        return examine(files, **options)


@pytest.fixture
def data(tmp_path):
    return DataSet(tmp_path)


def spoil(key, place, **changes):
    def change(train):
        for name, value in changes.items():
            if value is None:
                train[key][place].pop(name)
            else:
                train[key][place][name] = value

    return change


def bbox(*numbers):
    return spoil("annotations", 0, bbox=list(numbers))


def again(key, place, **changes):
    return lambda train: train[key].append({**train[key][place], **changes})


def without(key):
    return lambda train: train.__setitem__(key, [])


def test_a_clean_set_has_no_findings_and_is_summed_up(data):
    result = data.examine()
    assert besides_small(result) == []
    assert not result.has_errors
    assert result.splits[0] == {
        "split": "train",
        "file": str(data.root / "train.json"),
        "images": 3,
        "images_without_boxes": 1,
        "boxes": 3,
        "crowd_boxes": 0,
        "box_side_percentiles": pytest.approx([12.2, 14.1, 17.0], abs=0.06),  # of 12, √200, √300, interpolated
        "boxes_of_class": {"cat": 2, "dog": 1},
    }


@pytest.mark.parametrize(
    ("change", "severity", "text", "example"),
    [
        (without("images"), ERROR, "there are no images", None),
        (spoil("images", 2, id="one"), ERROR, "ids of images cannot be used", "images[2] has 'one'"),
        (spoil("images", 2, file_name=None), ERROR, "images have no file_name", "image id 3 has None"),
        (again("images", 2), ERROR, "image ids are given twice", "3"),
        (again("images", 2, id=99), WARNING, "files are listed twice", "train2.png"),
        (spoil("images", 2, width=0), WARNING, "images have no width and height", "train2.png"),
        (without("annotations"), WARNING, "more than half of the images have no boxes", "train0.png"),
        (without("annotations"), ERROR, "no image has a box", None),
        (without("categories"), ERROR, "there are no categories", None),
        (again("categories", 1, name="fox"), ERROR, "category ids are given twice", "7"),
        (again("categories", 1, id=8), WARNING, "class names are given twice", "dog"),
        (again("categories", 1, id=8, name="fox"), WARNING, "classes have no boxes", "fox"),
        (spoil("annotations", 2, image_id=99), ERROR, "annotations belong to images", "annotation 3 has image_id 99"),
        (spoil("annotations", 2, id=0), WARNING, "an annotation has id 0", None),
        (bbox(1, 2, 3), ERROR, "annotations have no box", "annotation 1 has [1, 2, 3]"),
        (bbox(1, 2, 3, float("nan")), WARNING, "boxes are not finite", "annotation 1 has [1, 2, 3, nan]"),
        (bbox(5, 5, 0, 10), WARNING, "boxes have no area", "annotation 1"),
        (bbox(60, 5, 10, 10), WARNING, "boxes lie outside of their image", "annotation 1"),
        (bbox(50, 5, 12, 10), WARNING, "boxes reach out of their image", "annotation 1 of train0.png"),
        (bbox(5, 5, 3, 10), WARNING, "boxes are narrower than 4 pixels", "annotation 1 of train0.png"),
        (bbox(0, 0, 60, 39), WARNING, "boxes cover more than 95% of their image", "annotation 1 of train0.png"),
        (again("annotations", 2, id=9), WARNING, "boxes are there more than once", "annotation 9 of train1.png"),
        (lambda train: train["annotations"].append(5), ERROR, "entries of 'annotations'", "annotations[3] is a number"),
    ],
)
def test_a_fault_of_the_annotation_file_is_found(data, change, severity, text, example):
    change(data.contents["train"])
    found = [finding for finding in data.examine().findings if finding.text.startswith(text)]
    assert [(finding.severity, finding.split) for finding in found] == [(severity, "train")]
    assert found[0].examples[:1] == ((example,) if example else ())


def test_every_fault_of_a_file_is_found_at_once_and_errors_come_first(data):
    for change in (bbox(5, 5, 0, 10), spoil("annotations", 2, category_id=0), again("images", 2)):
        change(data.contents["train"])
    result = data.examine()
    levels = [finding.severity for finding in result.findings]
    assert result.has_errors
    assert levels.count(ERROR) == 2
    assert levels == sorted(levels, key=[ERROR, WARNING, NOTE].index)


@pytest.mark.parametrize("text", ["{", "[]", '{"images": [], "categories": {}}'])
def test_a_file_that_is_not_coco_is_one_error(tmp_path, text):
    (tmp_path / "train.json").write_text(text)
    result = examine({"train": Source(tmp_path / "train.json", (tmp_path,))})
    assert [(finding.severity, finding.split) for finding in result.findings] == [(ERROR, "train")]
    assert result.findings[0].advice == "correct or remove the file"
    assert str(result.findings[0]).startswith(f"{tmp_path / 'train.json'}: ")


def test_a_missing_annotation_file_is_one_error(tmp_path):
    result = examine({"val": Source(tmp_path / "val.json", (tmp_path,))})
    text = f"annotation file {tmp_path / 'val.json'} does not exist"
    assert [(finding.severity, finding.text, finding.split) for finding in result.findings] == [(ERROR, text, "val")]


# --- image files ---------------------------------------------------------------------------------------------------


def only(result):
    (finding,) = besides_small(result)
    return finding.severity, finding.split, finding.text.partition(" in /")[0], finding.examples


@pytest.mark.parametrize("decode_images", [True, False])
def test_a_missing_image_is_found(data, decode_images):
    data.image("val1.png").unlink()
    result = data.examine(decode_images=decode_images)
    assert only(result) == (ERROR, "val", "image files are missing", ("val1.png",))


def test_a_truncated_image_is_found_and_only_by_opening_it(data):
    file = data.image("train1.png")
    file.write_bytes(file.read_bytes()[:2000])
    level, split, text, (example,) = only(data.examine())
    assert (level, split, text) == (ERROR, "train", "image files cannot be decoded")
    assert example.startswith("train1.png: truncated or corrupt")
    assert besides_small(data.examine(decode_images=False)) == []


def test_another_size_than_annotated_is_found(data):
    data.contents["train"]["images"][2]["width"] = 99
    level, _, text, examples = only(data.examine())
    assert (level, text) == (ERROR, "image files do not have the size that the annotations were made for")
    assert examples == (f"train2.png: is 80×40 pixels, but {data.root / 'train.json'} was made for 99×40",)


def test_an_image_turned_by_exif_is_found(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = Image.open(data.image("train2.png")).rotate(90, expand=True)
    pixels.save(data.image("train2.jpg"), exif=exif)
    data.contents["train"]["images"][2]["file_name"] = "train2.jpg"
    data.image("train2.png").unlink()
    level, _, text, examples = only(data.examine())
    assert level == WARNING
    assert text.startswith("images are turned by their EXIF orientation")
    assert examples == ("train2.jpg (6)",)


def test_the_same_picture_in_train_and_val_is_an_error(data):
    shutil.copy(data.image("train1.png"), data.image("val1.png"))
    data.contents["val"]["images"][1]["width"] = 70
    level, split, text, examples = only(data.examine())
    assert (level, split, examples) == (ERROR, "", ("val1.png = train1.png",))
    assert text == "images of val are also in train"


def test_the_same_picture_twice_in_a_split_is_a_warning(data):
    shutil.copy(data.image("train1.png"), data.image("train2.png"))
    data.contents["train"]["images"][2]["width"] = 70
    level, split, text, examples = only(data.examine())
    assert (level, split, examples) == (WARNING, "train", ("train2.png = train1.png",))
    assert text == "image files are copies of another one"


def test_images_that_no_file_lists_are_noted_in_a_folder_of_one_split(data):
    data.contents.pop("val")
    level, split, text, examples = only(data.examine())
    assert (level, split, text) == (NOTE, "", "image files are not in the annotations")
    assert examples == ("val0.png", "val1.png", "val2.png")


# --- both splits, and the network input ----------------------------------------------------------------------------


def test_other_categories_in_val_are_an_error(data):
    data.contents["val"]["categories"][1]["name"] = "fox"
    found = [finding for finding in data.examine().findings if finding.severity == ERROR]
    text = "categories of val are not among those of train"
    assert found == [Finding(ERROR, text, "a model finds only what train lists", 1, ("fox",))]


def test_equal_names_with_other_ids_or_fewer_categories_are_a_note(data):
    parts = data.contents["val"]
    parts["categories"] = [{"id": 40, "name": "Dog "}]
    parts["annotations"] = [row | {"category_id": 40} for row in parts["annotations"] if row["category_id"] == 7]
    found = [(finding.severity, finding.text) for finding in data.examine().findings if not finding.split]
    assert found == [(NOTE, "categories of train and val have other ids or are not the same")]


def test_a_test_split_is_compared_with_train_too(data):
    data.contents["test"] = json.loads(json.dumps(data.contents["train"]))
    found = [finding for finding in data.examine().findings if finding.severity == ERROR]
    assert [(finding.text, finding.count) for finding in found] == [("images of test are also in train", 3)]


def test_a_class_that_only_val_has_boxes_of_is_found(data):
    data.contents["train"]["annotations"].pop(1)
    texts = {finding.text: finding for finding in data.examine().findings}
    assert texts["classes have boxes in val but none in train"].examples == ("dog (1 boxes)",)


def network(image_size, **changes):
    return Network(name="a network", image_size=image_size, aspect_ratios=EXACT_RATIOS, **changes)


def test_boxes_that_resizing_makes_tiny_are_found(data):
    # train1 is 40×70, so 12×1000 scales it by 0.3: 20×10 → 6×3, 12×12 → 3.6×3.6
    data.contents.pop("val")
    result = data.examine(network_for=lambda train: network((12, 1000)))
    (finding,) = [finding for finding in result.findings if "narrower" in finding.text]
    assert finding.severity == WARNING
    assert finding.text == "boxes are narrower than 4 pixels once the image is resized to 12×1000"
    assert finding.examples == ("annotation 1 of train0.png", "annotation 3 of train1.png")


def test_images_with_more_boxes_than_detections_are_found(data):
    result = data.examine(network_for=lambda train: network((64, 64), anchor_scale=1.0, max_detections=1))
    (train, val) = [finding for finding in result.findings if "more boxes than" in finding.text]
    assert (train.severity, val.split) == (WARNING, "val")
    assert train.text == "images have more boxes than the 1 detections that are kept of an image"
    assert train.examples == ("train0.png (2 boxes)",)


def test_progress_counts_the_images_of_each_split(data):
    seen = []
    data.examine(report=lambda *state: seen.append(state))
    assert seen[:3] == [("opening the images of train", number, 3) for number in (1, 2, 3)]
    assert seen[3:6] == [("opening the images of val", number, 3) for number in (1, 2, 3)]
    assert seen[6:] == [("comparing images", number, 3) for number in (1, 2, 3)] * 2


def test_the_result_is_plain_json(data):
    bbox(5, 5, 0, 10)(data.contents["train"])
    result = data.examine().to_dict()
    assert json.loads(json.dumps(result)) == result
    assert result["network"] is result["estimate"] is None
    assert [row for row in result["findings"] if row["severity"] == "warning"] == [
        {
            "severity": "warning",
            "text": "boxes have no area",
            "advice": "training leaves them out",
            "count": 1,
            "examples": ["annotation 1"],
            "split": "train",
        }
    ]
