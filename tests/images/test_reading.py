from __future__ import annotations

import builtins
import io
import re
import wave
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from effdet.images.reading import ImageError, iterate_images, letterbox, pad, read_image, to_rgb
from effdet.install import hint

FILL = (124, 116, 104)


@pytest.fixture
def rgb() -> np.ndarray:
    """A picture that no flip or turn maps to itself: 32×48, red left, green right, a blue block at the top left."""
    image = np.zeros((32, 48, 3), dtype=np.uint8)
    image[:, :24, 0] = 200
    image[:, 24:, 1] = 160
    image[:8, :8] = (0, 0, 250)
    return image


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


def test_arrays_and_tensors_of_every_kind_become_the_same_rgb(rgb: np.ndarray) -> None:
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    tensor = torch.from_numpy(rgb).permute(2, 0, 1)
    for image in (
        rgb,
        alpha,
        rgb.astype(np.uint16) * 256 + 3,
        rgb.astype(np.float32) / 255,
        rgb.astype(np.float64) / 255,
        tensor,
        tensor / 255,
        (tensor / 255).requires_grad_(),
        torch.from_numpy(alpha).permute(2, 0, 1),
        Image.fromarray(rgb),
        Image.fromarray(alpha),
    ):
        result = to_rgb(image)
        assert result.flags.c_contiguous
        np.testing.assert_array_equal(result, rgb)
    np.testing.assert_allclose(to_rgb((tensor / 255).half()), rgb, atol=1)


def test_gray_arrays_and_tensors_become_three_equal_channels() -> None:
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    expected = np.dstack([gray, gray, gray])
    for image in (gray, gray[..., None], torch.from_numpy(gray), torch.from_numpy(gray)[None]):
        np.testing.assert_array_equal(to_rgb(image), expected)
    np.testing.assert_array_equal(to_rgb(gray > 2)[..., 0], [[0, 0, 0], [255, 255, 255]])


def test_float_overshoot_of_a_resize_is_clipped() -> None:
    assert to_rgb(np.array([[-0.1, 0.5, 1.1]]))[0, :, 0].tolist() == [0, 128, 255]


def test_unsuitable_images_in_memory_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\(H, W\) or \(H, W, C\) with C = 1, 3 or 4, got \(3, 480, 640\)"):
        to_rgb(np.zeros((3, 480, 640), np.uint8))
    with pytest.raises(ValueError, match=r"\(C, H, W\) with C = 1, 3 or 4, got \(480, 640, 3\)"):
        to_rgb(torch.zeros(480, 640, 3))
    with pytest.raises(ValueError, match=r"2 or 3 dimensions, got shape \(5,\)"):
        to_rgb(np.zeros(5, np.uint8))
    with pytest.raises(ValueError, match=r"must have pixels, got shape \(0, 4, 3\)"):
        to_rgb(np.zeros((0, 4, 3), np.uint8))
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\], got \[0, 255\]; divide by 255"):
        to_rgb(np.array([[0.0, 255.0]]))
    with pytest.raises(ValueError, match="nan"):
        to_rgb(np.array([[0.0, np.nan]]))
    with pytest.raises(ValueError, match="got int64; convert it to uint8"):
        to_rgb(np.zeros((4, 4), np.int64))
    with pytest.raises(TypeError, match="a Pillow image, an array or a tensor, got int"):
        to_rgb(5)  # type: ignore[arg-type]


# Long sides that lose a pixel to float32 at 512 and sides that do not, from the published models' own arithmetic.
@pytest.mark.parametrize(
    ("original", "content"),
    [
        ((425, 100), (511, 120)),
        ((100, 427), (119, 511)),
        ((428, 300), (511, 358)),
        ((500, 375), (512, 384)),
        ((480, 640), (384, 512)),
        ((2000, 3), (512, 1)),
        ((3, 4000), (1, 512)),  # 0.38 of a pixel is still a row
    ],
)
def test_letterbox_content_is_truncated_in_float32(original: tuple[int, int], content: tuple[int, int]) -> None:
    image = np.full((*original, 3), 200, np.uint8)
    padded, content_size, scale = letterbox(image, (512, 512), FILL)
    assert content_size == content
    assert scale == np.float32(512) / np.float32(max(original))
    assert padded.shape == (512, 512, 3)
    assert (padded[: content[0], : content[1]] == 200).all()
    assert (padded[content[0] :] == FILL).all()
    assert (padded[:, content[1] :] == FILL).all()


@pytest.mark.parametrize("size", [512, 640, 768, 896, 1024, 1280, 1536])
def test_letterbox_loses_no_pixel_of_the_common_sizes(size: int) -> None:
    for side in (500, 640):
        assert letterbox(np.zeros((side, side, 3), np.uint8), (size, size), FILL)[1] == (size, size)


