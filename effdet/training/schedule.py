"""The optimiser with its weight decay, and the learning rate of each step."""

from __future__ import annotations

import math

from torch import nn
from torch.nn.modules.conv import _ConvNd
from torch.optim import SGD, AdamW
from torch.optim import Optimizer as TorchOptimizer

from effdet.config import Optimizer

REFERENCE_BATCH = 64  # images per step for which train.lr is given


def scale_learning_rate(lr: float, batch_size: int, kind: Optimizer | str) -> float:
    """Return the peak learning rate for a batch: ``lr · B/64`` for SGD, ``lr · √(B/64)`` for AdamW.

    Args:
        lr: Peak for 64 images per step.
        batch_size: Images per optimizer step B, over all processes and micro-batches.
        kind: "sgd" or "adamw".
    """
    ratio = batch_size / REFERENCE_BATCH
    return lr * (math.sqrt(ratio) if Optimizer(kind) is Optimizer.adamw else ratio)


def learning_rate(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the learning rate of a step: linear warm-up from 0, then half a cosine down to 0.

    With w = ``warmup_steps`` and T = ``total_steps``, for step t = 0 … T-1:

        t < w:  peak · (t + 1)/w            t ≥ w:  ½ · peak · (1 + cos(π · (t - w)/(T - w)))

    The published code differs: its warm-up starts at 0.008, and its cosine is not shifted by w, so the rate is a little
    below the peak after the warm-up and rises again at the very end. Here the warm-up starts at 0, as in the paper, and
    the cosine covers exactly the remaining steps.
    """
    if step < warmup_steps:
        return peak * (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return 0.5 * peak * (1 + math.cos(math.pi * min(1.0, progress)))


def bn_momentum(step: int) -> float:
    """Return the momentum of the running BN statistics: the weight of the batch of this step.

    With the published 0.01 the statistics average the last hundred batches or so. While the weights change fast, these
    are out of date: when fine-tuning on 205 photos, after 234 steps the running statistics gave AP 0.09 and those of
    the batches 0.34. So the momentum of the first steps is larger. It has only three values, because a compiled network
    is compiled again for each.
    """
    if step < 100:
        return 0.1
    return 0.03 if step < 500 else 0.01


def build_optimizer(
    network: nn.Module, kind: Optimizer | str, *, momentum: float = 0.9, weight_decay: float = 4e-5
) -> TorchOptimizer:
    """Return an optimiser of the parameters that have a gradient; weight decay on convolution kernels only.

    Biases, BN and fusion weights do not decay. The learning rate is 0 until ``set_learning_rate``.

    Args:
        network: Module whose parameters learn.
        kind: "sgd" (momentum without Nesterov, decay added to the gradient) or "adamw" (decoupled decay).
        momentum: SGD's momentum, AdamW's β₁; β₂ is 0.999.
        weight_decay: Factor w of the penalty ½w‖v‖² on a kernel v.

    Raises:
        ValueError: If every parameter is frozen.
    """
    kernels = {id(module.weight) for module in network.modules() if isinstance(module, _ConvNd)}
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError(
            "the network must have a parameter to train, got only frozen ones; choose another train.freeze"
        )
    groups = [
        {"params": [p for p in parameters if id(p) in kernels], "weight_decay": weight_decay},
        {"params": [p for p in parameters if id(p) not in kernels], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = parameters[0].device.type in ("cpu", "cuda")  # takes a quarter of the time of PyTorch's loop
    if Optimizer(kind) is Optimizer.adamw:
        return AdamW(groups, lr=0.0, betas=(momentum, 0.999), fused=fused)
    return SGD(groups, lr=0.0, momentum=momentum, fused=fused)


def set_learning_rate(optimizer: TorchOptimizer, lr: float) -> None:
    """Set the learning rate of all parameters for the next step."""
    for group in optimizer.param_groups:
        group["lr"] = lr
