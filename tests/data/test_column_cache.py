import multiprocessing
import os
from dataclasses import fields

import numpy as np
import pytest
from PIL import Image

from effdet.data import column_cache
from effdet.data.array_file import mapped_place, open_arrays, write_arrays
from effdet.data.conversion import convert
from effdet.data.formats import find_dataset, table


def settle(folder):
    """Let everything in a folder look as if it had not been changed for long."""
    for path in [folder, *folder.rglob("*")]:
        os.utime(path, (1e9, 1e9))


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """Keep data sets of any size, and return a list that grows by one when a data set is read from its own files."""
    monkeypatch.setattr(column_cache, "LEAST_ROWS", 0)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    read = []
    for name, known in table.FORMATS.items():
        counting = lambda source, known=known: read.append(source) or known.read(source)  # noqa: E731
        monkeypatch.setitem(table.FORMATS, name, type(known)(**{**vars(known), "read": counting}))
    return read


@pytest.fixture(params=["coco", "yolo", "voc", "csv", "openimages"])
def folder(request, tmp_path, write_coco):
    """Return a small data set in one of the formats."""
    write_coco(tmp_path / "coco", "train.json")
    if request.param == "coco":
        return tmp_path / "coco"
    convert(tmp_path / "coco", tmp_path / "data", to=request.param)
    return tmp_path / "data"


def assert_same(one, other):
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        assert np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b, field.name


def test_the_second_start_gives_the_same_without_reading(folder, reads):
    settle(folder)
    first, second = find_dataset(folder, "train"), find_dataset(folder, "train")
    assert len(reads) == 1
    assert_same(first, second)
    assert second.read(0).shape == first.read(0).shape
    assert mapped_place(second.boxes_xywh) is not None


def test_a_change_of_any_file_of_annotations_is_seen(folder, reads):
    settle(folder)
    find_dataset(folder, "train")
    texts = [path for path in sorted(folder.rglob("*")) if path.suffix in (".json", ".txt", ".xml", ".csv", ".yaml")]
    seen = 0
    for path in texts:
        if path.name in ("train.txt", "val.txt", "test.txt", "classes.txt") and "ImageSets" not in str(path):
            continue
        os.utime(path, (1.1e9, 1.1e9))
        find_dataset(folder, "train")
        seen += 1
    assert len(reads) >= 1 + seen > 1


def test_another_image_is_seen_where_boxes_depend_on_its_size(tmp_path, write_coco, reads):
    write_coco(tmp_path / "coco", "train.json")
    convert(tmp_path / "coco", tmp_path / "yolo", to="yolo", images="copy")
    settle(tmp_path / "yolo")
    before = find_dataset(tmp_path / "yolo", "train")
    index = next(index for index, name in enumerate(before.names) if name.endswith("b.jpg"))
    Image.new("RGB", (120, 80)).save(before.path(index))
    after = find_dataset(tmp_path / "yolo", "train")
    assert after.boxes_xywh.max() == 2 * before.boxes_xywh.max()


def test_a_new_image_is_seen_in_a_listed_folder(tmp_path, write_coco, reads):
    write_coco(tmp_path / "coco", "train.json")
    convert(tmp_path / "coco", tmp_path / "yolo", to="yolo")
    settle(tmp_path / "yolo")
    assert len(find_dataset(tmp_path / "yolo", "train")) == 3
    Image.new("RGB", (12, 8)).save(next((tmp_path / "yolo").rglob("a.jpg")).with_name("new.jpg"))
    assert len(find_dataset(tmp_path / "yolo", "train")) == 4


def test_what_was_changed_just_now_is_not_kept(tmp_path, write_coco, reads):
    write_coco(tmp_path, "train.json")
    for _ in range(2):
        find_dataset(tmp_path, "train")
    assert len(reads) == 2


MAGIC = b"effdet arrays 1\n"


@pytest.mark.parametrize("content", [b"", MAGIC + b"\xff" * 50, MAGIC + b"\x02" + b"\0" * 7 + b"{}"])
def test_a_damaged_cache_is_as_none(tmp_path, write_coco, reads, content):
    write_coco(tmp_path, "train.json")
    settle(tmp_path)
    first = find_dataset(tmp_path, "train")
    for file in (tmp_path / "cache" / "effdet" / "datasets").iterdir():
        file.unlink()  # what is mapped stays as it is
        file.write_bytes(content)
    assert_same(first, find_dataset(tmp_path, "train"))
    assert len(reads) == 2


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, write_coco, reads, monkeypatch):
    write_coco(tmp_path, "train.json")
    settle(tmp_path)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert len(find_dataset(tmp_path, "train")) == 3


def read_often(folder, start):
    column_cache.LEAST_ROWS = 0
    start.wait()
    for _ in range(5):
        assert find_dataset(folder, "train").boxes_xywh.sum() == 133


def test_runs_may_start_together(tmp_path, write_coco, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_coco(tmp_path, "train.json")
    settle(tmp_path)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    processes = [context.Process(target=read_often, args=(tmp_path, start)) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(list((tmp_path / "cache" / "effdet" / "datasets").iterdir())) == 2


def test_arrays_of_all_kinds_come_back(tmp_path):
    arrays = {
        "empty": np.zeros((0, 4)),
        "bytes": np.arange(5, dtype=np.uint8),
        "matrix": np.arange(6.0).reshape(2, 3),
        "flags": np.array([True, False]),
        "turned": np.arange(6).reshape(2, 3).T,
    }
    write_arrays(tmp_path / "a", {"é": [1]}, arrays)
    content, found = open_arrays(tmp_path / "a")
    assert content == {"é": [1]}
    for name, array in arrays.items():
        assert np.array_equal(found[name], array)
        assert found[name].dtype == array.dtype
    assert np.array_equal(mapped_place(found["matrix"]).open(), arrays["matrix"])
    assert mapped_place(found["matrix"][1:]) is None
    assert mapped_place(arrays["matrix"]) is None
