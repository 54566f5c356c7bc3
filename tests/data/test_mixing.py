from __future__ import annotations

import numpy as np
import pytest

from effdet.data.mixing import mixup, mosaic
from effdet.data.samples import Sample

FILL = (124, 116, 104)
COLORS = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 0, 255)]


def picture(number: int, height: int = 60, width: int = 80) -> Sample:
    """A gray image with one rectangle of its own colour, whose box is its annotation."""
    x1, y1, x2, y2 = width // 4, height // 4, width * 3 // 4, height * 3 // 4
    image = np.full((height, width, 3), 60, np.uint8)
    image[y1:y2, x1:x2] = COLORS[number]
    box = np.array([[x1, y1, x2, y2]], np.float32)
    return Sample(image, box, np.array([number]), np.array([number == 3]))


def painted_box(image: np.ndarray, number: int, tolerance: int = 40) -> list[float]:
    rows, columns = np.nonzero(np.abs(image.astype(int) - COLORS[number]).max(axis=2) < tolerance)
    return [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]


SIZES = [(60, 80), (90, 30), (20, 21), (200, 300)]


@pytest.mark.parametrize("seed", range(20))
def test_mosaic_shows_four_images_with_their_boxes(seed: int) -> None:
    samples = [picture(number, *size) for number, size in enumerate(SIZES)]
    result = mosaic(samples, (64, 96), FILL, np.random.default_rng(seed))
    assert result.image.shape == (64, 96, 3)
    assert result.image.dtype == np.uint8
    assert result.boxes.dtype == np.float32
    for box, label, is_crowd in zip(result.boxes, result.labels, result.is_crowd, strict=True):
        np.testing.assert_allclose(box, painted_box(result.image, label), atol=2)
        assert is_crowd == (label == 3)


def test_stretched_images_fill_their_quarters_of_a_mosaic() -> None:
    samples = [picture(number, *size) for number, size in enumerate(SIZES)]
    result = mosaic(samples, (64, 96), FILL, np.random.default_rng(0), "stretch")
    for box, label in zip(result.boxes, result.labels, strict=True):
        np.testing.assert_allclose(box, painted_box(result.image, label), atol=2)
    assert (result.image != FILL).any(axis=2).all()


def test_mixup_stretches_the_second_image_over_the_first() -> None:
    first, second = picture(0, 40, 40), picture(1, 20, 80)
    result = mixup(first, second, np.random.default_rng(5), "stretch")
    assert result.boxes.tolist() == [[10.0, 10.0, 30.0, 30.0], [10.0, 10.0, 30.0, 30.0]]


def test_mosaic_images_meet_in_one_point_and_keep_their_size() -> None:
    samples = [picture(number, 64, 96) for number in range(4)]  # each as large as the network input
    points = set()
    for seed in range(30):
        image = mosaic(samples, (64, 96), FILL, np.random.default_rng(seed)).image
        rng = np.random.default_rng(seed)
        x, y = int(rng.integers(24, 73)), int(rng.integers(16, 49))
        points.add((x, y))
        rows = [(y - 64, y), (y - 64, y), (y, y + 64), (y, y + 64)]
        columns = [(x - 96, x), (x, x + 96), (x - 96, x), (x, x + 96)]
        expected = np.zeros((64, 96, 3), np.uint8)
        for sample, (top, bottom), (left, right) in zip(samples, rows, columns, strict=True):
            seen = sample.image[max(0, -top) : 64 - max(0, bottom - 64), max(0, -left) : 96 - max(0, right - 96)]
            expected[max(0, top) : bottom, max(0, left) : right] = seen
        np.testing.assert_array_equal(image, expected)
    assert len(points) > 25


def test_mosaic_without_boxes_has_none() -> None:
    empty = Sample(
        np.zeros((10, 20, 3), np.uint8), np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool)
    )
    result = mosaic([empty] * 4, (64, 64), FILL, np.random.default_rng(0))
    assert (result.boxes.shape, result.labels.shape, result.is_crowd.shape) == ((0, 4), (0,), (0,))


def test_mosaic_needs_four_images() -> None:
    with pytest.raises(ValueError, match="a mosaic needs 4 samples, got 3"):
        mosaic([picture(0)] * 3, (64, 64), FILL, np.random.default_rng(0))


@pytest.mark.parametrize("size", [(60, 80), (30, 40), (300, 100), (1, 1)])
def test_mixup_blends_by_its_ratio_and_keeps_all_boxes(size: tuple[int, int]) -> None:
    first = picture(0)
    second = Sample(
        np.full((*size, 3), 200, np.uint8),
        np.array([[0, 0, size[1], size[0]]], np.float32),
        np.array([9]),
        np.array([True]),
    )
    result = mixup(first, second, np.random.default_rng(5))
    ratio = np.random.default_rng(5).beta(8, 8)
    scale = min(60 / size[0], 80 / size[1])
    height, width = round(size[0] * scale), round(size[1] * scale)

    expected = first.image.astype(float)
    expected[:height, :width] = ratio * expected[:height, :width] + (1 - ratio) * 200
    assert np.abs(result.image - expected).max() <= 0.51
    np.testing.assert_allclose(result.boxes, [first.boxes[0], [0, 0, width, height]], rtol=1e-6)
    assert result.labels.tolist() == [0, 9]
    assert result.is_crowd.tolist() == [False, True]


def test_mixing_leaves_its_inputs_alone() -> None:
    samples = [picture(number) for number in range(4)]
    copies = [[array.copy() for array in sample] for sample in samples]
    mixup(samples[0], samples[1], np.random.default_rng(0))
    mosaic(samples, (64, 64), FILL, np.random.default_rng(0))
    for sample, copy in zip(samples, copies, strict=True):
        for array, old in zip(sample, copy, strict=True):
            np.testing.assert_array_equal(array, old)
