"""Pictures that claim more than they hold."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from effdet.images.png import has_all_rows
from effdet.images.reading import EncodedImage, ImageError, read_picture


def read(data: bytes):
    return read_picture(EncodedImage("x", np.frombuffer(data, np.uint8))).pixels


def encoded(kind: str, mode: str = "RGB", size=(40, 30), **options) -> bytes:
    buffer = io.BytesIO()
    Image.new(mode, size, 1).save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, rows: int) -> bytes:
    """Return an RGB PNG with another number of rows than its header says, all its checksums right."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + 3 * width) * rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(13_000, 13_000), (40, 31)])
def test_a_png_with_fewer_rows_than_it_claims_is_refused_before_they_are_made(size):
    with pytest.raises(ImageError, match="the PNG has fewer rows than its header says"):
        read(png(*size, rows=30))
    assert read(png(40, 30, rows=30)).shape == (30, 40, 3)


@pytest.mark.parametrize("mode", ["1", "L", "P", "LA", "RGB", "RGBA", "I;16"])
def test_every_kind_of_png_has_all_its_rows(mode):
    data = encoded("PNG", mode)
    assert has_all_rows(np.frombuffer(data, np.uint8))
    cut = data.replace(b"IDAT", b"iDAT")  # a chunk that no reader knows
    assert not has_all_rows(np.frombuffer(cut, np.uint8))


def test_a_jpeg_that_claims_millions_of_pixels_in_few_bytes_is_refused():
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 20_000, 20_000)
    with pytest.raises(ImageError, match=r"bytes of JPEG cannot hold the 20000×20000 pixels that its header claims"):
        read(bytes(data))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"progressive": True}], ids=["baseline", "progressive"])
def test_the_smallest_large_jpeg_is_read(options):
    data = encoded("JPEG", "L", (8000, 6400), quality=1, optimize=True, **options)
    assert read(data).shape == (6400, 8000, 3)
