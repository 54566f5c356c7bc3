"""Readers of images."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from effdet.images.reading import EncodedImage, read_picture
from fuzz.mutations import mutate_bytes
from fuzz.targets import Seeds, Target


def _picture(mode: str = "RGB") -> Image.Image:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((40, 30))
    return image.convert(mode)


def _encoded(kind: str, mode: str = "RGB", **options: object) -> bytes:
    buffer = io.BytesIO()
    _picture(mode).save(buffer, kind, **options)
    return buffer.getvalue()


def _sixteen_bits(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(buffer, kind)
    return buffer.getvalue()


def jpeg() -> bytes:
    """Return a small JPEG of 40×30 pixels."""
    return _encoded("JPEG")


def _exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return _encoded("JPEG", exif=exif)


def _jpegs() -> Seeds:
    kinds: tuple[dict[str, Any], ...] = (
        {},
        {"progressive": True},
        {"quality": 20, "subsampling": 2},
        {"restart_marker_rows": 1},
    )
    return [*(_encoded("JPEG", **kind) for kind in kinds), _encoded("JPEG", "L"), _encoded("JPEG", "CMYK"), _exif()]


def _pngs() -> Seeds:
    return [*(_encoded("PNG", mode) for mode in ("RGB", "L", "P", "RGBA", "1")), _sixteen_bits("PNG")]


def _tiffs() -> Seeds:
    packed = [_encoded("TIFF", compression=kind) for kind in ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")]
    return [*packed, _encoded("TIFF", "L"), _encoded("TIFF", "CMYK"), _sixteen_bits("TIFF")]


def _others() -> Seeds:
    return [*(_encoded(kind) for kind in ("WEBP", "GIF", "BMP", "PPM", "TGA", "JPEG2000")), _encoded("GIF", "P")]


def _arrays() -> Seeds:
    seeds = []
    for values in (np.zeros((6, 8), np.uint8), np.ones((6, 8, 4), np.float32), np.zeros((6, 8, 3), np.uint16)):
        buffer = io.BytesIO()
        np.save(buffer, values)
        seeds.append(buffer.getvalue())
    return seeds


def _mutate_png(content: bytes, rng: random.Random, seeds: Seeds) -> bytes:
    """Make the checksums of the chunks fit, two times of three."""
    changed = mutate_bytes(content, rng, seeds)
    if rng.random() < 0.33:
        return changed
    parts, at = [changed[:8]], 8
    while at + 12 <= len(changed):
        length = int.from_bytes(changed[at : at + 4], "big")
        body = changed[at + 4 : at + 8 + length]
        if at + 12 + length > len(changed):
            break
        parts.append(struct.pack(">I", length) + body + struct.pack(">I", zlib.crc32(body)))
        at += 12 + length
    return b"".join(parts) + changed[at:]


def _read(content: bytes, folder: Path) -> None:
    read_picture(EncodedImage("x", np.frombuffer(content, dtype=np.uint8)))


TARGETS = [
    Target("JPEG", _jpegs, _read, share=6),
    Target("PNG", _pngs, _read, _mutate_png, share=6),
    Target("TIFF", _tiffs, _read, share=3),
    Target("npy", _arrays, _read, share=2),
    Target("WebP, GIF, BMP and others", _others, _read, share=6),
]
