"""Run models of PyPI effdet with random weights: python make_outputs.py NAME … --out DIR --size H W [--size H W …].

Writes DIR/NAME.pt for each: ``state``, the state dict; and for each size in ``runs`` the normalised ``images``
(B, 3, H, W), ``class_logits`` (B, N, K) and ``box_deltas`` (B, N, 4) as ty, tx, th, tw, and ``anchors`` (N, 4) yxyx.

Weights, biases, fusion weights and BN are all random under the seed. BN statistics are those of random images, so that
every layer hears something, and shaken, so that none of them can be left out unseen.
"""

import argparse
from pathlib import Path

import torch
from effdet.anchors import Anchors
from torch import nn

from effdet import EfficientDet, get_efficientdet_config

CALIBRATION_IMAGES = 8


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

    def settle(norm, inputs):
        """Give a BN nearly the statistics of what comes in, so that nothing dies or explodes behind it."""
        variance, mean = torch.var_mean(inputs[0], dim=(0, 2, 3))
        typical = variance.mean()
        norm.running_mean.copy_(mean + typical.sqrt() * normal(mean.shape, std=0.2))
        norm.running_var.copy_(typical * (1.0 + 1.5 * torch.rand(mean.shape, generator=generator)))

    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(settle) for norm in norms]
    model(draw_images(CALIBRATION_IMAGES, image_size, generator))
    for hook in hooks:
        hook.remove()


def draw_images(count, image_size, generator):
    """Return noise on coarse blocks of colour, so that deep levels have something to tell apart."""
    blocks = torch.randn(count, 3, *(-(-side // 32) for side in image_size), generator=generator)
    fine = torch.randn(count, 3, *image_size, generator=generator)
    return nn.functional.interpolate(blocks, size=tuple(image_size)) + 0.5 * fine


def rows(levels, anchors_per_cell):
    """(B, A·C, H, W) for each level → (B, N, C)."""
    flat = [x.permute(0, 2, 3, 1).reshape(len(x), -1, x.shape[1] // anchors_per_cell) for x in levels]
    return torch.cat(flat, dim=1)


@torch.no_grad()
def run(model, image_size, generator):
    images = draw_images(1, image_size, generator)
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
    torch.set_num_threads(1)
    main(arguments.names, arguments.out, arguments.size or [[192, 192]], arguments.seed)
