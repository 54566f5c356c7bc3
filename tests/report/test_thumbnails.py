"""Tests of effdet/report/thumbnails.py."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from effdet.report.thumbnails import CROP_SIDE, crop, encode_all, shrink


def opened(address):
    assert address.startswith("data:image/webp;base64,")
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])))


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_pictures_are_as_large_as_the_bytes_allow():
    pictures = [shrink(noise(480, 640, seed)) for seed in range(5)]
    lengths = {}
    for allowed in (400_000, 100_000):
        addresses = encode_all([*pictures, None], allowed)
        lengths[allowed] = sum(map(len, addresses))
        assert lengths[allowed] <= allowed
        assert addresses[-1] == ""
        assert opened(addresses[0]).width in (640, 512, 400, 320, 256, 200, 160, 128, 96)
    assert lengths[100_000] < lengths[400_000]
    assert encode_all(pictures, 100) == [""] * 5


def test_small_pictures_keep_their_size():
    assert opened(encode_all([shrink(noise(30, 50))], 10**6)[0]).size == (50, 30)
    assert shrink(noise(2000, 1000)).size == (320, 640)


def test_crop_shows_the_box_in_its_middle_also_at_the_border():
    image = np.zeros((100, 100, 3), np.uint8)
    image[0:20, 0:20] = (0, 0, 255)
    shown = np.asarray(opened(crop(image, (0, 0, 20, 20))).convert("RGB")).astype(int)
    assert shown.shape == (CROP_SIDE, CROP_SIDE, 3)
    middle = CROP_SIDE // 2
    assert shown[middle, middle] == pytest.approx([0, 0, 255], abs=30)
    assert shown[4, 4] == pytest.approx([128, 128, 128], abs=12)  # beyond the image
    assert shown[-8, -8] == pytest.approx([0, 0, 0], abs=12)
