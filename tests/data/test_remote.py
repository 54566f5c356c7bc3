import functools
import http.server
import json
import os
import shutil
import threading

import numpy as np
import pytest

from effdet.config import AugmentConfig
from effdet.data.conversion import convert
from effdet.data.findings import DataError
from effdet.data.formats import find_dataset, find_train_and_val, read_parts
from effdet.data.loader import TrainLoader
from effdet.data.remote import to_local
from effdet.data.splitting import split_data
from effdet.data.unreadable_images import drop_unreadable
from effdet.images.faults import ImageError
from effdet.images.remote_files import address_of, is_address, read_address

fsspec = pytest.importorskip("fsspec")


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def http_server(tmp_path):
    """Serve ``tmp_path / "data"`` and return its address; Python's server knows no parts of files."""
    pytest.importorskip("aiohttp")

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path / "data"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def s3_server():
    """Start a real S3 server on the loopback address, with a bucket."""
    pytest.importorskip("s3fs")
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "a")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "b")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket/data"
    server.stop()


@pytest.fixture(params=["memory", "file", "http", "s3"])
def place(request, tmp_path, write_coco):
    """Return a small data set in a folder, its address, and a function that brings the folder there."""
    folder = tmp_path / "data"
    write_coco(folder, "train.json")
    shutil.copy(folder / "train.json", folder / "val.json")
    if request.param == "file":
        return folder, f"file://{folder}", lambda: None
    if request.param == "http":
        return folder, request.getfixturevalue("http_server"), lambda: None
    address = "memory://photos/data" if request.param == "memory" else request.getfixturevalue("s3_server")

    def bring():
        system, path = fsspec.core.url_to_fs(address)
        if system.exists(path):
            system.rm(path, recursive=True)
        system.put(str(folder), path, recursive=True)

    bring()
    return folder, address, bring


def test_a_data_set_at_an_address_is_as_in_a_folder(place):
    folder, address, _ = place
    local, remote = find_dataset(folder, "train"), find_dataset(address, "train")
    assert remote.names.tolist() == local.names.tolist()
    assert np.array_equal(remote.boxes_xywh, local.boxes_xywh)
    for index in range(len(local)):
        assert remote.stored(index).address == f"{address}/images/{local.names[index]}"
        assert np.array_equal(remote.read(index), local.read(index))
    assert drop_unreadable(remote) == (remote, [])
    train, val = find_train_and_val(address)
    assert (len(train), len(val)) == (3, 3)


@pytest.mark.parametrize("to", ["shards", "yolo"])
def test_every_format_is_read_at_an_address(to, tmp_path, write_coco):
    write_coco(tmp_path / "coco", "train.json")
    convert(tmp_path / "coco", tmp_path / "data", to=to)
    fsspec.filesystem("memory").put(str(tmp_path / "data"), f"/{to}", recursive=True)
    local, remote = read_parts(tmp_path / "data")["train"], read_parts(f"memory://{to}")["train"]
    assert np.array_equal(local.boxes_xywh, remote.boxes_xywh)
    assert [np.array_equal(local.read(i), remote.read(i)) for i in range(3)] == [True] * 3


def test_shards_at_an_address_need_no_index(tmp_path, write_coco):
    write_coco(tmp_path / "coco", "train.json")
    convert(tmp_path / "coco", tmp_path / "data", to="shards")
    (tmp_path / "data" / "train.json").unlink()
    fsspec.filesystem("memory").put(str(tmp_path / "data"), "/unindexed", recursive=True)
    local, remote = read_parts(tmp_path / "data")["train"], read_parts("memory://unindexed")["train"]
    assert np.array_equal(local.boxes_xywh, remote.boxes_xywh)
    assert np.array_equal(local.read(1), remote.read(1))


