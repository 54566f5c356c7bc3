"""Losses and gradients of PyPI effdet's DetBenchTrain: python make_losses.py IN.npz OUT.npz.

IN: name, a string; image_size (2,); images (B, 3, H, W) float64; boxes (B, M, 4) yxyx and classes (B, M), 1 for the
first class and -1 for no box. Weights are random, as in make_outputs.py, and float64; BN keeps its statistics.
OUT: class_loss, box_loss and loss; ``state/…``, the weights, and ``gradient/…`` of every parameter.
"""

import sys
from pathlib import Path

import numpy as np
import torch

from effdet import DetBenchTrain

sys.path.insert(0, str(Path(__file__).resolve().parent))
from make_outputs import build, randomise


def main(source, target):
    given = dict(np.load(source))
    size = given["image_size"].tolist()
    model = build(str(given["name"]), size)
    randomise(model, size, torch.Generator().manual_seed(0))
    model.double()
    state = {f"state/{name}": value.clone() for name, value in model.state_dict().items()}

    bench = DetBenchTrain(model, create_labeler=True).train()
    model.eval()
    images, boxes, classes = (torch.from_numpy(given[name]) for name in ("images", "boxes", "classes"))
    losses = bench(images, {"bbox": boxes, "cls": classes})
    losses["loss"].backward()
    gradients = {f"gradient/{name}": parameter.grad for name, parameter in model.named_parameters()}
    losses = {name: value.detach() for name, value in losses.items()}
    np.savez(target, **losses, **state, **gradients)


if __name__ == "__main__":
    main(*sys.argv[1:])
