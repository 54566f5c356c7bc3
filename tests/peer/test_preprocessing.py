"""The presets of pre-processing against the projects they are named after, bit for bit."""

from dataclasses import replace
from hashlib import sha256

import numpy as np
import pytest
import torch

from effdet.detector.inputs import normalise
from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import Preprocessing

SIDES = [(48, 64), (64, 48), (427, 640), (37, 500), (107, 107), (128, 128), (425, 300), (540, 960)]


@pytest.fixture(scope="module")
def images() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = {f"image_{n}": rng.integers(0, 256, (*sides, 3), dtype=np.uint8) for n, sides in enumerate(SIDES)}
    ramp = np.add.outer(np.arange(200), np.arange(300)) % 256  # smooth, as photos are
    return noise | {"image_ramp": np.repeat(ramp[..., None], 3, axis=2).astype(np.uint8)}


def network_inputs(box: Letterbox, images: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return (H, W, 3) float32 network inputs and the scales, as EfficientDet.detect makes them."""
    made = {}
    for name, image in images.items():
        pixels, content_size, scale = box(image)
        if not box.preprocessing.normalises:
            batch = torch.from_numpy(pixels).permute(2, 0, 1)[None]
            padding = torch.tensor([content_size]) if box.preprocessing.zero_padding else None
            batch = normalise(batch, padding, torch.tensor(box.mean), torch.tensor(box.std))
            pixels = batch[0].permute(1, 2, 0).numpy()
        made |= {name: pixels, name.replace("image", "scale"): scale}
    return made


IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_the_effdet_presets_make_the_inputs_of_effdet(run_peer, images):
    for image_size, preset, constants, fill, interpolation in (
        ((128, 128), "effdet", IMAGENET, "mean", "bilinear"),
        ((96, 160), "effdet", IMAGENET, "mean", "bicubic"),
        ((128, 128), "effdet", HALF, "mean", "bilinear"),  # its Lite models
        ((96, 160), "effdet-advprop", HALF, "0", "bilinear"),
    ):
        compare_inputs(run_peer, images, image_size, preset, constants, fill, interpolation)


def compare_inputs(run_peer, images, image_size, preset, constants, fill, interpolation):
    theirs = run_peer(
        "make_inputs.py",
        {
            "image_size": image_size,
            "mean": constants[0],
            "std": constants[1],
            "fill": fill,
            "interpolation": interpolation,
            **images,
        },
    )
    mean, std = (tuple(255 * value for value in values) for values in constants)
    preprocessing = replace(Preprocessing.preset(preset), resize=f"pillow-{interpolation}")
    ours = network_inputs(Letterbox(image_size=image_size, mean=mean, std=std, preprocessing=preprocessing), images)
    for name in images:
        np.testing.assert_array_equal(ours[name].transpose(2, 0, 1), theirs[name])
        scale = name.replace("image", "scale")
        np.testing.assert_allclose(1 / np.array(ours[scale]), theirs[scale], rtol=1e-7)


@pytest.mark.parametrize("image_size", [(96, 160), (512, 512)])
def test_the_google_preset_makes_the_inputs_of_tensorflow(ask_tensorflow, images, image_size):
    mean, std = (tuple(np.float32(255 * value).item() for value in values) for values in IMAGENET)
    theirs = ask_tensorflow(
        "inputs_{}x{}".format(*image_size),
        {"image_size": image_size, "mean": np.float32(mean), "std": np.float32(std), **images},
    )
    preprocessing = Preprocessing.preset("google")
    ours = network_inputs(Letterbox(image_size=image_size, mean=mean, std=std, preprocessing=preprocessing), images)
    for name, array in ours.items():
        found = np.frombuffer(sha256(array.tobytes()).digest(), np.uint8) if name in images else array
        np.testing.assert_array_equal(found, theirs[name], err_msg=name)
