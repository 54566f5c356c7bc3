import json
import shutil

import cv2
import numpy as np
import pytest
from PIL import Image

from effdet.data.coco import DataError, find_coco_files
from effdet.data.inspection import inspect
from effdet.data.raw import ERROR, NOTE, WARNING, Finding

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

    def inspect(self, **options):
        for split, parts in self.contents.items():
            (self.root / f"{split}.json").write_text(json.dumps(parts))
        files = {split: (self.root / f"{split}.json", self.root / "images") for split in self.contents}
        return inspect(files, **options)


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
    result = data.inspect()
    assert result.findings == []
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
    ("change", "level", "text", "example"),
    [
        (without("images"), ERROR, "has no images", None),
        (spoil("images", 2, id="one"), ERROR, "1 images have no integer id", "images[2]"),
        (spoil("images", 2, id=True), ERROR, "1 images have no integer id", "images[2]"),
        (spoil("images", 2, file_name=None), ERROR, "1 images have no file_name", "image 3"),
        (again("images", 2), ERROR, "1 image ids are given twice", "3"),
        (again("images", 2, id=99), WARNING, "1 files are listed twice", "train2.png"),
        (spoil("images", 2, width=0), WARNING, "1 images have no width and height", "train2.png"),
        (without("annotations"), WARNING, "3 images, more than half, have no boxes", "train0.png"),
        (without("categories"), ERROR, "has no categories", None),
        (spoil("categories", 1, id=7.5), ERROR, "1 categories have no integer id", "categories[1]"),
        (again("categories", 1, name="fox"), ERROR, "1 category ids are given twice", "7"),
        (spoil("categories", 1, name=None), WARNING, "1 categories have no name", "category 7"),
        (again("categories", 1, id=8), WARNING, "1 class names are given twice", "dog"),
        (again("categories", 1, id=8, name="fox"), WARNING, "1 classes have no boxes", "fox"),
        (spoil("annotations", 2, image_id=99), ERROR, "1 annotations are of images that", "annotation 3 of image 99"),
        (spoil("annotations", 2, image_id=[1]), ERROR, "1 annotations are of images that", "annotation 3 of image [1]"),
        (spoil("annotations", 2, category_id=0), ERROR, "1 category ids of annotations", "category_id 0 (1 times)"),
        (spoil("annotations", 2, id=1), WARNING, "1 annotation ids are given twice", "1"),
        (spoil("annotations", 2, id=0), WARNING, "an annotation has id 0", None),
        (bbox(1, 2, 3), ERROR, "1 annotations have no bbox of four numbers", "annotation 1 of image 1"),
        (bbox(1, 2, 3, float("nan")), ERROR, "1 annotations have no bbox of four numbers", "annotation 1 of image 1"),
        (bbox(5, 5, 0, 10), WARNING, "1 boxes have no area; they are left out", "annotation 1 of image 1"),
        (bbox(5, 5, 10, -1), WARNING, "1 boxes have no area; they are left out", "annotation 1 of image 1"),
        (bbox(60, 5, 10, 10), WARNING, "1 boxes lie outside of their image", "annotation 1 of image 1"),
        (bbox(50, 5, 12, 10), WARNING, "1 boxes reach out of their image; they are clipped", "annotation 1 of image 1"),
        (bbox(5, 5, 3, 10), WARNING, "1 boxes are narrower than 4 pixels", "annotation 1 of image 1"),
        (bbox(0, 0, 60, 39), WARNING, "1 boxes cover more than 95% of their image", "annotation 1 of image 1"),
        (again("annotations", 2, id=9), WARNING, "2 boxes are there more than once", "annotation 3 of image 2"),
        (lambda train: train["annotations"].append(5), ERROR, "1 entries are no objects", "annotations[3]"),
    ],
)
def test_a_fault_of_the_annotation_file_is_found(data, change, level, text, example):
    change(data.contents["train"])
    found = [finding for finding in data.inspect().findings if finding.text.startswith(text)]
    assert [(finding.level, finding.split) for finding in found] == [(level, "train")]
    assert found[0].examples[:1] == ((example,) if example else ())


