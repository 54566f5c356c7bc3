"""Images of any number of channels and any range of values."""

import io

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

from effdet.images.letterbox import Letterbox
from effdet.images.pixel_format import PixelFormat
from effdet.images.preprocessing import PRESETS, Preprocessing
from effdet.images.reading import EncodedImage, ImageError, read_image

RNG = np.random.default_rng(0)
GRAY = RNG.integers(0, 256, (24, 32), dtype=np.uint8)
RGB = RNG.integers(0, 256, (24, 32, 3), dtype=np.uint8)
DEEP = RNG.integers(0, 4096, (24, 32), dtype=np.uint16)


def encoded(values, suffix):
    """Return the bytes of a file of these values; RGB order, as all of them store it."""
    if suffix == ".npy":
        file = io.BytesIO()
        np.save(file, values)
        return EncodedImage(f"a{suffix}", np.frombuffer(file.getvalue(), np.uint8))
    if suffix == ".tifffile":
        tifffile = pytest.importorskip("tifffile")
        file = io.BytesIO()
        tifffile.imwrite(file, values, photometric="minisblack", planarconfig="contig")
        return EncodedImage("a.tif", np.frombuffer(file.getvalue(), np.uint8))
    bgr = values[..., [2, 1, 0, *range(3, values.shape[2])]] if values.ndim == 3 and values.shape[2] >= 3 else values
    return EncodedImage(f"a{suffix}", cv2.imencode(suffix, bgr)[1].reshape(-1))


def with_channels(values, channels):
    return np.stack([np.roll(values, 3 * channel, axis=1) for channel in range(channels)], axis=2)


@pytest.mark.parametrize(
    ("values", "suffix"),
    [
        *((values, suffix) for values in (GRAY, DEEP) for suffix in (".png", ".tiff", ".npy")),
        *((with_channels(DEEP, 3), suffix) for suffix in (".png", ".tiff", ".npy")),
        *((with_channels(GRAY, 4), suffix) for suffix in (".png", ".tiff", ".npy", ".tifffile")),
        *((with_channels(DEEP, 4), suffix) for suffix in (".png", ".tiff", ".npy", ".tifffile")),
        *((with_channels(DEEP, 7), suffix) for suffix in (".npy", ".tifffile")),
        *((with_channels(DEEP, 7).astype(np.float32), suffix) for suffix in (".npy", ".tifffile")),
        *((DEEP.astype(np.float32) - 100, suffix) for suffix in (".tiff", ".npy")),
        (with_channels(DEEP, 2).astype(np.int32) - 7, ".npy"),
        (with_channels(DEEP, 5).astype(">i2"), ".npy"),
        (np.asfortranarray(with_channels(DEEP, 5).astype(np.float64)), ".npy"),
    ],
)
def test_every_channel_and_value_of_a_file_is_read(values, suffix):
    channels = 1 if values.ndim == 2 else values.shape[2]
    value_range = None if values.dtype == np.uint8 else (-200.0, 5000.0)
    read = PixelFormat(channels=channels, value_range=value_range).read(encoded(values, suffix))
    expected = values.reshape(24, 32, channels).astype(np.float64)
    if value_range is not None:
        expected = (expected + 200) * 255 / 5200  # by hand: -200 becomes 0, 5000 becomes 255
    assert read.pixels.dtype == (np.uint8 if value_range is None else np.float32)
    assert read.pixels.flags.c_contiguous
    assert read.original_size == (24, 32)
    np.testing.assert_allclose(read.pixels, expected, atol=1e-4)


def test_values_outside_of_the_range_are_clipped():
    levels = PixelFormat(channels=1, value_range=(10, 20)).convert(np.array([[0, 10, 15, 20, 99]], np.uint16))
    assert levels[..., 0].tolist() == [[0, 0, 127.5, 255, 255]]


