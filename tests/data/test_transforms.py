from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from effdet.config import AugmentConfig, ConfigError
from effdet.data.samples import Augmented, Sample, keep_visible
from effdet.data.transforms import build_train_transform, flip, random_resized_crop, random_safe_crop

FILL = (124, 116, 104)
RED = (255, 0, 0)


def picture(height: int = 120, width: int = 160, box: tuple[int, int, int, int] = (40, 30, 90, 70)) -> Sample:
    """A gray image with one red rectangle, whose box is its annotation."""
    image = np.full((height, width, 3), 90, np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = RED
    return Sample(image, np.array([box], np.float32), np.array([4]), np.array([False]))


def red_box(image: np.ndarray) -> list[float]:
    """Find the red rectangle by its pixels; no arithmetic of ours takes part."""
    rows, columns = np.nonzero((image[..., 0] > 170) & (image[..., 1] < 60))
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


def augment(sample: Sample, seed: int, image_size: tuple[int, int] = (128, 128), **config: Any) -> Augmented:
    return build_train_transform(AugmentConfig(**config), image_size, FILL)(*sample, seed=seed)


def assert_box_fits(result: Augmented | Sample, atol: float) -> None:
    np.testing.assert_allclose(result.boxes[0], red_box(result.image), atol=atol)


@pytest.mark.parametrize("config", [{}, {"vertical_flip": 0.5}, {"safe_crop": 1.0}, {"scale": (0.8, 4.0)}], ids=str)
@pytest.mark.parametrize("image_size", [(128, 128), (96, 160), (160, 64)])
def test_box_follows_the_picture(config: dict[str, Any], image_size: tuple[int, int]) -> None:
    found = 0
    for seed in range(60):
        result = augment(picture(), seed, image_size, **{"scale": (0.4, 2.0)} | config)
        assert result.image.shape == (*image_size, 3)
        assert result.image.dtype == np.uint8
        assert (result.boxes.dtype, result.labels.dtype, result.is_crowd.dtype) == (np.float32, np.int64, np.bool_)
        if len(result.boxes):
            found += 1
            assert_box_fits(result, atol=1.5 + result.scales[0] / 2)  # a source pixel's edge is blurred by the resize
            assert result.labels.tolist() == [4]
    assert found > 40


def test_flip_moves_pixels_and_boxes_exactly() -> None:
    sample = picture(box=(10, 20, 50, 90))
    assert flip(sample, horizontal=True, vertical=False).boxes.tolist() == [[110, 20, 150, 90]]  # 160 wide
    assert flip(sample, horizontal=False, vertical=True).boxes.tolist() == [[10, 30, 50, 100]]  # 120 high
    for horizontal, vertical in ((True, False), (False, True), (True, True), (False, False)):
        result = flip(sample, horizontal=horizontal, vertical=vertical)
        assert result.boxes[0].tolist() == red_box(result.image)
        np.testing.assert_array_equal(result.image, sample.image[:: -1 if vertical else 1, :: -1 if horizontal else 1])
    assert sample.boxes.tolist() == [[10, 20, 50, 90]]


def test_flip_probabilities_are_kept() -> None:
    flips = [
        red_box(augment(picture(), seed, scale=(0.5, 0.5), horizontal_flip=0.25).image)[0] > 18 for seed in range(400)
    ]
    assert 0.19 < np.mean(flips) < 0.31  # 0.25 ± 2.8 σ
    for probability in (0.0, 1.0):
        moved = {augment(picture(), seed, scale=(1, 1), horizontal_flip=probability).boxes[0, 0] for seed in range(20)}
        assert moved == {56.0 if probability else 32.0}  # scale 0.8: 40 · 0.8, (160 − 90) · 0.8


def test_unit_scale_is_the_letterbox() -> None:
    from effdet.images.letterbox import Letterbox

    sample = picture()
    result = augment(sample, 0, horizontal_flip=0.0, scale=(1.0, 1.0))
    image, content_size, scales = Letterbox(image_size=(128, 128), mean=FILL, std=(1, 1, 1))(sample.image)
    np.testing.assert_array_equal(result.image, image)
    assert (result.content_size, result.scales) == (content_size, pytest.approx(scales))


def test_unit_scale_of_a_stretched_image_fills_the_input() -> None:
    transform = build_train_transform(AugmentConfig(horizontal_flip=0.0, scale=(1.0, 1.0)), (60, 320), FILL, "stretch")
    result = transform(*picture(box=(10, 20, 50, 90)), seed=0)  # 120×160: half as high, twice as wide
    assert (result.content_size, result.scales) == ((60, 320), (2.0, 0.5))
    assert result.boxes.tolist() == [[20.0, 10.0, 100.0, 45.0]]
    np.testing.assert_allclose(red_box(result.image), result.boxes[0], atol=1)


def test_boxes_follow_a_stretched_image_through_jitter_crop_and_rotation() -> None:
    config = AugmentConfig(scale=(0.4, 2.0), transforms=[{"name": "Rotate", "limit": (90, 90), "p": 0.5}])
    transform = build_train_transform(config, (64, 160), FILL, "stretch")
    shapes = set()
    for seed in range(40):
        result = transform(*picture(), seed=seed)
        if len(result.boxes):
            assert_box_fits(result, atol=1.5 + max(result.scales) / 2)
            shapes.add(round(result.scales[0] / result.scales[1], 2))
    assert shapes >= {1.88}  # (160 / 160) / (64 / 120)


def test_small_scale_pads_right_and_bottom_with_the_fill() -> None:
    result = augment(picture(), 0, scale=(0.5, 0.5))
    assert result.content_size == (48, 64)
    assert (result.image[48:] == FILL).all()
    assert (result.image[:, 64:] == FILL).all()
    assert not (result.image[:48, :64] == FILL).all(axis=2).any()


def test_jitter_scales_lie_in_their_range_and_offsets_reach_every_border() -> None:
    rng = np.random.default_rng(0)
    ramp = np.dstack([np.tile(np.arange(200, dtype=np.uint8), (200, 1))] * 3)  # red = column
    sample = Sample(ramp, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    starts = [int(random_resized_crop(sample, (100, 100), 1.25, rng)[0].image[0, 0, 0]) for _ in range(300)]
    assert min(starts) == 0
    assert max(starts) >= 39  # 100 / (1.25 / 2) = 160 of 200 source columns are visible
    scales = [augment(picture(), seed, scale=(0.3, 1.7)).scales[0] / 0.8 for seed in range(300)]
    assert 0.28 < min(scales) < 0.33
    assert 1.67 < max(scales) < 1.7
    assert np.mean(scales) == pytest.approx(1.0, abs=0.08)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (500, 1), (3, 7), (2000, 30)])