def test_every_fault_of_a_file_is_found_at_once_and_errors_come_first(data):
    for change in (bbox(5, 5, 0, 10), spoil("annotations", 2, category_id=0), again("images", 2)):
        change(data.contents["train"])
    result = data.inspect()
    levels = [finding.level for finding in result.findings]
    assert result.has_errors
    assert levels.count(ERROR) == 2
    assert levels == sorted(levels, key=[ERROR, WARNING, NOTE].index)


def test_relative_boxes_are_recognised(data):
    for row in data.contents["val"]["annotations"]:
        row["bbox"] = [value / 100 for value in row["bbox"]]
    assert any(finding.text.startswith("all boxes lie in [0, 1]") for finding in data.inspect().findings)


def test_corner_boxes_are_recognised(data):
    for row in data.contents["val"]["annotations"]:
        row["bbox"] = [30, 25, 55, 38]  # corners that would lie inside
    expected = "100% of the boxes reach out of their image: is bbox x, y, width, height?"
    assert Finding(ERROR, "val", expected) in data.inspect().findings


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not valid JSON"),
        ("[]", "has no list images and no list annotations and no list categories"),
        ('{"images": [], "categories": {}}', "has no list annotations and no list categories"),
    ],
)
def test_a_file_that_is_not_coco_is_one_error(tmp_path, text, message):
    (tmp_path / "train.json").write_text(text)
    result = inspect({"train": (tmp_path / "train.json", tmp_path)})
    assert [finding.level for finding in result.findings] == [ERROR]
    assert message in result.findings[0].text


def test_a_missing_annotation_file_is_one_error(tmp_path):
    result = inspect({"val": (tmp_path / "val.json", tmp_path)})
    assert result.findings == [
        Finding(ERROR, "val", f"{tmp_path / 'val.json'} cannot be read: No such file or directory")
    ]


# --- image files ---------------------------------------------------------------------------------------------------


def only(result):
    (finding,) = result.findings
    return finding.level, finding.split, finding.text.partition(" in /")[0], finding.examples


@pytest.mark.parametrize("open_images", [True, False])
def test_a_missing_image_is_found(data, open_images):
    data.image("val1.png").unlink()
    result = data.inspect(open_images=open_images)
    assert only(result) == (ERROR, "val", "1 image files are missing", ("val1.png",))


def test_a_truncated_image_is_found_and_only_by_opening_it(data):
    file = data.image("train1.png")
    file.write_bytes(file.read_bytes()[:2000])
    level, split, text, (example,) = only(data.inspect())
    assert (level, split, text) == (ERROR, "train", "1 image files cannot be decoded")
    assert example.startswith("train1.png (truncated or corrupt")
    assert data.inspect(open_images=False).findings == []


def test_another_size_than_annotated_is_found(data):
    data.contents["train"]["images"][2]["width"] = 99
    level, _, text, examples = only(data.inspect())
    assert (level, text) == (ERROR, "1 image files do not have the size that the annotations were made for")
    assert examples == ("train2.png (file 80×40, annotations 99×40)",)


def test_an_image_turned_by_exif_is_found(data):
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = Image.open(data.image("train2.png")).rotate(90, expand=True)
    pixels.save(data.image("train2.jpg"), exif=exif)
    data.contents["train"]["images"][2]["file_name"] = "train2.jpg"
    level, _, text, examples = only(data.inspect())
    assert level == WARNING
    assert text.startswith("1 images are turned by their EXIF orientation")
    assert examples == ("train2.jpg (6)",)


def test_the_same_picture_in_train_and_val_is_an_error(data):
    shutil.copy(data.image("train1.png"), data.image("val1.png"))
    data.contents["val"]["images"][1]["width"] = 70
    level, split, text, examples = only(data.inspect())
    assert (level, split, examples) == (ERROR, "", ("val1.png = train1.png",))
    assert text == "1 images of val are also in train, so val measures memory"


