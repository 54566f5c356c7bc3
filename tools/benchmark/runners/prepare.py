"""Prepare the inputs of all runners of a measurement: weights that behave like trained ones, photos, input batches.

Measurements with plain random weights are misleading. Activations shrink from layer to layer until they are denormal
numbers, with which a processor is a hundred times slower, and equal scores change the time of post-processing.
Therefore:

- BN statistics are those of a batch of photos, so that every BN layer's output has mean 0 and variance 1 per channel.
- The last convolution of the class head is scaled and shifted so that in a photo 5,000 (anchor, class) pairs score
  above 0.001 and the best scores 0.9. The last one of the box head gives deltas of standard deviation 0.2.
- The peer gets the same weights under its own names.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmark.exports import EXPORTS, exported_file
from benchmark.runners.photos import draw_photos
from effdet.detector.efficientdet import EfficientDet
from effdet.images.letterbox import Letterbox
from effdet.images.reading import read_image
from effdet.weights.effdet import effdet_name, to_effdet

CALIBRATION_IMAGES = 8
CANDIDATES = 5000  # (anchor, class) pairs of an image above LOWEST_SCORE
LOWEST_SCORE, BEST_SCORE = 0.001, 0.9
DELTA_DEVIATION = 0.2


class Prepare:
    """Writes weights, photos and the network's input to a folder; see the module.

    Args:
        folder: Folder to write to.
        variant: Name of the model; None: no weights.
        num_classes: K.
        image_size: Network input (height, width); None: the published one.
        photo_size: (height, width) of drawn photos.
        num_photos: Number of photos.
        batch: Images of the input batch.
        photos: A folder of photos to use instead of drawn ones.
        weights: A .safetensors file to use instead of random weights.
        exports: Names of runtimes, as in ``EXPORTS``, that the model is exported for. A file that is there stays.
        peer: Whether the weights are written for the peer as well.
    """

    def __init__(
        self,
        *,
        folder: str,
        variant: str | None,
        num_classes: int,
        image_size: list[int] | None,
        photo_size: list[int],
        num_photos: int,
        batch: int,
        photos: str | None,
        weights: str | None,
        exports: list[str],
        peer: bool,
    ) -> None:
        self.folder = Path(folder)
        if photos is None:
            draw_photos(self.folder, num_photos, (photo_size[0], photo_size[1]), num_classes=num_classes)
            files = sorted((self.folder / "train").iterdir())
        else:
            files = [path for path in sorted(Path(photos).iterdir()) if path.suffix.lower() in (".jpg", ".jpeg")]
            files = files[:num_photos]
            if not files:
                raise ValueError(f"--photos must be a folder with JPEG files, found none in {photos}")
        self.facts: dict[str, Any] = {"photos": [str(file) for file in files]}
        if variant is None:
            return
        # The peer's anchors differ a little from those of the published models, so we use the peer's variant.
        made = self.folder / "weights.safetensors"  # by an earlier call that kept the folder
        is_kept = made.exists()
        source = str(made) if is_kept else weights
        model = _build(effdet_name(variant) if peer else variant, num_classes, image_size, source)
        inputs = letterboxed(model, [files[index % len(files)] for index in range(max(batch, CALIBRATION_IMAGES))])
        if source is None:
            calibrate(model, inputs[:CALIBRATION_IMAGES])
        np.save(self.folder / "inputs.npy", inputs[:batch])
        if not is_kept:
            model.save_pretrained(made)
        self.facts |= {
            "variant": variant if weights is None else model.name,
            "num_classes": model.num_classes,
            "image_size": list(model.image_size),
            "mean": model.mean.tolist(),
            "std": model.std.tolist(),
            "parameters": sum(p.numel() for p in model.parameters()),
            "macs": count_macs(model),
        }
        for kind in exports:
            _export(model, self.folder, kind, inputs, batch)
        if peer:
            self.facts["peer"] = effdet_name(model.name)
            state = to_effdet(model.network.state_dict(), model.name)
            torch.save({name: tensor.contiguous() for name, tensor in state.items()}, self.folder / "peer.pt")


def _build(variant: str, num_classes: int, image_size: list[int] | None, weights: str | None) -> EfficientDet:
    size = (image_size[0], image_size[1]) if image_size else None
    if weights is None:
        torch.manual_seed(0)
        return EfficientDet(variant, num_classes, image_size=size, stochastic_depth=0.0).eval()
    model = EfficientDet.from_pretrained(weights)
    model.image_size = size or model.image_size
    return model.eval()


def letterboxed(model: EfficientDet, files: list[Path]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return (B, H, W, 3) uint8 images in the network's input size."""
    letterbox = Letterbox(image_size=model.image_size, mean=model.fill, std=(1, 1, 1))
    return np.stack([letterbox(read_image(file)).image for file in files])


@torch.no_grad()
def calibrate(model: EfficientDet, images: np.ndarray[Any, np.dtype[np.uint8]]) -> None:
    """Give a model with random weights the statistics of a trained one; see the module."""
    batch = normalised(model, images)
    model.network.set_bn_momentum(1.0)
    model.network.train()
    model.network(batch)
    model.network.eval()
    predictions = model.network(batch)

    logits = predictions.class_logits.flatten(1)  # (B, N·K)
    candidates = min(CANDIDATES, logits.shape[1] // 2)
    best = logits.max(dim=1).values.mean()
    last = logits.topk(candidates, dim=1).values[:, -1].mean()
    low, high = (math.log(score / (1 - score)) for score in (LOWEST_SCORE, BEST_SCORE))
    factor = (high - low) / float(best - last)
    _scale(model.network.class_head.predict.pointwise, factor, high - factor * float(best))
    _scale(model.network.box_head.predict.pointwise, DELTA_DEVIATION / float(predictions.box_deltas.std()), 0.0)


def _scale(convolution: Any, factor: float, shift: float) -> None:
    convolution.weight.mul_(factor)
    convolution.bias.mul_(factor).add_(shift)


def normalised(model: EfficientDet, images: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
    """Return (B, H, W, 3) uint8 images as the network's input (B, 3, H, W), without a padding that stays 0."""
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return model.normalise(tensor, torch.tensor([images.shape[1:3]] * len(images)))


def count_macs(model: EfficientDet) -> int:
    """Return multiply-accumulates of the network for one image, convolutions only."""
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.zeros(1, 3, *model.image_size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.network(images)
    return counter.get_total_flops() // 2  # the counter counts a multiplication and an addition as two


def _export(
    model: EfficientDet, folder: Path, runtime: str, images: np.ndarray[Any, np.dtype[np.uint8]], batch: int
) -> None:
    """Write the file of a runtime, without NMS; int8 is calibrated with the images."""
    from effdet.deployment.export import ExportOptions, export
    from effdet.deployment.quantise import Quantisation

    file = exported_file(folder, runtime)
    if file.exists():
        return
    format, precision = EXPORTS[runtime]
    quantisation = None
    if precision == "int8":
        inputs = normalised(model, images).contiguous().numpy()
        chunks = [inputs[start : start + batch] for start in range(0, len(inputs) - batch + 1, batch)]
        quantisation = Quantisation(inputs=chunks, correct_biases=False)  # for speed, AP does not matter
    options = ExportOptions(format=format, batch=batch, precision=precision, postprocess=False)
    export(model, file, options, quantisation=quantisation)


TASKS = {"prepare": Prepare}
