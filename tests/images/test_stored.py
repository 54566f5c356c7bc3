import io
import os
import tarfile

import numpy as np
import pytest
from PIL import Image

from effdet.images.faults import ImageError
from effdet.images.reading import read_picture
from effdet.images.stored import StoredImage


def png(value):
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (value, value, value)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def archive(tmp_path):
    """Write a tar archive of two images, and return the places of both."""
    path = tmp_path / "photos.tar"
    with tarfile.open(path, "w") as tar:
        for name, value in (("a.png", 10), ("b.png", 20)):
            data = png(value)
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    with tarfile.open(path) as tar:
        return [StoredImage(path, member.name, member.offset_data, member.size) for member in tar]


def test_a_member_of_an_archive_is_read_as_its_file(archive):
    assert [picture.pixels[0, 0, 0] for picture in map(read_picture, archive)] == [10, 20]
    assert [picture.name for picture in map(read_picture, archive)] == ["a.png", "b.png"]
    assert archive[1].read().tobytes() == png(20)
    assert archive[1].num_bytes() == len(png(20))


def test_ends_are_those_of_the_image_and_not_of_the_archive(archive):
    assert archive[0].read_ends(8) == (png(10)[:8], png(10)[-8:])


def test_ends_of_a_short_file_are_the_whole_file(tmp_path):
    (tmp_path / "short.jpg").write_bytes(b"abc")
    assert StoredImage.in_file(tmp_path / "short.jpg").read_ends(8) == (b"abc", b"abc")


def test_a_file_is_read_to_its_end(tmp_path):
    (tmp_path / "a.png").write_bytes(png(7))
    stored = StoredImage.in_file(tmp_path / "a.png")
    assert stored.read().dtype == np.uint8
    assert stored.read().tobytes() == png(7)
    assert (stored.exists(), stored.num_bytes()) == (True, len(png(7)))


def test_a_file_that_is_not_there(tmp_path):
    stored = StoredImage.in_file(tmp_path / "gone.png")
    assert (stored.exists(), stored.num_bytes()) == (False, 0)
    with pytest.raises(FileNotFoundError, match=r"gone\.png: no such image file"):
        stored.read()


def test_an_archive_that_ends_before_its_member(archive):
    os.truncate(archive[1].path, archive[1].start + 5)
    with pytest.raises(ImageError, match=r"b\.png: .*photos\.tar ends before it; the archive is truncated"):
        archive[1].read()


def test_what_is_no_regular_file(tmp_path):
    with pytest.raises(ImageError, match="must be a file, got a folder"):
        StoredImage.in_file(tmp_path).read()
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="must be a file, got a named pipe"):
        StoredImage.in_file(tmp_path / "pipe.jpg").read_ends(8)
