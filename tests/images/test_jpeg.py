"""Decoding of JPEG data: sizes and orientations from the header, reduced pictures."""

import io

import numpy as np
import pytest
from PIL import Image

from effdet.images.jpeg import decode_jpeg, is_whole_jpeg, jpeg_orientation, jpeg_size, largest_reduction
from effdet.images.reading import read_picture


def jpeg(image: np.ndarray, **options: object) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=95, **options)
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8)


def halves(height: int, width: int) -> np.ndarray:
    """Red above, green below, the left quarter blue."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[: height // 2, :, 0] = 200
    image[height // 2 :, :, 1] = 160
    image[:, : width // 4] = (0, 0, 250)
    return image


def with_orientation(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"comment": b"x" * 5000}, {"exif": with_orientation(6)}]
)
def test_the_header_tells_the_size_of_the_pixels(options):
    data = jpeg(halves(37, 53), **options)
    assert jpeg_size(data) == (37, 53)
    assert jpeg_orientation(data) == (6 if "exif" in options else 1)
    assert is_whole_jpeg(data)


def test_fill_bytes_before_a_marker_do_not_hide_the_size():
    data = jpeg(halves(37, 53))
    assert jpeg_size(np.concatenate([data[:2], np.uint8([0xFF, 0xFF]), data[2:]])) == (37, 53)


@pytest.mark.parametrize("length", [2, 10, 60])
def test_a_header_without_a_size_gives_none(length):
    assert jpeg_size(jpeg(halves(37, 53))[:length]) is None


@pytest.mark.parametrize("reduction", [2, 4, 8])
def test_a_reduced_picture_is_the_mean_of_its_pixels(reduction):
    image = halves(64, 128)
    reduced = decode_jpeg(jpeg(image, subsampling=0), reduction=reduction)
    blocks = image.reshape(64 // reduction, reduction, 128 // reduction, reduction, 3).mean(axis=(1, 3))
    assert np.abs(reduced - blocks).max() <= 4


def test_sides_of_a_reduced_picture_are_rounded_up():
    data = jpeg(halves(101, 203))
    assert [decode_jpeg(data, reduction=n).shape[:2] for n in (1, 2, 4, 8)] == [
        (101, 203),
        (51, 102),
        (26, 51),
        (13, 26),
    ]


def test_the_largest_reduction_keeps_both_sides_large_enough():
    assert largest_reduction((1080, 1920), (288, 512)) == 2
    assert largest_reduction((104, 208), (13, 26)) == 8
    assert largest_reduction((104, 208), (13, 27)) == 4
    assert largest_reduction((100, 100), (51, 51)) == 1
    assert largest_reduction((100, 100), (200, 200)) == 1


def test_a_reduction_that_moves_the_edges_is_left_out():
    """Of 101 rows at 1/8, the 13 that come cover 104: the edge of 13 rows would lie 0.4 of a row too high."""
    assert largest_reduction((101, 208), (13, 26)) == 2
    assert largest_reduction((1365, 2048), (341, 512)) == 2


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_reduced_picture_is_upright(tmp_path, orientation):
    (tmp_path / "turned.jpg").write_bytes(jpeg(halves(160, 320), exif=with_orientation(orientation)).tobytes())
    whole = read_picture(tmp_path / "turned.jpg")
    small = read_picture(tmp_path / "turned.jpg", least_size=lambda size: (size[0] // 4, size[1] // 4))
    height, width = whole.pixels.shape[:2]
    assert (
        small.original_size == whole.original_size == (height, width) == ((160, 320) if orientation < 5 else (320, 160))
    )
    assert small.pixels.shape == (height // 4, width // 4, 3)
    blocks = whole.pixels.reshape(height // 4, 4, width // 4, 4, 3).mean(axis=(1, 3))
    assert np.abs(small.pixels - blocks).mean() < 4


def test_a_reduced_picture_keeps_its_stored_pixels_where_annotations_fit_them(tmp_path):
    (tmp_path / "turned.jpg").write_bytes(jpeg(halves(160, 320), exif=with_orientation(6)).tobytes())
    small = read_picture(tmp_path / "turned.jpg", size=(160, 320), least_size=lambda size: (40, 80))
    assert (small.pixels.shape, small.original_size) == ((40, 80, 3), (160, 320))
