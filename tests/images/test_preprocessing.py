import math
import pickle
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import PRESETS, Preprocessing
from effdet.images.reading import read_image

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)


@pytest.fixture
def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (61, 93, 3), dtype=np.uint8)


def box(preset: str = "default", image_size: tuple[int, int] = (64, 64)) -> Letterbox:
    return Letterbox(image_size=image_size, mean=MEAN, std=STD, preprocessing=Preprocessing.preset(preset))


def test_google_input_is_the_bilinear_formula_on_normalised_float32(image):
    """Pixel by pixel; each step is rounded to float32, as the TensorFlow kernel rounds it."""
    ours, (height, width), _ = box("google", (32, 40))(image)
    assert (height, width) == (26, 40)
    f = np.float32
    normalised = (image.astype(f) - np.array(MEAN, f)) / np.array(STD, f)
    for row in range(height):
        y = (f(row) + f(0.5)) * (f(61) / f(height)) - f(0.5)
        y0, y1, down = max(math.floor(y), 0), min(math.ceil(y), 60), y - f(math.floor(y))
        for column in range(width):
            x = (f(column) + f(0.5)) * (f(93) / f(width)) - f(0.5)
            x0, x1, across = max(math.floor(x), 0), min(math.ceil(x), 92), x - f(math.floor(x))
            top = normalised[y0, x0] + (normalised[y0, x1] - normalised[y0, x0]) * across
            bottom = normalised[y1, x0] + (normalised[y1, x1] - normalised[y1, x0]) * across
            np.testing.assert_array_equal(ours[row, column], top + (bottom - top) * down)
    assert not ours[height:].any()


def test_google_input_of_a_ramp_is_what_tensorflow_gives():
    """Red of tests/peer/make_tensorflow.py, run with TensorFlow 2.15.1."""
    ramp = np.arange(5 * 7, dtype=np.uint8).reshape(5, 7, 1).repeat(3, axis=2)
    red = [
        [-2.0215771198272705, -1.9916088581085205, -1.9616405963897705, -1.9316723346710205],
        [-1.7218940258026123, -1.6919257640838623, -1.6619575023651123, -1.6319890022277832],
    ]
    ours, content_size, _ = box("google", (4, 4))(ramp)
    assert content_size == (2, 4)
    np.testing.assert_array_equal(ours[:2, :, 0], np.float32(red))


@pytest.mark.parametrize(("preset", "inside"), [("effdet", (31, 17)), ("zylo", (32, 17)), ("google", (31, 17))])
def test_presets_truncate_sizes_in_their_own_way(preset, inside):
    """For a side of 107 pixels in an input of 32, 107 · (32/107) falls short of 32 in either precision."""
    assert Preprocessing.preset(preset).content_size((107, 60), (32, 32))[0] == inside


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_never_loses_a_whole_side(preset):
    made, content_size, scales = box(preset)(np.full((2, 2000, 3), 200, np.uint8))
    assert content_size == (1, 64)
    assert made.shape == (64, 64, 3)
    assert scales == pytest.approx((64 / 2000, 64 / 2000))


@pytest.mark.parametrize(
    ("preset", "padding"),
    [
        ("default", [124, 116, 104]),  # uint8; zeros come after normalising
        ("effdet", [124, 116, 104]),
        ("effdet-advprop", [0, 0, 0]),
        ("google", [0.0, 0.0, 0.0]),
        ("zylo", [0.0, 0.0, 0.0]),
        ("google-advprop", [-mean / std for mean, std in zip(MEAN, STD, strict=True)]),
    ],
)
def test_padding_has_the_colour_of_the_preset(image, preset, padding):
    made = box(preset)(image).image
    np.testing.assert_allclose(made[63, 63], padding, rtol=1e-6)
    assert made.dtype == (np.float32 if isinstance(padding[0], float) else np.uint8)


@pytest.mark.parametrize("preset", PRESETS)
def test_a_uniform_image_stays_uniform(preset):
    made, (height, width), _ = box(preset)(np.full((50, 90, 3), 77, np.uint8))
    expected = [(77 - mean) / std for mean, std in zip(MEAN, STD, strict=True)]
    if not PRESETS[preset].normalises:
        expected = [77] * 3
    np.testing.assert_allclose(made[:height, :width].reshape(-1, 3), [expected] * (height * width), rtol=1e-5)


def test_zylo_input_is_close_to_google_input(image):
    """Both are bilinear on normalised pixels without antialias; where the sizes agree only rounding differs."""
    ours, google = box("zylo")(image), box("google")(image)
    assert ours.content_size == google.content_size
    np.testing.assert_allclose(ours.image, google.image, rtol=0, atol=1e-5)


@pytest.mark.parametrize("preset", PRESETS)
def test_an_image_may_be_a_view(image, preset):
    made = box(preset)(image[:, ::-1].transpose(1, 0, 2)).image
    np.testing.assert_array_equal(made, box(preset)(np.ascontiguousarray(image[:, ::-1].transpose(1, 0, 2))).image)


def test_a_letterbox_can_be_sent_to_another_process(image):
    sent = pickle.loads(pickle.dumps(box("effdet")))
    np.testing.assert_array_equal(sent(image).image, box("effdet")(image).image)


def test_plain_values_of_a_file_give_the_same_preprocessing():
    assert Preprocessing(fill=[0, 0, 0]).fill == (0, 0, 0)  # type: ignore[arg-type]  # as JSON gives it


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"fit": "crop"}, "fit must be one of letterbox, stretch, got crop"),
        ({"resize": "nearest"}, "resize must be one of opencv, opencv-float, .* got nearest"),
        ({"sizes": "float16"}, "sizes must be one of float32, float64, exact, got float16"),
        ({"fill": (0, 0)}, "fill must be three whole numbers in 0…255, got"),
        ({"fill": (0, 0, 256)}, "fill must be three whole numbers in 0…255, got"),
    ],
)
def test_values_are_checked(values, message):
    with pytest.raises(ValueError, match=message):
        Preprocessing(**values)


