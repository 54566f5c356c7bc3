"""Networks with random weights that behave as trained ones, to compare converted files with PyTorch."""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from effdet import Architecture, EfficientDet
from effdet.images.reading import read_image

LITE0 = Architecture.named("lite0")
FEW_BLOCKS = (
    ("ds_r1_k3_s1_e1_c16",),
    ("ir_r1_k3_s2_e4_c32",),
    ("ir_r1_k5_s2_e4_c64",),
    ("ir_r1_k3_s2_e4_c128",),
    ("ir_r1_k5_s2_e4_c256",),
)
NETWORKS = {
    "lite0": LITE0,
    "d0": Architecture.named("d0"),
    "small": replace(LITE0, backbone="mobilenetv3_small_050", channels=16, neck_repeats=1, head_repeats=1),
    # of each stage of lite0 one block, as converters take time for each operation
    "few blocks": replace(
        LITE0, backbone_blocks=FEW_BLOCKS, stem_channels=16, channels=16, neck_repeats=1, head_repeats=1
    ),
    "full convolutions": replace(LITE0, separable=False, channels=16, head_repeats=1),
}
SIZE = (96, 160)  # its levels of 3×5 and 2×3 cells are enlarged by factors that are not whole


@pytest.fixture(scope="session")
def cell_photos(photo_sets) -> list[tuple[str, np.ndarray]]:
    """Eight photos of blood cells, with their names."""
    return [(file.name, read_image(file)) for file in sorted((photo_sets / "bccd" / "images").iterdir())[:8]]


@pytest.fixture(scope="session")
def trained(cell_photos, like_trained):
    """A function from a name in ``NETWORKS`` to a model with real statistics in every BN and scores that spread."""

    @cache
    def make(name: str) -> EfficientDet:
        torch.manual_seed(0)
        model = EfficientDet(NETWORKS[name], 3, image_size=SIZE, class_names=["eins", "zwei", "三"])
        return like_trained(model, cell_photos)

    return make