@pytest.mark.parametrize("scale", [(0.01, 0.01), (0.1, 2.0), (8.0, 8.0)])
def test_extreme_shapes_and_scales_give_an_image(shape: tuple[int, int], scale: tuple[float, float]) -> None:
    for seed in range(5):
        sample = picture(*shape, box=(0, 0, shape[1], shape[0]))
        result = augment(sample, seed, (32, 48), scale=scale, safe_crop=0.5)
        assert result.image.shape == (32, 48, 3)
        assert min(result.content_size) >= 1
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [result.content_size[1], result.content_size[0]] * 2).all()


def test_only_what_stays_visible_is_kept() -> None:
    boxes = [
        [-90, 0, 10, 10],  # exactly 10 % inside
        [-91, 0, 9, 10],  # less
        [10, 10, 20, 20],  # all inside
        [-50, -50, -1, -1],  # outside
        [99.5, 10, 100, 20],  # inside, but half a pixel wide
        [10, 10, 11, 11],  # one pixel
        [-900, 0, 10, 10],  # a sliver of a crowd region
        [-50, -50, -1, -1],  # a crowd region outside
    ]
    is_crowd = np.array([False] * 6 + [True] * 2)
    sample = Sample(np.zeros((50, 100, 3), np.uint8), np.array(boxes, np.float32), np.arange(8), is_crowd)
    result = keep_visible(sample)
    assert result.labels.tolist() == [0, 2, 5, 6]
    assert result.boxes.tolist() == [[0, 0, 10, 10], [10, 10, 20, 20], [10, 10, 11, 11], [0, 0, 10, 10]]
    assert result.is_crowd.tolist() == [False, False, False, True]


