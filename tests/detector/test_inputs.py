from dataclasses import replace

import numpy as np
import pytest
import torch

from effdet.detector.inputs import check_images, check_targets, letterbox_tensors, normalise
from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import PRESETS, Preprocessing


def letterbox(*image_size, preset="default"):
    return Letterbox(
        image_size=image_size,
        mean=(120.0, 110.0, 100.0),
        std=(50.0, 60.0, 70.0),
        preprocessing=Preprocessing.preset(preset),
    )


def test_bilinear_resize_is_the_half_pixel_formula_without_antialiasing():
    image = torch.rand(3, 9, 14, generator=torch.Generator().manual_seed(0))
    batch, contents, scales, originals = letterbox_tensors([image], letterbox(6, 7))
    assert contents.tolist() == [[4, 7]]  # int(9 · 0.5), int(14 · 0.5)
    assert scales.tolist() == [[0.5, 0.5]]
    assert originals.tolist() == [[9, 14]]
    for i in range(4):
        for j in range(7):
            y, x = (i + 0.5) * 9 / 4 - 0.5, (j + 0.5) * 14 / 7 - 0.5
            y0, x0 = int(y), int(x)
            y1, x1 = min(y0 + 1, 8), min(x0 + 1, 13)
            fy, fx = y - y0, x - x0
            top = image[:, y0, x0] * (1 - fx) + image[:, y0, x1] * fx
            bottom = image[:, y1, x0] * (1 - fx) + image[:, y1, x1] * fx
            torch.testing.assert_close(batch[0, :, i, j], top * (1 - fy) + bottom * fy)
    assert batch[0, :, 4:].unique(dim=-1).flatten(1).T.tolist() == [[120.0, 110.0, 100.0]] * 2


@pytest.mark.parametrize("preset", PRESETS)
def test_tensors_and_files_take_the_same_letterbox(preset):
    """Up to rounding: a level for each of Pillow's two passes or OpenCV's one, nothing where floats are scaled."""
    pixels = np.random.default_rng(0).integers(0, 256, (61, 93, 3), dtype=np.uint8)
    box = letterbox(64, 64, preset=preset)
    image, content, factors = box(pixels)
    batch, contents, scales, originals = letterbox_tensors([torch.from_numpy(pixels).permute(2, 0, 1).float()], box)
    assert contents[0].tolist() == list(content)
    assert originals[0].tolist() == [61, 93]
    assert scales[0].tolist() == pytest.approx(factors)

    mean, std = torch.tensor(box.mean), torch.tensor(box.std)
    padding = contents if box.preprocessing.zero_padding else None
    from_tensor = normalise(batch, padding, mean, std)
    from_file = torch.from_numpy(image).permute(2, 0, 1)[None]
    if not box.preprocessing.normalises:
        from_file = normalise(from_file, padding, mean, std)
    levels = 1.01 if box.preprocessing.resize.startswith(("opencv", "pillow")) else 1e-3
    assert ((from_tensor - from_file) * std.view(3, 1, 1)).abs().max() <= levels


def test_stretched_tensors_fill_the_input():
    box = replace(letterbox(2, 8), preprocessing=Preprocessing(fit="stretch"))
    image = torch.arange(4.0).view(1, 4, 1).expand(3, 4, 4)  # row numbers
    batch, contents, scales, _ = letterbox_tensors([image], box)
    assert batch[0, 0].tolist() == [[0.5] * 8, [2.5] * 8]
    assert (contents.tolist(), scales.tolist()) == ([[2, 8]], [[2.0, 0.5]])  # x, y


def test_tensors_are_sampled_from_the_corner_as_files_are():
    box = replace(letterbox(48, 40), preprocessing=Preprocessing(fit="stretch", resize="mediapipe"))
    pixels = np.random.default_rng(0).integers(0, 256, (61, 93, 3), dtype=np.uint8)
    batch, *_ = letterbox_tensors([torch.from_numpy(pixels).permute(2, 0, 1).float()], box)
    # OpenCV rounds positions to 1/32 pixel, hence up to 1/64 of 255 on either axis.
    assert np.abs(batch[0].permute(1, 2, 0).numpy() - box(pixels).image).max() < 9


