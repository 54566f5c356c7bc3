from __future__ import annotations

import io
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from effdet.images.reading import ImageError, read_image


def jpeg_bytes(image: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=98, subsampling=0, **options)
    return buffer.getvalue()


def test_jpeg_pixels_equal_pillows(photo_sets: Path) -> None:
    path = sorted((photo_sets / "bccd" / "images").iterdir())[0]
    with Image.open(path) as opened:
        expected = np.asarray(opened.convert("RGB"))
    assert np.abs(read_image(path).astype(int) - expected).max() <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_shows_the_upright_picture(tmp_path: Path, rgb: np.ndarray, orientation: int) -> None:
    # How a camera stores the upright picture, from the EXIF standard's table of "0th row" and "0th column".
    stored = {
        1: rgb,
        2: rgb[:, ::-1],
        3: rgb[::-1, ::-1],
        4: rgb[::-1],
        5: rgb.swapaxes(0, 1),
        6: np.rot90(rgb, 1),
        7: rgb[::-1, ::-1].swapaxes(0, 1),
        8: np.rot90(rgb, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "a.png"):
        Image.fromarray(np.ascontiguousarray(stored)).save(tmp_path / name, exif=exif, **JPEG_BEST.get(name, {}))
        image = read_image(tmp_path / name)
        with Image.open(tmp_path / name) as opened:
            by_pillow = np.asarray(ImageOps.exif_transpose(opened))
        assert np.abs(image.astype(int) - by_pillow).max() <= 1
        assert image.shape == rgb.shape
        assert image.flags.c_contiguous
        assert np.abs(image.astype(int) - rgb).mean() < 3


JPEG_BEST = {"a.jpg": {"quality": 98, "subsampling": 0}}


def test_orientation_stays_off_when_only_the_stored_pixels_fit_the_annotated_size(
    tmp_path: Path, rgb: np.ndarray
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(rgb).save(tmp_path / "a.jpg", exif=exif)  # stored 32×48, upright 48×32
    assert read_image(tmp_path / "a.jpg").shape == (48, 32, 3)
    assert read_image(tmp_path / "a.jpg", size=(48, 32)).shape == (48, 32, 3)
    assert read_image(tmp_path / "a.jpg", size=(32, 48)).shape == (32, 48, 3)
    assert read_image(tmp_path / "a.jpg", size=(7, 7)).shape == (48, 32, 3)


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "tif", "gif"])
def test_every_format_gives_the_same_picture(tmp_path: Path, rgb: np.ndarray, suffix: str) -> None:
    options = {"jpg": {"quality": 98, "subsampling": 0}, "webp": {"lossless": True}}.get(suffix, {})
    Image.fromarray(rgb).save(tmp_path / f"a.{suffix}", **options)
    image = read_image(tmp_path / f"a.{suffix}")
    assert (image.shape, image.dtype) == (rgb.shape, np.uint8)
    assert np.abs(image.astype(int) - rgb).mean() < 3


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGBA", "CMYK", "YCbCr", "F"])
def test_every_mode_is_accepted(tmp_path: Path, rgb: np.ndarray, mode: str) -> None:
    picture = Image.fromarray(rgb).convert(mode)
    suffix = {"CMYK": "jpg", "YCbCr": "jpg", "F": "tif"}.get(mode, "png")
    if mode == "F":
        picture = Image.fromarray(np.asarray(Image.fromarray(rgb).convert("L"), dtype=np.float32) / 255)
    picture.save(tmp_path / f"a.{suffix}", **({"quality": 98} if suffix == "jpg" else {}))
    expected = np.asarray(Image.fromarray(rgb).convert("1" if mode == "1" else "RGB"))
    if mode in ("L", "LA", "F", "1"):
        gray = np.asarray(Image.fromarray(rgb).convert(mode if mode == "1" else "L"))
        expected = np.repeat((gray * 255 if mode == "1" else gray)[..., None], 3, axis=2)
    image = read_image(tmp_path / f"a.{suffix}")
    assert image.dtype == np.uint8
    assert np.abs(image.astype(int) - expected).mean() < 4


def test_sixteen_bits_keep_their_high_byte(tmp_path: Path) -> None:
    ramp = np.arange(0, 65536, 64, dtype=np.uint16).reshape(32, 32)
    expected = np.repeat((ramp // 256).astype(np.uint8)[..., None], 3, axis=2)
    for name in ("gray.png", "gray.tif"):
        cv2.imwrite(str(tmp_path / name), ramp)
        np.testing.assert_array_equal(read_image(tmp_path / name), expected)
    cv2.imwrite(str(tmp_path / "color.png"), np.dstack([ramp, ramp // 2, ramp // 4]))  # OpenCV writes BGR
    image = read_image(tmp_path / "color.png")
    np.testing.assert_array_equal(image[..., 2], expected[..., 0])
    np.testing.assert_array_equal(image[..., 0], (ramp // 4) >> 8)


@pytest.mark.parametrize("part", [0.02, 0.5, 0.9, 0.9999])
@pytest.mark.parametrize("progressive", [False, True])
def test_truncated_jpeg_is_an_error(tmp_path: Path, part: float, progressive: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    data = jpeg_bytes(noise, progressive=progressive)
    (tmp_path / "cut.jpg").write_bytes(data[: int(part * len(data))])
    with pytest.raises(ImageError, match=r"cut\.jpg: "):
        read_image(tmp_path / "cut.jpg")


def test_truncated_jpeg_is_an_error_whatever_opencv_does_with_it(
    tmp_path: Path, rgb: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cv2, "imdecode", lambda *_: np.full_like(rgb, 128))  # as some versions do
    (tmp_path / "cut.jpg").write_bytes(jpeg_bytes(rgb)[:-40])
    with pytest.raises(ImageError, match="truncated or corrupt"):
        read_image(tmp_path / "cut.jpg")


@pytest.mark.parametrize("suffix", ["png", "webp", "tif", "gif"])
def test_truncated_file_of_another_format_is_an_error(tmp_path: Path, suffix: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{suffix}")
    data = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=rf"a\.{suffix}: "):
        read_image(tmp_path / f"a.{suffix}")


def test_bytes_after_the_end_of_a_jpeg_do_not_matter(tmp_path: Path, rgb: np.ndarray) -> None:
    (tmp_path / "a.jpg").write_bytes(jpeg_bytes(rgb) + b"maker's notes")
    assert np.abs(read_image(tmp_path / "a.jpg").astype(int) - rgb).mean() < 3


def test_broken_exif_does_not_hide_good_pixels(tmp_path: Path, rgb: np.ndarray) -> None:
    data = jpeg_bytes(rgb)
    segment = b"Exif\x00\x00II*\x00\xff\xff\xff\xff"
    block = b"\xff\xe1" + (len(segment) + 2).to_bytes(2, "big") + segment
    (tmp_path / "a.jpg").write_bytes(data[:2] + block + data[2:])
    assert read_image(tmp_path / "a.jpg").shape == rgb.shape


def test_bad_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jpg: no such image file"):
        read_image(tmp_path / "none.jpg")
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(ImageError, match=r"empty\.jpg: is an empty file"):
        read_image(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ImageError, match=r"text\.jpg: is not an image of a known format"):
        read_image(tmp_path / "text.jpg")
    with pytest.raises(ImageError, match="cannot be read"):
        read_image(tmp_path)
