from __future__ import annotations

import io
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps, features

from effdet.images import reading
from effdet.images.decoder_messages import jpeg_messages
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


# -- damaged files


def damaged(data: bytes, kind: str) -> bytes:
    half = len(data) // 2
    hole = {"zeros": bytes(512), "noise": np.random.default_rng(3).bytes(512), "ones": b"\xff" * 512, "lost": b""}[kind]
    return data[:half] + hole + data[half + 512 :]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """Smooth shapes with some noise, as photos have them."""
    rng = np.random.default_rng(0)
    waves = np.sin(np.mgrid[:240, :320].transpose(1, 2, 0) / 17).sum(axis=2, keepdims=True)
    return np.uint8(np.clip(127 + 50 * waves + rng.normal(0, 6, (240, 320, 3)), 0, 255))


@pytest.mark.parametrize("kind", ["zeros", "noise", "ones", "lost"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"optimize": True}, {"restart_marker_blocks": 20}])
def test_a_jpeg_damaged_in_its_middle_is_named_and_libjpeg_is_quiet(tmp_path, photo, kind, options, capfd) -> None:
    (tmp_path / "hole.jpg").write_bytes(damaged(jpeg_bytes(photo, **options), kind))
    with pytest.raises(ImageError, match=r"hole\.jpg: (the JPEG is damaged|truncated or corrupt)"):
        read_image(tmp_path / "hole.jpg")
    assert capfd.readouterr().err == ""


def test_a_photo_with_a_hole_in_its_middle_is_named(photo_sets, capfd) -> None:
    with pytest.raises(ImageError, match=r"damaged\.jpg: the JPEG is damaged: premature end of data segment"):
        read_image(photo_sets / "bccd" / "damaged.jpg")
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("padding", [bytes(40), b"\xff" * 40, b"\x07"])
def test_bytes_that_a_camera_pads_with_are_no_damage(tmp_path, photo, padding, capfd) -> None:
    data = jpeg_bytes(photo)
    (tmp_path / "padded.jpg").write_bytes(data[:-2] + padding + data[-2:])
    assert read_image(tmp_path / "padded.jpg").shape == photo.shape
    assert capfd.readouterr().err == ""


def test_a_thumbnail_with_an_end_marker_does_not_make_a_cut_file_whole(tmp_path, photo) -> None:
    thumbnail = b"\xff\xe1" + (602).to_bytes(2, "big") + b"Exif\x00\x00" + bytes(592) + b"\xff\xd9"
    data = jpeg_bytes(photo)
    (tmp_path / "cut.jpg").write_bytes(data[:2] + thumbnail + data[2:-900])
    with pytest.raises(ImageError, match=r"cut\.jpg: "):
        read_image(tmp_path / "cut.jpg")


def test_a_damaged_jpeg_with_bytes_after_its_end_is_named(tmp_path, photo) -> None:
    (tmp_path / "hole.jpg").write_bytes(damaged(jpeg_bytes(photo), "lost") + b"maker's notes")
    with pytest.raises(ImageError, match="the JPEG is damaged"):
        read_image(tmp_path / "hole.jpg")


def test_a_png_with_a_flipped_bit_is_named(tmp_path, photo) -> None:
    Image.fromarray(photo).save(tmp_path / "a.png")
    data = bytearray((tmp_path / "a.png").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ImageError, match=r"a\.png: truncated or corrupt image: the PNG's chunk IDAT is missing or dam"):
        read_image(tmp_path / "a.png")


def test_pictures_are_damaged_or_whole_in_every_thread(tmp_path, photo) -> None:
    data = jpeg_bytes(photo)
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(damaged(data, "lost") if number % 3 == 0 else data)

    def is_whole(number: int) -> bool:
        try:
            return read_image(tmp_path / f"{number % 12}.jpg").shape == photo.shape
        except ImageError:
            return False

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(is_whole, range(48))) == [number % 3 != 0 for number in range(48)]


def test_what_others_write_to_stderr_while_a_jpeg_is_decoded_is_not_lost(capfd) -> None:
    with jpeg_messages() as messages:
        os.write(2, b"Corrupt JPEG data: bad Huffman code\nsomething else\n")
    assert messages == ["Corrupt JPEG data: bad Huffman code"]
    assert capfd.readouterr().err == "something else\n"


# -- kinds of values


GRAY = (np.arange(64 * 48).reshape(48, 64) % 256).astype(np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14, 16])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_low_bits_of_sixteen_use_all_levels(tmp_path: Path, suffix: str, bits: int, channels: int) -> None:
    values = GRAY.astype(np.uint16) << (bits - 8)
    values = values if channels == 1 else np.dstack([values] * channels)
    assert cv2.imwrite(str(tmp_path / f"a.{suffix}"), values)
    np.testing.assert_array_equal(read_image(tmp_path / f"a.{suffix}"), np.dstack([GRAY] * 3))


