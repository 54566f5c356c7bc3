import json
import shutil

import pytest

from effdet.data.formats import find_dataset


@pytest.fixture
def root(tmp_path, demo_root):
    shutil.copytree(demo_root, tmp_path / "data")
    return tmp_path / "data"


def changed_by(root, change):
    """Return which hashes of the training split differ after a change of its annotations."""
    before = find_dataset(root, "train").fingerprint()
    file = root / "train.json"
    content = json.loads(file.read_text())
    change(content, root)
    file.write_text(json.dumps(content))
    after = find_dataset(root, "train").fingerprint()
    assert before.keys() == after.keys() == {"classes", "image ids", "images", "boxes"}
    return {name for name in before if before[name] != after[name]}


def permute_classes(content, root):
    names = [category["name"] for category in content["categories"]]
    for category, name in zip(content["categories"], names[1:] + names[:1], strict=True):
        category["name"] = name


def move_a_box(content, root):
    content["annotations"][0]["bbox"][2] -= 0.5


def relabel_a_box(content, root):
    ids = [category["id"] for category in content["categories"]]
    first = content["annotations"][0]
    first["category_id"] = ids[ids.index(first["category_id"]) - 1]


def renumber_an_image(content, root):
    old, new = content["images"][0]["id"], 77777
    content["images"][0]["id"] = new
    for annotation in content["annotations"]:
        annotation["image_id"] = new if annotation["image_id"] == old else annotation["image_id"]


def replace_a_photo(content, root):
    first, second = (next(root.rglob(image["file_name"])) for image in content["images"][:2])
    shutil.copy(second, first)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda content, root: None, set()),
        (permute_classes, {"classes"}),
        (move_a_box, {"boxes"}),
        (relabel_a_box, {"boxes"}),
        (renumber_an_image, {"image ids"}),
        (replace_a_photo, {"images"}),
    ],
)
def test_a_change_shows_in_its_own_hash(root, change, expected):
    assert changed_by(root, change) == expected


def test_the_folder_does_not_count(root, demo_root):
    assert find_dataset(root, "val").fingerprint() == find_dataset(demo_root, "val").fingerprint()