def test_letterbox_resizes_bilinearly_with_half_pixel_centres_and_no_antialias() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    ours, (height, width), _ = letterbox(image, (24, 32), FILL)
    nchw = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(nchw, (height, width), mode="bilinear", align_corners=False)
    assert np.abs(ours[:height, :width] - expected[0].permute(1, 2, 0).numpy()).max() <= 1


def test_letterbox_takes_the_tighter_axis_of_an_oblong_input() -> None:
    _, content_size, scale = letterbox(np.zeros((100, 100, 3), np.uint8), (64, 256), FILL)
    assert (content_size, scale) == ((64, 64), pytest.approx(0.64))


def test_pad_leaves_a_full_image_alone(rgb: np.ndarray) -> None:
    np.testing.assert_array_equal(pad(rgb, (32, 48), FILL), rgb)


def names(source: object) -> list[str]:
    return [Path(name).name for name, _ in iterate_images(source)]


@pytest.fixture
def folder(tmp_path: Path, rgb: np.ndarray) -> Path:
    for name in ("b.jpg", "a.PNG", "sub/c.jpg", "odd[1].jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(rgb).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    return tmp_path


def test_files_folders_globs_and_lists_are_read_by_name(folder: Path) -> None:
    assert names(folder / "b.jpg") == ["b.jpg"]
    assert names(str(folder / "odd[1].jpg")) == ["odd[1].jpg"]  # not a pattern: the file exists
    assert names(folder) == ["a.PNG", "b.jpg", "odd[1].jpg"]
    assert names(str(folder / "*.jpg")) == ["b.jpg", "odd[1].jpg"]
    assert names(str(folder / "**" / "*.jpg")) == ["b.jpg", "odd[1].jpg", "c.jpg"]
    assert names([folder / "b.jpg", [folder / "a.PNG"]]) == ["b.jpg", "a.PNG"]


def test_images_in_memory_are_numbered(folder: Path, rgb: np.ndarray) -> None:
    tensors = torch.zeros(2, 3, 8, 9)
    found = list(
        iterate_images([rgb, folder / "b.jpg", Image.fromarray(rgb), tensors, np.zeros((1, 5, 6, 3), np.uint8)])
    )
    assert [Path(name).name for name, _ in found] == ["image-0", "b.jpg", "image-2", "image-3", "image-4", "image-5"]
    assert [image.shape[:2] for _, image in found] == [(32, 48), (32, 48), (32, 48), (8, 9), (8, 9), (5, 6)]
    with Image.open(folder / "b.jpg") as opened:
        assert names(opened) == ["b.jpg"]


def test_images_are_read_when_they_are_asked_for(folder: Path) -> None:
    images = iterate_images([folder / "b.jpg", folder / "gone.jpg"])
    assert Path(next(images)[0]).name == "b.jpg"
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg: no such image, folder or video"):
        next(images)


def test_sources_without_images_are_errors(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="the folder holds no images"):
        names(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"\*\.jpg: no image or video file matches"):
        names(str(tmp_path / "*.jpg"))
    with pytest.raises(TypeError, match=r"a source must be a path.*got float"):
        names(1.5)


def write_video(path: Path, num_frames: int) -> None:
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(num_frames):
            image = np.full((48, 64, 3), (40 * number, 0, 200), np.uint8)
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


def test_video_gives_its_frames_in_order(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", num_frames=5)
    frames = list(iterate_images(tmp_path / "a.mp4"))
    assert [Path(name).name for name, _ in frames] == [f"a.mp4#{number}" for number in range(5)]
    for number, (_, image) in enumerate(frames):
        assert image.shape == (48, 64, 3)
        np.testing.assert_allclose(image.mean(axis=(0, 1)), (40 * number, 0, 200), atol=8)


def test_broken_video_and_missing_reader_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("av")
    (tmp_path / "a.mp4").write_bytes(b"no video at all")
    with pytest.raises(ImageError, match=r"a\.mp4: not a readable video"):
        names(tmp_path / "a.mp4")

    with wave.open(str(tmp_path / "sound.avi"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(1600))
    with pytest.raises(ImageError, match=r"sound\.avi: holds no video stream"):
        names(tmp_path / "sound.avi")

    real_import = builtins.__import__

    def without_av(name: str, *args: object, **kwargs: object) -> object:
        if name == "av":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without_av)
    with pytest.raises(ImageError, match=re.escape(f"needs PyAV; install it with: {hint('video')}")):
        names(tmp_path / "a.mp4")
