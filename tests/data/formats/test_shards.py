import io
import json
import tarfile

import numpy as np
import pytest

from effdet.config import AugmentConfig
from effdet.data.conversion import convert
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, read_parts, shards
from effdet.data.loader import TrainLoader
from effdet.images.faults import ImageError


@pytest.fixture
def folder(tmp_path, write_coco, monkeypatch):
    """Write three images in two shards, with an index."""
    monkeypatch.setattr(shards, "SHARD_SIZE", 1)
    write_coco(tmp_path / "coco", "train.json")
    convert(tmp_path / "coco", tmp_path / "shards", to="shards")
    return tmp_path / "shards"


def write_tar(path, files):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))


def assert_same(one, other):
    assert one.image_ids.tolist() == other.image_ids.tolist()
    assert (one.class_names, one.category_ids) == (other.class_names, other.category_ids)
    for name in ("boxes_xywh", "labels", "areas", "is_crowd", "annotation_ids", "offsets", "sizes"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    for index in range(len(one)):
        assert one.stored(index).read_bytes() == other.stored(index).read_bytes()
        assert np.array_equal(one.read(index), other.read(index))


def test_shards_hold_the_same_images_and_boxes(folder, tmp_path):
    assert sorted(path.name for path in folder.iterdir()) == [*(f"train-00000{n}.tar" for n in range(3)), "train.json"]
    assert_same(find_dataset(tmp_path / "coco", "train"), find_dataset(folder, "train"))


def test_archives_without_their_index_are_searched(folder, tmp_path):
    (folder / "train.json").unlink()
    found = read_parts(folder)["train"]
    assert_same(find_dataset(tmp_path / "coco", "train"), found)
    assert found.findings == ()


def test_an_index_of_other_archives_is_not_trusted(folder, tmp_path):
    archive = folder / "train-000001.tar"
    with tarfile.open(archive) as tar:
        files = {member.name: tar.extractfile(member).read() for member in tar}
    write_tar(archive, {"first.txt": b"x" * 3000, **files})
    assert_same(find_dataset(tmp_path / "coco", "train"), find_dataset(folder, "train"))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # it leaves files open
def test_webdataset_reads_the_shards(folder):
    webdataset = pytest.importorskip("webdataset")
    samples = webdataset.WebDataset(str(folder / "train-{000000..000002}.tar"), shardshuffle=False)
    samples = [json.loads(sample["json"]) | {"bytes": sample["jpg"]} for sample in samples]
    dataset = find_dataset(folder, "train")
    assert [sample["image_id"] for sample in samples] == dataset.image_ids.tolist()
    assert [sample["bytes"] for sample in samples] == [dataset.stored(i).read_bytes() for i in range(len(dataset))]
    assert [len(sample["annotations"]) for sample in samples] == np.diff(dataset.offsets).tolist()
    assert samples[1]["annotations"][0]["category"] == "cat"


def test_training_sees_the_same_batches_also_from_the_middle_of_an_epoch(folder, tmp_path):
    def batches(root, start):
        loader = TrainLoader(
            find_dataset(root, "train"),
            image_size=(64, 64),
            batch_size=1,
            augment=AugmentConfig(),
            seed=3,
            workers=0,
            fill=(0, 0, 0),
        )
        return [batch.images.numpy() for batch in loader.epoch(1, start)]

    whole, resumed = batches(tmp_path / "coco", 0), batches(folder, 1)
    assert len(resumed) == 2
    assert all(np.array_equal(a, b) for a, b in zip(whole[1:], resumed, strict=True))


def test_archives_of_others_are_read_by_keys(tmp_path, photo):
    boxes = [{"bbox": [1, 2, 3, 4], "category_id": 7, "category": "cell"}]
    files = {
        "a/0001.json": json.dumps({"annotations": boxes}).encode(),
        "a/0001.png": photo,
        "b.PNG": photo,
        "c.png": photo,
        "c.json": b"[1",
        "d.txt": b"no image",
    }
    write_tar(tmp_path / "val" / "x.tar", files)
    dataset = read_parts(tmp_path)["val"]
    assert dataset.names.tolist() == ["val/x.tar/a/0001.png", "val/x.tar/c.png", "val/x.tar/b.PNG"]
    assert dataset.class_names == ("cell",)
    assert dataset.boxes_xywh.tolist() == [[1, 2, 3, 4]]
    assert dataset.sizes.tolist() == [[6, 8]] * 3
    assert [str(finding) for finding in dataset.findings] == [
        "JSON in archives has no list of annotations: 1 (val/x.tar/c.png); write annotations: [...] in it",
        "images in archives have no JSON: 1 (val/x.tar/b.PNG); they are background",
        "images have no width and height: 3 (val/x.tar/a/0001.png, val/x.tar/c.png, val/x.tar/b.PNG); "
        "they are taken from the image files",
    ]


@pytest.fixture
def photo():
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 6)).save(file, "PNG")
    return file.getvalue()


def test_what_is_wrong_with_an_archive_is_one_sentence(tmp_path, photo):
    write_tar(tmp_path / "train.tar", {"a.txt": b""})
    with pytest.raises(DataError, match="none of its 1 archives holds an image"):
        read_parts(tmp_path)
    (tmp_path / "train.tar").write_bytes(b"no archive" * 200)
    with pytest.raises(DataError, match=r"train\.tar: must be a tar archive without compression"):
        read_parts(tmp_path)
    row = {"id": 1, "file_name": "gone.tar/a.jpg", "width": 4, "height": 4}
    box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2]}
    content = {"images": [row], "annotations": [box], "categories": [{"id": 1, "name": "x"}]}
    (tmp_path / "train.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"archive .*gone\.tar does not exist"):
        find_dataset(tmp_path, "train")


def test_a_member_that_is_not_there_is_an_image_that_cannot_be_read(folder):
    content = json.loads((folder / "train.json").read_text())
    content["images"][1] |= {"file_name": "train-000001.tar/other.jpg", "start": -5}
    (folder / "train.json").write_text(json.dumps(content))
    with pytest.raises((ImageError, FileNotFoundError), match=r"other\.jpg"):
        find_dataset(folder, "train").read(1)