def test_loader_processes_read_from_the_address(place):
    folder, address, _ = place

    def images(root):
        loader = TrainLoader(
            find_dataset(root, "train"),
            image_size=(64, 64),
            batch_size=1,
            augment=AugmentConfig(),
            seed=3,
            workers=2,
            fill=(0, 0, 0),
        )
        return [batch.images.numpy() for batch in loader.epoch(0)]

    assert all(np.array_equal(a, b) for a, b in zip(images(folder), images(address), strict=True))


def test_what_changed_at_the_address_is_seen(place):
    folder, address, bring = place
    assert len(find_dataset(address, "train")) == 3
    content = json.loads((folder / "train.json").read_text())
    content["images"] = [row for row in content["images"] if row["id"] != 9]
    (folder / "train.json").write_text(json.dumps(content))
    os.remove(folder / "val.json")
    (folder / "images" / "c.jpg").unlink()
    bring()
    assert len(find_dataset(address, "train")) == 2
    with pytest.raises(DataError, match="no val annotations"):
        find_dataset(address, "val")


def test_an_image_that_is_gone_is_named_by_its_address(place):
    folder, address, bring = place
    dataset = find_dataset(address, "train")
    (folder / "images" / dataset.names[0]).unlink()
    bring()
    with pytest.raises(FileNotFoundError, match=f"{address}/images/{dataset.names[0]}: no such image file"):
        dataset.read(0)


def test_an_annotation_file_at_an_address(place):
    folder, address, _ = place
    dataset = find_dataset(f"{address}/train.json", "train")
    assert np.array_equal(dataset.read(0), find_dataset(folder, "train").read(0))


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("memory://nothing/here", "memory://nothing/here: holds no file, or does not exist"),
        ("nosuch://photos", "nosuch://photos: cannot be listed: .*nosuch"),
        ("http://127.0.0.1:9/photos", "127.0.0.1:9/photos: (cannot be listed|holds no file, or does not exist)"),
    ],
)
def test_what_is_wrong_with_an_address_is_one_sentence(address, sentence):
    with pytest.raises(DataError, match=sentence):
        to_local(address)


def test_names_that_lead_out_of_the_folder_are_not_followed(tmp_path):
    (tmp_path / "secret.jpg").write_bytes(b"x")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").write_text("")
    folder = to_local(f"file://{tmp_path}/photos")
    assert address_of(folder / "a.txt") == f"file://{tmp_path}/photos/a.txt"
    assert address_of(folder / ".." / "secret.jpg") is None
    assert address_of(tmp_path / "secret.jpg") is None


def test_parts_of_files(tmp_path):
    (tmp_path / "a").write_bytes(bytes(range(100)))
    assert read_address(f"file://{tmp_path}/a", 10, 3) == bytes([10, 11, 12])
    with pytest.raises(FileNotFoundError, match="no such file"):
        read_address(f"file://{tmp_path}/b")
    with pytest.raises(OSError, match=str(tmp_path)):
        read_address(f"file://{tmp_path}")


@pytest.mark.parametrize(
    ("text", "expected"), [("s3://b/c", True), ("s3:/b/c", True), ("C:/data", False), ("a/b", False)]
)
def test_what_is_an_address(text, expected):
    assert is_address(text) == expected


def test_an_address_that_cannot_be_read_is_an_image_error(tmp_path, write_coco):
    write_coco(tmp_path / "data", "train.json")
    dataset = find_dataset(f"file://{tmp_path}/data", "train")
    os.remove(dataset.stored(0).address.removeprefix("file://"))
    os.mkdir(dataset.stored(0).address.removeprefix("file://"))
    with pytest.raises(ImageError, match="cannot be read"):
        dataset.read(0)


def test_only_a_folder_can_be_divided(tmp_path, write_coco):
    write_coco(tmp_path / "data", "train.json")
    with pytest.raises(DataError, match="only a data set in a folder can be divided; divide it before it is uploaded"):
        split_data(f"file://{tmp_path}/data", val=0.3)