@pytest.mark.parametrize(
    "values", [GRAY.astype(np.float32), GRAY / np.float32(255), GRAY.astype(np.float64), GRAY.astype(np.int32)]
)
def test_tiffs_of_science_have_the_levels_of_eight_bits(tmp_path: Path, values: np.ndarray) -> None:
    assert cv2.imwrite(str(tmp_path / "a.tif"), values)
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.dstack([GRAY] * 3))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (GRAY.astype(np.int16) - 100, r"its integers must lie in 0…65535, got -100…155"),
        (GRAY.astype(np.int32) * 4000, r"its integers must lie in 0…65535, got 0…1\.02e\+06"),
        ((GRAY.astype(np.int16) - 128).astype(np.int8), r"its integers must lie in 0…65535, got -128…127 \(int8\)"),
        (GRAY.astype(np.float32) * 16, r"its floats must lie in \[0, 1\] or \[0, 255\], got 0…4080"),
        (GRAY.astype(np.float32) - 9, r"its floats must lie in \[0, 1\] or \[0, 255\], got -9…246"),
        (np.where(GRAY == 7, np.nan, GRAY).astype(np.float32), r"its floats must lie .*, got NaN among them"),
    ],
)
def test_values_without_an_agreed_range_are_named(tmp_path: Path, values: np.ndarray, message: str) -> None:
    assert cv2.imwrite(str(tmp_path / "a.tif"), values)
    with pytest.raises(ImageError, match=r"a\.tif: " + message):
        read_image(tmp_path / "a.tif")


def test_a_deep_tiff_whose_zero_is_white_is_not_inverted(tmp_path: Path) -> None:
    values = GRAY.astype(np.uint16) * 257
    Image.fromarray(65535 - values).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "a.tif") as opened:
        assert opened.tag_v2[262] == 0
    np.testing.assert_array_equal(read_image(tmp_path / "a.tif"), np.dstack([GRAY] * 3))


@pytest.mark.parametrize("transparency", [3, bytes(256)])
def test_a_palette_with_transparency_has_its_colours_and_no_warning(tmp_path, rgb, transparency) -> None:
    Image.fromarray(rgb).convert("P", palette=Image.Palette.ADAPTIVE).save(
        tmp_path / "a.png", transparency=transparency
    )
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), rgb)


# -- many pixels, other formats, and what is no file


@pytest.mark.slow
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_picture_above_the_limit_of_pillow_is_read(tmp_path: Path, suffix: str) -> None:
    Image.new("1", (13400, 13400), 1).save(tmp_path / f"map.{suffix}")
    image = read_image(tmp_path / f"map.{suffix}")
    assert image.shape == (13400, 13400, 3)
    assert image[::1000, ::1000].min() == 255


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_an_image_above_the_limit_says_how_many_pixels_it_has(tmp_path, rgb, suffix, monkeypatch) -> None:
    monkeypatch.setattr(reading, "MAX_PIXELS", 1_000)
    Image.fromarray(rgb).save(tmp_path / f"map.{suffix}")
    with pytest.raises(ImageError, match=r"has 48×32 pixels, 0 megapixels; at most 0 are read"):
        read_image(tmp_path / f"map.{suffix}")


@pytest.mark.parametrize("suffix", ["jfif", "avif", "jp2", "mpo", "jpe", "tga", "ppm", "dib"])
def test_less_common_formats_are_read(tmp_path: Path, photo: np.ndarray, suffix: str) -> None:
    if suffix == "avif" and not features.check("avif"):
        pytest.skip("this Pillow does not write AVIF")
    kind = {"jfif": "JPEG", "jpe": "JPEG", "mpo": "MPO"}.get(suffix)
    Image.fromarray(photo).save(tmp_path / f"a.{suffix}", kind, **({"quality": 95} if suffix != "tga" else {}))
    assert np.abs(read_image(tmp_path / f"a.{suffix}").astype(int) - photo).mean() < 6


def test_a_heic_image_says_what_it_needs(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\x00\x00\x00\x18ftypheic" + bytes(100))
    with pytest.raises(ImageError, match=r"a\.heic: is a HEIC image, .* convert it to JPEG"):
        read_image(tmp_path / "a.heic")


def test_a_wrong_suffix_does_not_matter(tmp_path: Path, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(tmp_path / "a.jpg", "PNG")
    np.testing.assert_array_equal(read_image(tmp_path / "a.jpg"), rgb)


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match=r"pipe\.jpg: must be a file, got a named pipe"):
        read_image(tmp_path / "pipe.jpg")
    with pytest.raises(ImageError, match="must be a file, got a device"):
        read_image(os.devnull)
    with pytest.raises(ImageError, match="must be a file, got a folder"):
        read_image(tmp_path)
