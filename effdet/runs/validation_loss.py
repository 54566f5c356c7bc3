"""The training loss on validation images, which are not augmented."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from effdet.data.loader import EvalLoader
from effdet.runs.workers import choose_workers
from effdet.training.loop import sum_numbers
from effdet.training.losses import DetectionLoss
from effdet.training.step import LOSSES

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset
    from effdet.structures import Batch
    from effdet.training.distributed import World


@torch.no_grad()
def validation_loss(
    model: Any, dataset: Dataset, criterion: DetectionLoss, *, batch_size: int, workers: int | None, world: World
) -> dict[str, float]:
    """Return the losses of a model on all images of a data set, on every process of ``world``.

    N of the losses counts the positive anchors of all images, as if they were one batch; so the result does not depend
    on ``batch_size``. Images that cannot be read are left out.

    Args:
        model: Detector with ``network``, ``normalise``, ``anchors`` and ``letterbox``; it is used in eval mode.
        dataset: Images with ground truth.
        criterion: Loss of a batch.
        batch_size: Images per process.
        workers: Loader processes for each process of ``world``; None: chosen from the machine.
        world: The processes that share the images.

    Returns:
        ``val_loss``, ``val_class_loss`` and ``val_box_loss``; the first is the sum of the others.
    """
    was_training = model.training
    model.eval()
    loader = EvalLoader(
        dataset,
        letterbox=model.letterbox,
        batch_size=batch_size,
        workers=choose_workers(workers, world.device, local_size=world.local_size),
        rank=world.rank,
        world_size=world.size,
    )
    sums = torch.zeros(len(LOSSES) + 1, dtype=torch.float64)  # on the host: not every device has float64
    for batch in loader:
        if batch.targets:
            sums += _sums(model, criterion, batch, world.device)
    model.train(was_training)
    *losses, total_score = sum_numbers(sums.tolist(), world)
    parts = {f"val_{name}": value / (total_score + 1) for name, value in zip(LOSSES, losses, strict=True)}
    return {"val_loss": sum(parts.values()), **parts}


def _sums(model: Any, criterion: DetectionLoss, batch: Batch, device: torch.device) -> Tensor:
    """Return the losses of a batch that are not divided by N, and its share of N: (3,) float64 on the host."""
    batch = batch.to(device)
    anchors = model.anchors(tuple(batch.images.shape[-2:]), device)
    predictions = model.network(model.normalise(batch.images, batch.content_sizes.cpu()))
    assignment = criterion.assign(anchors, batch.targets, predictions if criterion.needs_predictions else None)
    one = torch.ones((), device=device)
    losses = criterion(predictions, anchors, batch.targets, assignment=assignment, normaliser=one)
    parts = [*(losses[name] for name in LOSSES), torch.as_tensor(assignment.total_score, device=device).float()]
    return torch.stack(parts).cpu().double()
