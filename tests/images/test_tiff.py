"""TIFFs that no library here writes, made byte by byte from TIFF 6.0."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from effdet.images.reading import ImageError, read_image

GRAY = (np.arange(64 * 48).reshape(48, 64) % 256).astype(np.uint8)
RGB = np.dstack([GRAY, GRAY.T.reshape(48, 64), 255 - GRAY])
UINT, INT, FLOAT, COMPLEX = 1, 2, 3, 6  # sample formats
WHITE_IS_ZERO, BLACK_IS_ZERO, RGB_COLOURS = 0, 1, 2


def tiff_bytes(
    values: np.ndarray, sample_format: int, photometric: int, *, planes: bool = False, order: str = "<"
) -> bytes:
    """Return an uncompressed TIFF of (H, W) or (H, W, C) values: tags, then the longer lists, then the pixels."""
    height, width, channels = (*values.shape, 1)[:3]
    strips = channels if planes else 1
    pixels = np.ascontiguousarray(values.transpose(2, 0, 1) if planes else values)
    data = pixels.astype(values.dtype.newbyteorder(order)).tobytes()
    size = len(data) // strips
    lists = [(258, 3, [8 * values.dtype.itemsize] * channels), (339, 3, [sample_format] * channels)]
    single = {256: width, 257: height, 259: 1, 262: photometric, 277: channels, 278: height, 284: 2 if planes else 1}
    tags = [*lists, *((tag, 4, [value]) for tag, value in single.items()), (279, 4, [size] * strips)]
    tags = sorted([*tags, (273, 4, [0] * strips)])
    end = 8 + 2 + 12 * len(tags) + 4
    start = end + sum({3: 2, 4: 4}[kind] * len(found) for _, kind, found in tags)  # room for every list
    rows, longer = b"", b""
    for tag, kind, found in tags:
        found = [start + number * size for number in range(strips)] if tag == 273 else found
        packed = struct.pack(order + {3: "H", 4: "I"}[kind] * len(found), *found)
        if len(packed) > 4:
            packed, longer = struct.pack(order + "I", end + len(longer)), longer + packed
        rows += struct.pack(order + "HHI", tag, kind, len(found)) + packed.ljust(4, b"\0")
    header = {"<": b"II", ">": b"MM"}[order] + struct.pack(order + "HIH", 42, 8, len(tags))
    return (header + rows + bytes(4) + longer).ljust(start, b"\0") + data


@pytest.fixture(params=["<", ">"], ids=["little", "big"])
def order(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("values", [GRAY, GRAY.astype(np.uint16) * 257, (GRAY / 255).astype(np.float32)])
def test_the_plain_kinds_are_read(tmp_path: Path, values: np.ndarray, order: str) -> None:
    kind = FLOAT if values.dtype == np.float32 else UINT
    (tmp_path / "a.tif").write_bytes(tiff_bytes(values, kind, BLACK_IS_ZERO, order=order))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.dstack([GRAY] * 3))


@pytest.mark.parametrize(
    "values",
    [
        255 - GRAY,
        65535 - GRAY.astype(np.uint16) * 257,
        4095 - GRAY.astype(np.uint16) * 16,
        (1 - GRAY / 255).astype(np.float32),
    ],
)
def test_white_is_white_where_it_is_written_as_zero(tmp_path: Path, values: np.ndarray, order: str) -> None:
    kind = FLOAT if values.dtype == np.float32 else UINT
    (tmp_path / "a.tif").write_bytes(tiff_bytes(values, kind, WHITE_IS_ZERO, order=order))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.dstack([GRAY] * 3))


def test_separate_planes_of_eight_bits_are_read(tmp_path: Path, order: str) -> None:
    (tmp_path / "a.tif").write_bytes(tiff_bytes(RGB, UINT, RGB_COLOURS, planes=True, order=order))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), RGB)


@pytest.mark.parametrize(
    ("values", "sample_format", "planes", "kind"),
    [
        (GRAY.astype(np.float16), FLOAT, False, r"is a TIFF with floats of 16 bits"),
        (GRAY.astype(np.complex64), COMPLEX, False, r"is a TIFF with complex numbers of 64 bits"),
        (RGB.astype(np.uint16) * 257, UINT, True, r"is a TIFF with 3 channels of 16 bits in separate planes"),
    ],
)
def test_what_is_not_read_is_named(
    tmp_path: Path,
    values: np.ndarray,
    sample_format: int,
    planes: bool,
    kind: str,
    order: str,
    capfd: pytest.CaptureFixture[str],
) -> None:
    photometric = BLACK_IS_ZERO if values.ndim == 2 else RGB_COLOURS
    (tmp_path / "a.tif").write_bytes(tiff_bytes(values, sample_format, photometric, planes=planes, order=order))
    with pytest.raises(ImageError, match=rf"a\.tif: {kind}.* is not read; convert it to 8-bit RGB$"):
        read_image(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""  # no lines of OpenCV


@pytest.mark.parametrize(("values", "photometric"), [(np.dstack([RGB, RGB]), RGB_COLOURS), (RGB, BLACK_IS_ZERO)])
def test_bands_are_no_rgb(tmp_path: Path, values: np.ndarray, photometric: int) -> None:
    """OpenCV reads several bands that are no colours as the first of them."""
    (tmp_path / "a.tif").write_bytes(tiff_bytes(values, UINT, photometric))
    channels = values.shape[2]
    with pytest.raises(
        ImageError, match=rf"a\.tif: has {channels} channels, which are no RGB; model\.architecture\.in_ch"
    ):
        read_image(tmp_path / "a.tif")
