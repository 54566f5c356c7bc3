from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from effdet.data import unreadable_images
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats.coco import read_coco
from effdet.data.unreadable_images import drop_unreadable


def make(root: Path, num_images: int, suffix: str = "jpg") -> Dataset:
    images = [{"id": n, "file_name": f"{n:03}.{suffix}", "width": 16, "height": 12} for n in range(num_images)]
    annotations = [{"id": n, "image_id": n, "category_id": 1, "bbox": [n % 8, 0, 4, 4]} for n in range(num_images)]
    (root / "a.json").write_text(
        json.dumps({"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "x"}]})
    )
    for image in images:
        Image.new("RGB", (16, 12), (image["id"], 0, 0)).save(root / str(image["file_name"]))
    return read_coco(root / "a.json", root)


def damage(dataset: Dataset) -> None:
    """Remove image 3, cut image 5, and give image 8 another size."""
    dataset.path(3).unlink()
    dataset.path(5).write_bytes(dataset.path(5).read_bytes()[:-30])
    Image.new("RGB", (17, 12)).save(dataset.path(8))


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_unreadable_images_are_left_out_each_named_once(tmp_path: Path, suffix: str) -> None:
    dataset = make(tmp_path, 40, suffix)
    damage(dataset)
    rest, names = drop_unreadable(dataset)
    assert len(rest) == 37
    assert rest.image_ids.tolist() == [n for n in range(40) if n not in (3, 5, 8)]
    assert rest.annotations(3).boxes.tolist() == [[4, 0, 8, 4]]  # image 4 with its own box
    assert [name.split(": ")[0] for name in names] == [str(dataset.path(n)) for n in (3, 5, 8)]
    assert [("no such" in name, "truncated" in name, "17×12" in name) for name in names] == [
        (True, False, False),
        (False, True, False),
        (False, False, True),
    ]


def test_good_set_stays_the_same_object(tmp_path: Path) -> None:
    dataset = make(tmp_path, 4)
    assert drop_unreadable(dataset) == (dataset, [])


def test_more_than_a_tenth_stops_and_names_the_first_few(tmp_path: Path) -> None:
    dataset = make(tmp_path, 70)
    for n in range(7):
        dataset.path(n).write_text("no image")
    assert len(drop_unreadable(dataset)[1]) == 7  # exactly a tenth
    dataset.path(7).unlink()
    with pytest.raises(
        DataError, match=r"8 of the 70 images of .*a\.json .* more than the 10% .*000\.jpg: .*and 3 more"
    ) as e:
        drop_unreadable(dataset)
    assert "005.jpg" not in str(e.value)
    assert len(drop_unreadable(dataset, max_fraction=0.2)[1]) == 8


def test_no_box_on_a_readable_image_is_an_error(tmp_path: Path) -> None:
    dataset = make(tmp_path, 20)
    content = json.loads((tmp_path / "a.json").read_text())
    content["annotations"] = content["annotations"][:1]
    (tmp_path / "a.json").write_text(json.dumps(content))
    dataset.path(0).write_bytes(b"broken")
    with pytest.raises(DataError, match=r"a\.json: no image that can be read has a box; .*; left out: \S+000\.jpg"):
        drop_unreadable(read_coco(tmp_path / "a.json", tmp_path))


def test_no_readable_image_is_an_error_whatever_the_fraction(tmp_path: Path) -> None:
    dataset = make(tmp_path, 1)
    dataset.path(0).unlink()
    with pytest.raises(DataError, match="1 of the 1 images"):
        drop_unreadable(dataset, max_fraction=1.0)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_large_sets_are_decoded_only_where_a_file_looks_suspicious(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    dataset = make(tmp_path, 40, suffix)
    damage(dataset)
    dataset.path(9).write_bytes(dataset.path(9).read_bytes() + b"trailing bytes")  # suspicious, but good
    dataset.path(10).write_bytes(b"")
    monkeypatch.setattr(unreadable_images, "DECODE_ALL_UP_TO", 10)
    monkeypatch.setattr(unreadable_images, "SAMPLE_SIZE", 1)
    decoded = []
    original = Dataset.read
    monkeypatch.setattr(Dataset, "read", lambda self, index: decoded.append(index) or original(self, index))
    rest, names = drop_unreadable(dataset)
    assert {3, 5, 9, 10} <= set(decoded)
    assert len(decoded) <= 5
    assert [Path(name.split(": ")[0]).stem for name in names if "17×12" not in name] == ["003", "005", "010"]
    assert 9 in rest.image_ids
