from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from effdet.data.conversion import convert
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, read_parts
from effdet.data.near_duplicates import group_images, join_alike
from effdet.data.splitting import divide, split_data


@pytest.fixture
def whole(photo_sets: Path, tmp_path: Path) -> Path:
    """The 24 photos of blood cells as one VOC data set without parts."""
    train, val = (find_dataset(photo_sets / "bccd", part) for part in ("train", "val"))
    content = json.loads((photo_sets / "bccd" / "train.json").read_text())
    other = json.loads((photo_sets / "bccd" / "val.json").read_text())
    for row in (*other["images"], *other["annotations"]):
        row["id"] += 100_000
        row["image_id"] = row.get("image_id", 0) + 100_000
    file = tmp_path / "all.json"
    file.write_text(json.dumps({**content, **{key: content[key] + other[key] for key in ("images", "annotations")}}))
    dataset = find_dataset(file, "train", images=photo_sets / "bccd" / "images")
    assert len(dataset) == len(train) + len(val) == 24
    convert({"all": dataset}, tmp_path / "whole", to="voc")
    return tmp_path / "whole"


def test_a_split_is_what_it_says(whole: Path) -> None:
    before = read_parts(whole)["all"]
    done = split_data(whole, val=0.25, test=0.125, seed=3, likeness="exact")
    parts = read_parts(whole)
    assert {part: len(dataset) for part, dataset in parts.items()} == {"train": 15, "val": 6, "test": 3}
    names = [name for dataset in parts.values() for name in dataset.names]
    assert sorted(names) == before.names.tolist()
    content = json.loads(done.file.read_text())
    assert done.file == whole / "splits.json"
    assert (content["seed"], content["parts"]) == (3, {"train": 0.625, "val": 0.25, "test": 0.125})
    rows = done.rows()
    assert [row["images"] for row in rows] == [15, 6, 3]
    assert sum(sum(row["boxes"].values()) for row in rows) == len(before.boxes_xywh)


def test_the_seed_alone_decides(whole: Path) -> None:
    contents = []
    for seed in (0, 0, 1):
        contents.append(split_data(whole, val=0.25, seed=seed, likeness="exact").file.read_text())
        (whole / "splits.json").unlink()
    assert contents[0] == contents[1] != contents[2]


def test_val_is_taken_out_of_train_where_that_is_all(whole: Path) -> None:
    lists = whole / "ImageSets" / "Main"
    lists.mkdir(parents=True)
    stems = sorted(path.stem for path in (whole / "Annotations").iterdir())
    (lists / "train.txt").write_text("\n".join(stems[:20]))
    (lists / "test.txt").write_text("\n".join(stems[20:]))
    split_data(whole, val=0.25, likeness="exact")
    parts = read_parts(whole)
    assert {part: len(dataset) for part, dataset in parts.items()} == {"train": 15, "val": 5, "test": 4}
    with pytest.raises(DataError, match=r"is divided already: it has .*; remove splits.json, or the files of a part"):
        split_data(whole, val=0.25)


def test_wrong_arguments_are_one_sentence(whole: Path, photo_sets: Path) -> None:
    for val, test in ((0.0, 0.0), (0.6, 0.4), (-1, 0.5), (float("nan"), 0)):
        with pytest.raises(ValueError, match=r"val must be above 0, and val \+ test below 1, got "):
            split_data(whole, val=val, test=test)
    with pytest.raises(DataError, match="is divided already: it has train and val; remove "):
        split_data(photo_sets / "bccd", val=0.2)
    for file in sorted((whole / "Annotations").iterdir())[1:]:
        file.unlink()
    with pytest.raises(DataError, match="must have enough images that do not look the same for train, val, but its 1"):
        split_data(whole, val=0.5, likeness="exact")


# --- images that look the same --------------------------------------------------------------------------------------


