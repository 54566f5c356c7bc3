from __future__ import annotations

import numpy as np
import pytest
import torch

from effdet.images.letterbox import Letterbox, pad

FILL = (124, 116, 104)


def box(*image_size: int) -> Letterbox:
    return Letterbox(image_size=image_size, mean=FILL, std=(1, 1, 1))


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
    padded, content_size, scale = box(512, 512)(image)
    assert content_size == content
    assert scale == (np.float32(512) / np.float32(max(original)),) * 2  # (x, y)
    assert padded.shape == (512, 512, 3)
    assert (padded[: content[0], : content[1]] == 200).all()
    assert (padded[content[0] :] == FILL).all()
    assert (padded[:, content[1] :] == FILL).all()


@pytest.mark.parametrize("size", [512, 640, 768, 896, 1024, 1280, 1536])
def test_letterbox_loses_no_pixel_of_the_common_sizes(size: int) -> None:
    for side in (500, 640):
        assert box(size, size)(np.zeros((side, side, 3), np.uint8)).content_size == (size, size)


def test_letterbox_resizes_bilinearly_with_half_pixel_centres_and_no_antialias() -> None:
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    ours, (height, width), _ = box(24, 32)(image)
    nchw = torch.from_numpy(image).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(nchw, (height, width), mode="bilinear", align_corners=False)
    assert np.abs(ours[:height, :width] - expected[0].permute(1, 2, 0).numpy()).max() <= 1


def test_letterbox_takes_the_tighter_axis_of_an_oblong_input() -> None:
    _, content_size, scale = box(64, 256)(np.zeros((100, 100, 3), np.uint8))
    assert (content_size, scale) == ((64, 64), pytest.approx((0.64, 0.64)))


def test_pad_leaves_a_full_image_alone(rgb: np.ndarray) -> None:
    np.testing.assert_array_equal(pad(rgb, (32, 48), FILL), rgb)
