from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference

from effdet.data.formats.masks import enclosing_box


@pytest.mark.parametrize("seed", range(20))
def test_run_lengths_give_the_box_of_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 40, 2)
    mask = (rng.random((height, width)) < rng.choice([0.01, 0.3, 0.9])).astype(np.uint8)
    mask[rng.integers(height), rng.integers(width)] = 1
    packed = reference.encode(np.asfortranarray(mask))
    lengths = [len(run) for run in _runs(mask.flatten(order="F"))]
    expected = reference.toBbox(packed).tolist()
    size = [int(height), int(width)]
    assert list(enclosing_box({"size": size, "counts": packed["counts"].decode()}) or ()) == expected
    assert list(enclosing_box({"size": size, "counts": lengths}) or ()) == expected


def _runs(pixels: np.ndarray) -> list[np.ndarray]:
    runs = np.split(pixels, np.flatnonzero(np.diff(pixels)) + 1)
    return [pixels[:0], *runs] if pixels[0] else runs


def test_polygons_give_the_box_around_all_of_them() -> None:
    assert enclosing_box([[5, 6, 9.5, 6, 7, 12], ["1", 7, 2, 8, 2, 7]]) == (1, 6, 8.5, 6)


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        [[]],
        [[1, 2, 3]],
        [[1, 2, 3, 4, 5]],
        [[1, 2, 3, 4, "x", 5]],
        [1, 2, 3, 4, 5, 6],
        "mask",
        {},
        {"size": [2, 2]},
        {"size": [2, 2], "counts": [1, 2]},  # one pixel is missing
        {"size": [2, 2], "counts": [4]},  # nothing is inside
        {"size": [2, 2], "counts": [-1, 5]},
        {"size": [2], "counts": [2]},
        {"size": [2, 2], "counts": "no run lengths ~~~"},
        {"size": [2, 2], "counts": "P"},  # ends in the middle of a number
        {"size": [2, 2], "counts": {"a": 1}},
        {"size": [10**30, 2], "counts": [1, 1]},
    ],
)
def test_what_is_no_mask_has_no_box(segmentation: Any) -> None:
    assert enclosing_box(segmentation) is None