def test_copies_of_a_photo_are_one_group_and_photos_are_not(whole: Path) -> None:
    pytest.importorskip("imagehash")
    images = whole / "JPEGImages"
    name = sorted(path.name for path in images.iterdir())[0]
    photo = Image.open(images / name).convert("RGB")
    copies = {
        "half.jpg": photo.resize((photo.width // 2, photo.height // 2)),
        "bright.png": ImageEnhance.Brightness(photo).enhance(1.15),
    }
    for copy, image in copies.items():
        image.save(images / copy)
    photo.save(images / "poor.jpg", quality=40)
    xml = (whole / "Annotations" / name).with_suffix(".xml").read_text()
    for copy in (*copies, "poor.jpg"):
        text = xml.replace(name, copy)
        text = text.replace("<width>640</width><height>480</height>", "") if copy == "half.jpg" else text
        (whole / "Annotations" / copy).with_suffix(".xml").write_text(text)
    dataset = read_parts(whole)["all"]
    groups = group_images(dataset)
    together = {dataset.names[index] for index in np.flatnonzero(groups == groups[dataset.names.tolist().index(name)])}
    assert together == {name, *copies, "poor.jpg"}
    assert len(np.unique(groups)) == 24
    assert len(np.unique(group_images(dataset, "exact"))) == 27


def test_files_that_cannot_be_read_are_alone(whole: Path) -> None:
    pytest.importorskip("imagehash")
    for file in sorted((whole / "JPEGImages").iterdir())[:2]:
        file.unlink()
        file.write_bytes(b"no image")
    dataset = read_parts(whole)["all"]
    assert len(np.unique(group_images(dataset))) == 24
    assert len(np.unique(group_images(dataset, "exact"))) == 23


def test_without_imagehash_there_is_advice(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(
        ImportError, match=r"found with imagehash: pip install .*\[split\].*; --likeness exact needs no package"
    ):
        split_data(whole, val=0.25)


def random_hashes(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 8), dtype=np.uint8)


@pytest.mark.parametrize("limit", [20_000, 0])
def test_groups_are_those_of_a_literal_loop(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("effdet.data.near_duplicates.COMPARE_ALL_UP_TO", limit)
    hashes = random_hashes(40)
    for index in range(1, 40, 3):  # a chain: each differs in two bits from the one before
        hashes[index] = hashes[index - 1]
        hashes[index][index % 8] ^= 0b1010
    expected = list(range(40))
    for i in range(40):
        for j in range(i):
            if bin(int.from_bytes(hashes[i]) ^ int.from_bytes(hashes[j])).count("1") <= 8:
                old, new = expected[i], expected[j]
                expected = [new if value == old else value for value in expected]
    found = join_alike(hashes)
    assert len(set(expected)) == len(set(found.tolist())) == 27
    assert len({*zip(expected, found.tolist(), strict=True)}) == 27


# --- balance --------------------------------------------------------------------------------------------------------


def labelled(dataset: Dataset, labels_of_image: list[list[int]], num_classes: int) -> Dataset:
    """Return images with these classes, for ``divide``, which looks at nothing else."""
    counts = [len(labels) for labels in labels_of_image]
    labels = np.array([label for labels in labels_of_image for label in labels], dtype=np.int64)
    return replace(
        dataset,
        image_ids=np.arange(len(counts)),
        labels=labels,
        class_names=tuple("abcdefghij"[:num_classes]),
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
    )


@pytest.mark.parametrize("seed", range(5))
def test_classes_are_spread_evenly(photo_sets: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    chances = [0.9, 0.4, 0.1, 0.02]
    images = [[k for k in range(4) if rng.random() < chances[k]] for _ in range(1000)]
    dataset = labelled(find_dataset(photo_sets / "bccd", "train"), images, 4)
    parts = divide(dataset, np.arange(1000), {"train": 0.7, "val": 0.2, "test": 0.1}, seed)
    for part, share in (("train", 0.7), ("val", 0.2), ("test", 0.1)):
        assert abs((parts == part).sum() - 1000 * share) <= 5
        for k in range(4):
            total = sum(k in image for image in images)
            own = sum(k in image for image, where in zip(images, parts, strict=True) if where == part)
            assert abs(own - share * total) <= 3


def test_a_group_stays_together_and_train_has_every_class(photo_sets: Path) -> None:
    images = [[0], [0], [0], [0], [1], [2], [0], [0], [], []]
    dataset = labelled(find_dataset(photo_sets / "bccd", "train"), images, 3)
    groups = np.array([0, 0, 1, 2, 3, 4, 5, 5, 6, 7])
    for seed in range(20):
        parts = divide(dataset, groups, {"train": 0.7, "val": 0.3}, seed)
        assert parts[0] == parts[1]
        assert parts[6] == parts[7]
        assert parts[4] == parts[5] == "train"
        assert {"train", "val"} == set(parts)
