"""Run models of PyPI effdet with random weights: python make_outputs.py NAME … --out DIR --size H W [--size H W …].

Writes DIR/NAME.pt for each: ``state``, the state dict; and for each size in ``runs`` the normalised ``images``
(B, 3, H, W), ``class_logits`` (B, N, K) and ``box_deltas`` (B, N, 4) as ty, tx, th, tw, and ``anchors`` (N, 4) yxyx.

Weights, biases, fusion weights and BN are all random under the seed. BN statistics are first those of random images,
so that every layer hears something, and then shaken, so that none of them can be left out unseen.
"""

import argparse
from pathlib import Path

import torch
from effdet import EfficientDet, get_efficientdet_config
from effdet.anchors import Anchors
from torch import nn

CALIBRATION_IMAGES = 4


def build(name, image_size):
    config = get_efficientdet_config(name)
    config.image_size = tuple(image_size)
    return EfficientDet(config, pretrained_backbone=False).eval()


@torch.no_grad()
def randomise(model, image_size, generator):
    def normal(shape, mean=0.0, std=1.0):
        return mean + std * torch.randn(shape, generator=generator)

    for name, parameter in model.named_parameters():
        if parameter.ndim > 1:  # a convolution that keeps the variance of what comes through an activation
            parameter.copy_(normal(parameter.shape, std=(2 / parameter[0].numel()) ** 0.5))
        elif name.endswith("edge_weights"):
            parameter.copy_(normal(parameter.shape, 0.6, 0.5))  # some are negative, which cuts the edge
            parameter[0].abs_()
        elif name.endswith("bias"):
            parameter.copy_(normal(parameter.shape, std=0.3))
        else:
            parameter.copy_(normal(parameter.shape, 1.0, 0.2))  # BN

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
    drops = [module for module in model.modules() if hasattr(module, "drop_prob")]
    for drop in drops:
        drop.drop_prob = 0.0
    model.train()(normal((CALIBRATION_IMAGES, 3, *image_size)))
    for norm in norms:
        deviation = norm.running_var.mean().sqrt()
        norm.running_mean.add_(normal(norm.running_mean.shape, std=0.2 * deviation.item()))
        norm.running_var.clamp_(min=0.1 * norm.running_var.mean())
        norm.running_var.mul_(0.6 + torch.rand(norm.running_var.shape, generator=generator))
    model.eval()


def rows(levels, anchors_per_cell):
    """(B, A·C, H, W) for each level → (B, N, C)."""
    flat = [x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1] // anchors_per_cell) for x in levels]
    return torch.cat(flat, dim=1)


@torch.no_grad()
def run(model, image_size, generator):
    images = torch.randn(1, 3, *image_size, generator=generator)
    anchors = Anchors.from_config(model.config)
    per_cell = anchors.get_anchors_per_location()
    class_levels, box_levels = model(images)
    return {
        "image_size": tuple(image_size),
        "images": images,
        "class_logits": rows(class_levels, per_cell),
        "box_deltas": rows(box_levels, per_cell),
        "anchors": anchors.boxes,
    }


def main(names, out, sizes, seed):
    for name in names:
        generator = torch.Generator().manual_seed(seed)
        model = build(name, sizes[0])
        randomise(model, sizes[0], generator)
        runs = []
        for size in sizes:  # a model of the peer is built for one input size
            if size != sizes[0]:
                other = build(name, size)
                other.load_state_dict(model.state_dict())
                model = other
            runs.append(run(model, size, generator))
        torch.save({"state": model.state_dict(), "runs": runs}, Path(out) / f"{name}.pt")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+")
    parser.add_argument("--out", required=True)
    parser.add_argument("--size", type=int, nargs=2, action="append", metavar=("H", "W"))
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    main(arguments.names, arguments.out, arguments.size or [[192, 192]], arguments.seed)