@pytest.mark.parametrize(
    ("values", "channels", "expected"),
    [
        (GRAY, 3, np.dstack([GRAY] * 3)),
        (np.dstack([GRAY, GRAY // 2]), 1, GRAY[..., None]),  # gray and alpha
        (np.dstack([GRAY] * 3), 1, GRAY[..., None]),  # a gray copy is the gray image
        (np.dstack([*[GRAY] * 3, GRAY // 2]), 1, GRAY[..., None]),
    ],
)
def test_channels_that_need_no_guess_are_converted(values, channels, expected):
    fmt = PixelFormat(channels=channels, value_range=(0, 255))
    np.testing.assert_allclose(fmt.convert(values), expected, atol=1e-4)
    if channels == 1:
        assert np.array_equal(PixelFormat(channels=1).convert(values), expected)


def test_rgb_becomes_its_luminance():
    """Rec. 601, as OpenCV and Pillow have it."""
    gray = PixelFormat(channels=1).convert(RGB)[..., 0].astype(int)
    assert abs(gray - cv2.cvtColor(RGB, cv2.COLOR_RGB2GRAY).astype(int)).max() <= 1
    assert abs(gray - np.asarray(Image.fromarray(RGB).convert("L"))).max() <= 1


@pytest.mark.parametrize(("values", "channels"), [(GRAY, 4), (RGB, 2), (RGB, 4), (with_channels(GRAY, 5), 3)])
def test_other_channels_are_an_error(values, channels):
    found = 1 if values.ndim == 2 else values.shape[2]
    fmt = PixelFormat(channels=channels, value_range=(0, 255))
    message = f"has {found} channels, but the network takes {channels}; model.architecture.in_channels={found} trains"
    with pytest.raises(ValueError, match=message):
        fmt.convert(values)
    with pytest.raises(ImageError, match=f"a.npy: {message}"):
        fmt.read(encoded(values, ".npy"))


def test_nothing_is_scaled_by_guess():
    with pytest.raises(
        ImageError, match=r"a\.png: holds uint16 values, but the network was made for 8-bit levels; train"
    ):
        PixelFormat(channels=1).read(encoded(DEEP, ".png"))
    with pytest.raises(ValueError, match="holds float32 values"):
        PixelFormat(channels=2).convert(torch.zeros(2, 4, 4))
    holed = DEEP.astype(np.float32)
    holed[0, 0] = np.nan
    with pytest.raises(ImageError, match="holds values that are not finite"):
        PixelFormat(channels=1, value_range=(0, 1)).read(encoded(holed, ".npy"))


@pytest.mark.parametrize("value_range", [(1, 1), (2, 1), (0, float("inf")), (float("nan"), 1), (1,), "ab", 5])
def test_ranges_that_are_none(value_range):
    with pytest.raises(ValueError, match="value_range must be two finite numbers"):
        PixelFormat(value_range=value_range)
    with pytest.raises(ValueError, match="channels must be 1 or more, got 0"):
        PixelFormat(channels=0)


def test_a_gray_jpeg_and_exif_orientation():
    file = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    smooth = np.tile(np.arange(0, 256, 8, dtype=np.uint8), (24, 1))
    Image.fromarray(smooth).save(file, "JPEG", quality=100, exif=exif)
    picture = PixelFormat(channels=1).read(EncodedImage("a.jpg", np.frombuffer(file.getvalue(), np.uint8)))
    assert picture.original_size == (32, 24)
    assert abs(picture.pixels[..., 0].astype(int) - np.rot90(smooth, -1)).max() <= 1


def test_numpy_files_of_rgb_are_images_like_others(tmp_path):
    np.save(tmp_path / "a.npy", RGB)
    assert np.array_equal(read_image(tmp_path / "a.npy"), RGB)
    np.save(tmp_path / "b.npy", with_channels(GRAY, 5))
    with pytest.raises(ImageError, match=r"b\.npy: has 5 channels, which are no RGB; model\.arch.*_channels=5"):
        read_image(tmp_path / "b.npy")


def npy(descr, shape):
    """Return a NumPy file with this header, and no values."""
    return raw_npy(f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}")


def raw_npy(header):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            npy("|O", (2, 2)),
            "is a NumPy file of object",
        ),
        (npy("<c8", (2, 2)), "is a NumPy file of complex64"),
        (
            npy("|u1", (9000000, 9000000)),
            "is a NumPy file that is truncated",
        ),
        (npy("|u1", (2,)), r"is a NumPy file of the shape \(2,\)"),
        (npy("|u1", (0, 2)), r"is a NumPy file of the shape \(0, 2\)"),
        (npy("|u1", (-2, -2)), "is a NumPy file"),
        (raw_npy("__import__('os').system('true')"), "is a NumPy file with a damaged header"),
        (b"\x93NUMPY\x09", "is a NumPy file with a damaged header"),
    ],
)
def test_numpy_files_that_are_no_images(data, message):
    with pytest.raises(ImageError, match=f"a.npy: {message}"):
        PixelFormat(channels=1, value_range=(0, 1)).read(EncodedImage("a.npy", np.frombuffer(data, np.uint8)))


LETTERBOXES = [
    (preset, channels)
    for preset in (*PRESETS, "mediapipe")
    for channels in (1, 2, 3, 4, 6)
    if channels == 3 or preset == "mediapipe" or PRESETS[preset].fill is None  # a fill is a colour
]


@pytest.mark.parametrize(("preset", "channels"), LETTERBOXES)
@pytest.mark.parametrize("value_range", [None, (0.0, 255.0)])
def test_the_letterbox_treats_channels_alike(channels, value_range, preset):
    """Each channel becomes what it becomes in a letterbox of its own, and levels of floats what whole levels become."""
    preprocessing = Preprocessing(resize="mediapipe") if preset == "mediapipe" else PRESETS[preset]
    mean, std = tuple(range(100, 100 + channels)), tuple(range(50, 50 + channels))
    image = with_channels(GRAY, channels)
    letterbox = Letterbox(image_size=(48, 40), mean=mean, std=std, preprocessing=preprocessing, value_range=value_range)
    boxed = letterbox(image if value_range is None else letterbox.pixels.convert(image)).image
    assert boxed.shape == (48, 40, channels)
    for channel in range(channels):
        one = Letterbox(
            image_size=(48, 40),
            mean=mean[channel : channel + 1],
            std=std[channel : channel + 1],
            preprocessing=Preprocessing(
                resize=preprocessing.resize, sizes=preprocessing.sizes, zero_padding=preprocessing.zero_padding
            ),
        )(image[..., channel : channel + 1])
        rows, columns = one.content_size
        expected = one.image[..., 0].astype(np.float32)
        if value_range is not None and not preprocessing.normalises:
            expected = (expected - mean[channel]) / std[channel]
        coarse = preprocessing.resize == "mediapipe"  # samples lie on a grid of 1/32 pixel
        levels = 8 if coarse else 0 if value_range is None else 1
        tolerance = levels / (1 if value_range is None else std[channel])
        got = boxed[:rows, :columns, channel].astype(np.float32)
        assert abs(got - expected[:rows, :columns]).max() <= tolerance + 1e-4