def test_an_unknown_preset_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"preset must be one of default, fast, google, .*zylo, got 'torch'"):
        Preprocessing.preset("torch")


# -- stretching


@pytest.mark.parametrize("sizes", ["float32", "float64", "exact"])
def test_a_stretched_image_fills_the_input(sizes):
    stretch = Preprocessing(fit="stretch", sizes=sizes)
    assert stretch.content_size((10, 20), (30, 40)) == ((30, 40), (2.0, 3.0))  # x, y
    assert stretch.content_size((107, 60), (32, 32)) == ((32, 32), (32 / 60, 32 / 107))


def test_stretched_pixels_are_those_typed_by_hand():
    image = np.array([[[0], [40], [80], [120]], [[100], [140], [180], [220]]], np.uint8).repeat(3, axis=2)  # 2×4
    stretch = Letterbox(image_size=(4, 2), mean=MEAN, std=STD, preprocessing=Preprocessing(fit="stretch"))
    made, content_size, scales = stretch(image)
    assert (content_size, scales) == ((4, 2), (0.5, 2.0))
    assert made[:, :, 0].tolist() == [[20, 100], [45, 125], [95, 175], [120, 200]]


@pytest.mark.parametrize("preset", PRESETS)
def test_every_kind_of_resize_can_stretch(preset, image):
    preprocessing = replace(Preprocessing.preset(preset), fit="stretch")
    made = Letterbox(image_size=(32, 70), mean=MEAN, std=STD, preprocessing=preprocessing)(image).image
    assert made.shape == (32, 70, 3)
    levels = made * np.array(STD) + np.array(MEAN) if preprocessing.normalises else made
    expected = cv2.resize(image, (70, 32), interpolation=cv2.INTER_AREA).astype(float)
    assert np.abs(levels - expected).mean() < 35  # noise, which the kinds smooth in different degrees
    assert np.corrcoef(levels.ravel(), expected.ravel())[0, 1] > 0.7


def test_mediapipe_samples_from_the_corner():
    """Pixel i of n is taken at i · old / n: 4 pixels from 6 are at 0, 1.5, 3 and 4.5."""
    image = (np.arange(6, dtype=np.uint8) * 40).reshape(1, 6, 1).repeat(3, axis=2).repeat(2, axis=0)
    mediapipe = Preprocessing(fit="stretch", resize="mediapipe")
    made, content_size, _ = Letterbox(image_size=(2, 4), mean=MEAN, std=STD, preprocessing=mediapipe)(image)
    assert content_size == (2, 4)
    assert made[:, :, 0].tolist() == [[0, 60, 120, 180]] * 2


# -- reduced decoding


def write_waves(file: Path, height: int, width: int) -> np.ndarray:
    """Write smooth waves, of which a reduced picture loses nothing."""
    rows, columns = np.mgrid[:height, :width] / 40.0
    waves = np.stack([np.sin(rows), np.cos(columns), np.sin(rows + columns)], axis=2)
    image = np.uint8(127.5 + 120 * waves)
    assert cv2.imwrite(str(file), image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    return image


@pytest.mark.parametrize(
    ("size", "decoded"),  # an input of 128×128
    [
        ((170, 250), (170, 250)),  # 1/2 would have 125 columns, and 128 are needed
        ((170, 255), (170, 255)),  # 1/2 would move the right edge by half a pixel
        ((170, 256), (85, 128)),
        ((512, 768), (128, 192)),
        ((1080, 1920), (135, 240)),
        ((4000, 3000), (500, 375)),  # 1/8 is the least there is
    ],
)
def test_a_picture_is_reduced_as_far_as_its_content_allows(tmp_path, size, decoded):
    write_waves(tmp_path / "waves.jpg", *size)
    picture = box("fast", (128, 128)).read(tmp_path / "waves.jpg")
    assert picture.pixels.shape == (*decoded, 3)
    assert picture.original_size == size


def test_a_reduced_picture_becomes_nearly_the_same_input(tmp_path):
    write_waves(tmp_path / "waves.jpg", 811, 1203)
    fast = box("fast", (128, 128))
    picture = fast.read(tmp_path / "waves.jpg")
    made = fast(picture.pixels, picture.original_size)
    whole = box("default", (128, 128))(read_image(tmp_path / "waves.jpg"))
    assert picture.pixels.shape == (203, 301, 3)
    assert (made.content_size, made.scales) == (whole.content_size, whole.scales)
    assert np.abs(made.image.astype(int) - whole.image).mean() < 3


def test_small_pictures_are_decoded_to_the_same_bits(tmp_path):
    write_waves(tmp_path / "small.jpg", 100, 120)
    picture = box("fast").read(tmp_path / "small.jpg")
    np.testing.assert_array_equal(picture.pixels, read_image(tmp_path / "small.jpg"))


def test_only_jpeg_files_are_reduced(tmp_path):
    image = write_waves(tmp_path / "waves.jpg", 400, 600)
    cv2.imwrite(str(tmp_path / "waves.png"), image)
    picture = box("fast").read(tmp_path / "waves.png")
    np.testing.assert_array_equal(picture.pixels, image[..., ::-1])
    assert picture.original_size == (400, 600)


def test_the_default_decodes_in_full(tmp_path):
    write_waves(tmp_path / "waves.jpg", 400, 600)
    assert box().read(tmp_path / "waves.jpg").pixels.shape == (400, 600, 3)
