import io

import numpy as np
import pytest
from PIL import Image

from effdet.images.header import upright_size
from effdet.images.stored import StoredImage


def write(path, kind, orientation=1, **options):
    image = Image.fromarray(np.zeros((30, 50, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(path, kind, **({"exif": exif} if orientation > 1 else {}), **options)
    return StoredImage.in_file(path)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP"])
def test_size_is_that_of_pillow(tmp_path, kind):
    assert upright_size(write(tmp_path / "a", kind)) == (30, 50)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_orientation_swaps_the_sides(tmp_path, kind):
    assert upright_size(write(tmp_path / "a", kind, orientation=6)) == (50, 30)
    assert upright_size(write(tmp_path / "b", kind, orientation=3)) == (30, 50)


def test_jpegs_of_all_kinds(tmp_path):
    assert upright_size(write(tmp_path / "a", "JPEG", progressive=True)) == (30, 50)
    assert upright_size(write(tmp_path / "b", "JPEG", icc_profile=b"x" * 9000)) == (30, 50)  # the size comes after it
    assert upright_size(write(tmp_path / "c", "JPEG", comment=b"\xff\xc0" * 500)) == (30, 50)


def test_only_the_header_is_needed(tmp_path):
    image = write(tmp_path / "a", "JPEG")
    (tmp_path / "b").write_bytes((tmp_path / "a").read_bytes()[:200])
    assert upright_size(image) == upright_size(StoredImage.in_file(tmp_path / "b"))


@pytest.mark.parametrize(
    "content", [b"", b"no image", b"\xff\xd8\xff", b"\xff\xd8\xff\xe0\0", b"\xff\xd8\xff\xff" * 99]
)
def test_what_is_no_image_has_no_size(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    assert upright_size(StoredImage.in_file(tmp_path / "a")) is None
    assert upright_size(StoredImage.in_file(tmp_path / "missing")) is None
    assert upright_size(StoredImage.in_file(tmp_path)) is None


def test_part_of_an_archive(tmp_path):
    file = io.BytesIO()
    Image.new("RGB", (7, 5)).save(file, "JPEG")
    (tmp_path / "a.tar").write_bytes(b"\0" * 512 + file.getvalue() + b"\0" * 512)
    assert upright_size(StoredImage(tmp_path / "a.tar", "a.jpg", 512, len(file.getvalue()))) == (5, 7)