def test_safe_crop_keeps_every_box_whole() -> None:
    sample = picture()._replace(
        boxes=np.array([[40, 30, 90, 70], [100.5, 80.2, 140.7, 110]], np.float32),
        labels=np.arange(2),
        is_crowd=np.zeros(2, bool),
    )
    sizes = set()
    for seed in range(50):
        result = random_safe_crop(sample, np.random.default_rng(seed))
        height, width = result.image.shape[:2]
        sizes.add((height, width))
        assert red_box(result.image) == result.boxes[0].tolist()
        assert (result.boxes >= 0).all()
        assert (result.boxes <= [width, height, width, height]).all()
    assert len(sizes) > 40
    for seed in range(50):  # the jitter that follows cuts nothing either
        result = augment(sample, seed, scale=(0.5, 2.0), safe_crop=1.0)
        shape = (result.boxes[:, 2:] - result.boxes[:, :2]) / result.scales[0]
        np.testing.assert_allclose(shape, [[50, 40], [40.2, 29.8]], rtol=0.05)


def test_safe_crop_without_boxes_crops_freely() -> None:
    empty = Sample(
        np.zeros((100, 200, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    )
    shapes = np.array([random_safe_crop(empty, np.random.default_rng(s)).image.shape[:2] for s in range(100)])
    assert (shapes >= [30, 60]).all()
    assert (shapes <= [100, 200]).all()
    assert len(np.unique(shapes, axis=0)) > 90


def test_empty_image_stays_empty_with_every_step_on() -> None:
    empty = Sample(
        np.full((100, 200, 3), 90, np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    )
    rotate = {"name": "Rotate", "p": 1.0}
    result = augment(empty, 0, color=1.0, safe_crop=1.0, vertical_flip=1.0, transforms=[rotate])
    assert (result.boxes.shape, result.labels.shape, result.is_crowd.shape) == ((0, 4), (0,), (0,))
    assert (result.boxes.dtype, result.labels.dtype) == (np.float32, np.int64)


EVERYTHING: dict[str, Any] = {
    "color": 0.7,
    "safe_crop": 0.5,
    "vertical_flip": 0.5,
    "transforms": [
        {"name": "Rotate", "limit": [-20, 20], "p": 0.5},
        {"name": "GaussNoise", "p": 1.0},
        {"name": "CoarseDropout", "p": 0.5},
        {"name": "RandomRain", "p": 0.5},
    ],
}


def test_result_is_a_function_of_the_seed_alone() -> None:
    first, second = (build_train_transform(AugmentConfig(**EVERYTHING), (64, 96), FILL) for _ in range(2))
    second = pickle.loads(pickle.dumps(second))  # as a spawned loader process gets it
    results = [first(*picture(), seed=seed) for seed in range(6)]
    for seed in (3, 0, 5, 1):  # another order, in between other calls and global seeds
        np.random.seed(seed)
        again = second(*picture(), seed=seed)
        for ours, theirs in zip(again[:4], results[seed][:4], strict=True):
            np.testing.assert_array_equal(ours, theirs)
    assert len({result.image.tobytes() for result in results}) == 6


@pytest.mark.parametrize("transforms", [[], [{"name": "PadIfNeeded", "min_height": 200, "min_width": 200, "p": 1.0}]])
def test_image_is_written_where_the_caller_wants_it(transforms: list[dict[str, Any]]) -> None:
    transform = build_train_transform(AugmentConfig(transforms=transforms), (128, 128), FILL)
    room = np.zeros((2, 128, 128, 3), dtype=np.uint8)
    for seed in range(8):  # with and without a flip, smaller and larger than the network input
        expected = transform(*picture(), seed)
        transform(*picture(), seed, out=room[1])
        np.testing.assert_array_equal(room[1], expected.image)
    assert not room[0].any()


def test_transform_does_not_touch_its_input() -> None:
    sample = picture()
    before = [array.copy() for array in sample]
    for seed in range(5):
        augment(sample, seed, **EVERYTHING)
    for array, old in zip(sample, before, strict=True):
        np.testing.assert_array_equal(array, old)


def test_colour_changes_the_content_and_not_the_padding() -> None:
    plain = augment(picture(), 1, horizontal_flip=0.0, scale=(0.5, 0.5))
    colored = augment(picture(), 1, horizontal_flip=0.0, scale=(0.5, 0.5), color=1.0)
    assert (plain.image[:48, :64] != colored.image[:48, :64]).any()
    assert (colored.image[48:] == FILL).all()
    np.testing.assert_array_equal(plain.boxes, colored.boxes)


@pytest.mark.parametrize(
    "transform",
    [
        {"name": "Rotate", "limit": [90, 90], "p": 1.0},
        {"name": "RandomRotate90", "p": 1.0},
        {"name": "Transpose", "p": 1.0},
        {"name": "Affine", "translate_px": [5, 5], "p": 1.0},
        {"name": "RandomScale", "scale_limit": [1.0, 1.0], "p": 1.0},  # twice as large: fitted again
        {"name": "OneOf", "transforms": [{"name": "HorizontalFlip"}, {"name": "VerticalFlip"}], "p": 1.0},
        {"name": "ShiftScaleRotate", "p": 1.0},  # albumentations warns that Affine is the newer one
        {"name": "Blur", "p": 1.0},
    ],
    ids=lambda transform: transform["name"],
)
def test_albumentations_transforms_move_boxes_with_the_picture(transform: dict[str, Any]) -> None:
    for seed in range(8):
        result = augment(picture(), seed, (128, 160), scale=(1.0, 1.0), transforms=[transform])
        assert result.image.shape == (128, 160, 3)
        assert_box_fits(result, atol=2.5)
        assert result.labels.tolist() == [4]
        assert (result.boxes.dtype, result.labels.dtype) == (np.float32, np.int64)


def test_albumentations_keep_labels_and_crowds_with_their_boxes() -> None:
    boxes = np.array([[0, 0, 30, 30], [60, 50, 100, 100], [130, 90, 160, 120]], np.float32)
    sample = Sample(picture().image, boxes, np.array([7, 8, 9]), np.array([False, True, False]))
    crop = {"name": "Crop", "x_min": 50, "y_min": 40, "x_max": 160, "y_max": 120, "p": 1.0}
    result = augment(sample, 0, (120, 160), scale=(1.0, 1.0), horizontal_flip=0.0, transforms=[crop])
    assert result.labels.tolist() == [8, 9]
    assert result.is_crowd.tolist() == [True, False]
    np.testing.assert_allclose(result.boxes, [[10, 10, 50, 60], [80, 50, 110, 80]], atol=1e-3)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            {"name": "HorizontalFlop"},
            r"transforms\[0\]: name must be .* got 'HorizontalFlop'; did you mean 'HorizontalFlip'",
        ),
        ({"p": 0.5}, r"transforms\[0\]: name must be a transform of albumentations, got None"),
        ({"name": "os"}, "got 'os'"),
        ({"name": "Blur", "blur_limits": 3}, "Blur has no argument 'blur_limits'; did you mean 'blur_limit'"),
        ({"name": "Blur", "p": 3}, "Blur: .*less than or equal to 1"),
        ({"name": "Rotate", "limit": "much"}, "Rotate: .*limit"),
        ({"name": "ToFloat"}, r"ToFloat: must keep images \(H, W, 3\) uint8, made .* float32"),
        ({"name": "Mosaic"}, "Mosaic: .*mosaic_metadata"),
        ({"name": "RandomCrop", "height": 5000, "width": 5000}, "RandomCrop: "),
        (
            {"name": "OneOf", "transforms": [{"name": "Blr"}]},
            r"transforms\[0\]\.transforms\[0\]: name must be .* did you mean 'Blur'",
        ),
    ],
)
def test_mistakes_in_albumentations_transforms_are_config_errors(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_train_transform(AugmentConfig(transforms=[spec]), (64, 64), FILL)


def test_transform_that_fails_on_an_image_says_so() -> None:
    crop = {"name": "RandomCrop", "height": 100, "width": 100, "p": 1.0}
    with pytest.raises(ConfigError, match=r"transforms fail on a 48×64 image: .*[cC]rop"):
        augment(picture(), 0, (128, 128), scale=(0.5, 0.5), transforms=[crop])


@pytest.mark.slow
def test_albumentations_is_imported_only_when_it_is_needed() -> None:
    code = (
        "import sys; from effdet.data.transforms import build_train_transform; from effdet.config import AugmentConfig;"
        "build_train_transform(AugmentConfig(), (64, 64), (0, 0, 0)); print('albumentations' in sys.modules)"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "False"