def test_the_same_picture_twice_in_a_split_is_a_warning(data):
    shutil.copy(data.image("train1.png"), data.image("train2.png"))
    data.contents["train"]["images"][2]["width"] = 70
    level, split, text, examples = only(data.inspect())
    assert (level, split, examples) == (WARNING, "train", ("train2.png = train1.png",))
    assert text == "1 image files are copies of another one"


def test_images_that_no_file_lists_are_noted_in_a_folder_of_one_split(data):
    (data.root / "images").rename(data.root / "photos")
    for split in data.contents:
        (data.root / f"{split}.json").write_text(json.dumps(data.contents[split]))
    result = inspect({"train": (data.root / "train.json", data.root / "photos")})
    level, _, text, examples = only(result)
    assert (level, text) == (NOTE, "3 image files")
    assert examples == ("val0.png", "val1.png", "val2.png")


# --- both splits, and the network input ----------------------------------------------------------------------------


def test_other_categories_in_val_are_an_error(data):
    data.contents["val"]["categories"][1]["name"] = "fox"
    found = [finding for finding in data.inspect().findings if finding.level == ERROR]
    assert found == [Finding(ERROR, "", "1 categories differ between train and val", ("id 7: dog / fox",))]


def test_a_class_that_only_val_has_boxes_of_is_found(data):
    data.contents["train"]["annotations"].pop(1)
    texts = {finding.text: finding for finding in data.inspect().findings}
    assert texts["1 classes have boxes in val but none in train"].examples == ("dog (1 boxes)",)


def test_boxes_are_compared_with_the_network_input_after_letterboxing(data):
    # train0 is 40×60 (height×width): at 20×60 the scale is 1/2, so [5, 5, 20, 10] becomes [2.5, 2.5, 10, 5]
    seen = []

    def overlap(boxes):
        seen.append(boxes)
        return np.array([0.9, 0.49, 0.5], np.float32)

    data.contents.pop("val")
    result = data.inspect(image_size=(20, 60), anchor_overlap=overlap)
    by_hand = [[2.5, 2.5, 12.5, 7.5], [15, 5, 22.5, 15], [4, 4, 10, 10]]
    np.testing.assert_allclose(seen[0], by_hand)
    assert seen[0].dtype == np.float32
    level, split, text, examples = only(result)
    assert (level, split) == (WARNING, "train")
    assert text.startswith("1 boxes of 3 looked at are reached by no anchor with IoU 0.5 at 20×60")
    assert examples == ("annotation 2 of image 1 (best IoU 0.49)",)


def test_boxes_that_resizing_makes_tiny_are_found(data):
    data.contents.pop("val")
    level, _, text, examples = only(data.inspect(image_size=(12, 1000)))  # scale 0.3: 20×10 → 6×3, 12×12 → 3.6×3.6
    assert (level, text) == (WARNING, "2 boxes are narrower than 4 pixels once the image is resized to 12×1000")
    assert examples == ("annotation 1 of image 1", "annotation 3 of image 2")


def test_progress_counts_the_images_of_each_split(data):
    seen = []
    data.inspect(report=lambda *state: seen.append(state))
    assert seen[:3] == [("opening the images of train", number, 3) for number in (1, 2, 3)]
    assert seen[3:] == [("opening the images of val", number, 3) for number in (1, 2, 3)]


def test_the_result_is_plain_json(data):
    bbox(5, 5, 0, 10)(data.contents["train"])
    result = data.inspect().to_dict()
    assert json.loads(json.dumps(result)) == result
    assert result["findings"] == [
        {
            "level": "warning",
            "split": "train",
            "text": "1 boxes have no area; they are left out",
            "examples": ["annotation 1 of image 1"],
        }
    ]


def test_files_are_found_by_layout_or_name_and_may_be_missing(tmp_path):
    (tmp_path / "train.json").touch()
    (tmp_path / "images").mkdir()
    assert find_coco_files(tmp_path, "train") == (tmp_path / "train.json", tmp_path / "images")
    named = find_coco_files(tmp_path, "val", annotations="a.json", images="b")
    assert named == (tmp_path / "a.json", tmp_path / "b")
    with pytest.raises(DataError, match="no val annotations"):
        find_coco_files(tmp_path, "val")