def test_an_image_of_the_right_size_is_not_resampled():
    image = torch.rand(3, 8, 8)
    assert torch.equal(letterbox_tensors([image], letterbox(8, 8))[0][0], image)


def test_normalise_takes_out_mean_and_std_and_zeroes_the_padding():
    images = torch.full((2, 3, 4, 4), 200, dtype=torch.uint8)
    out = normalise(
        images, torch.tensor([[4, 4], [2, 3]]), torch.tensor([100.0, 50.0, 0.0]), torch.tensor([50.0, 75.0, 100.0])
    )
    assert out[0, :, 3, 3].tolist() == [2.0, 2.0, 2.0]
    assert out[1, :, 1, 2].tolist() == [2.0, 2.0, 2.0]
    assert not out[1, :, 2:].any()
    assert not out[1, :, :, 3:].any()
    assert images.unique().tolist() == [200]


def test_normalise_leaves_the_padding_alone_without_content_sizes():
    out = normalise(torch.full((1, 3, 2, 2), 200.0), None, torch.full((3,), 100.0), torch.full((3,), 50.0))
    assert out.unique().tolist() == [2.0]


BOX, LABEL = torch.tensor([[1.0, 2.0, 3.0, 4.0]]), torch.tensor([0])


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        ([], ValueError, "at least one image"),
        ("photo.jpg", TypeError, r"list of \(3, H, W\) tensors .* got str"),
        (torch.rand(3, 4, 4), ValueError, r"one \(B, 3, H, W\), got \(3, 4, 4\)"),
        (
            [torch.rand(3, 4, 4), torch.rand(1, 4, 4)],
            ValueError,
            r"image 1 must have the shape \(3, H, W\), got \(1, 4, 4\)",
        ),
        ([torch.rand(3, 0, 4)], ValueError, r"image 0 must have the shape"),
        (
            [torch.zeros(3, 4, 4, dtype=torch.uint8)],
            ValueError,
            r"image 0 must be float in \[0, 1\], got torch.uint8; divide by 255",
        ),
    ],
)
def test_bad_images_are_named_by_index(images, error, message):
    with pytest.raises(error, match=message):
        check_images(images)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "targets must be given in training mode"),
        ([{"boxes": BOX, "labels": LABEL}], "one entry per image: 2 images, got 1"),
        ([{"boxes": BOX}, {"boxes": BOX, "labels": LABEL}], "target of image 0 must have a tensor 'labels'"),
        (
            [{"boxes": BOX, "labels": LABEL}, {"boxes": torch.rand(2, 5), "labels": LABEL}],
            r"boxes of image 1 must have the shape \(M, 4\), got \(2, 5\)",
        ),
        (
            [{"boxes": BOX, "labels": torch.tensor([0, 1])}] * 2,
            r"labels of image 0 must have the shape \(1,\), got \(2,\)",
        ),
        (
            [{"boxes": BOX, "labels": LABEL}, {"boxes": torch.tensor([[3.0, 2.0, 3.0, 4.0]]), "labels": LABEL}],
            r"boxes of image 1 must satisfy x1 < x2 .* got \[3.0, 2.0, 3.0, 4.0\]",
        ),
        ([{"boxes": BOX * torch.nan, "labels": LABEL}] * 2, "boxes of image 0 must satisfy"),
        (
            [{"boxes": BOX, "labels": LABEL}, {"boxes": BOX, "labels": torch.tensor([3])}],
            r"labels of image 1 must lie in 0…2 \(no background class\), got 3…3",
        ),
        ([{"boxes": BOX, "labels": torch.tensor([-1])}] * 2, "labels of image 0 must lie in 0…2"),
    ],
)
def test_bad_targets_are_named_by_index(targets, message):
    with pytest.raises(ValueError, match=message):
        check_targets(targets, 2, 3)


def test_an_image_without_boxes_is_a_negative_whatever_the_shape_of_nothing():
    [a, b] = check_targets([{"boxes": torch.zeros(0), "labels": LABEL[:0]}, {"boxes": BOX, "labels": LABEL}], 2, 3)
    assert a.boxes.shape == (0, 4)
    assert b.classes.tolist() == [0]
