from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.images.pixels import to_rgb


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
