"""Distillation: a network learns the predictions of a larger one beside the ground truth."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from effdet.structures import Batch, Predictions
from effdet.training.losses import DetectionLoss
from effdet.training.quality_losses import quality_focal_loss

NUM_ANCHORS = 512  # of each image; the teacher is hardly confident of more
MIN_SCORE = 0.1  # a teacher that is less confident teaches no box


class Teacher:
    """A trained detector and how a network learns from it.

    Of each image the ``NUM_ANCHORS`` anchors with the largest score of the teacher are taught. With the teacher's
    scores p̂ and boxes b̂, q = max(p̂) over the classes, and the N of ``DetectionLoss``, these are added to its losses:

        class_loss += weight · Σ |p̂ - p|² · CE(p, p̂) / N     box_loss += weight · box_weight · Σ q·box(b, b̂) / N

    The class term is the quality focal loss (Li et al., "Generalized Focal Loss", 2020) with p̂ as its target, the box
    term the box loss of the run, for anchors with q ≥ 0.1.

    Args:
        model: Detector with ``network`` and ``normalise``, on the device of the network that learns. Its anchors are
            those of that network, and it is put into evaluation mode.
        classes: (K,) int64, the teacher's label of each class of the network that learns.
        weight: Weight of what the teacher adds to the losses.
    """

    def __init__(self, model: Any, classes: Tensor, *, weight: float = 1.0) -> None:
        self.model, self.classes, self.weight = model.eval().requires_grad_(False), classes, weight

    @torch.no_grad()
    def predict(self, batch: Batch) -> Predictions:
        """Return what the teacher predicts for the same images, with the classes of the network that learns."""
        images = self.model.normalise(batch.images, batch.content_sizes)
        predictions = self.model.network(images.contiguous(memory_format=torch.channels_last))
        return Predictions(predictions.class_logits[..., self.classes], predictions.box_deltas).float()

    def losses(
        self,
        predictions: Predictions,
        taught: Predictions,
        anchors: Tensor,
        *,
        criterion: DetectionLoss,
        normaliser: Tensor | float,
    ) -> dict[str, Tensor]:
        """Return what is added to the losses, as {"class_loss": (), "box_loss": ()}.

        Args:
            predictions: Of the network that learns: (B, N, K) logits, (B, N, 4) deltas, of any floating type.
            taught: Of the teacher, likewise.
            anchors: (N, 4) float32 xyxy pixels, of both.
            criterion: The losses of the run.
            normaliser: N.
        """
        with torch.autocast(anchors.device.type, enabled=False):
            scores = taught.class_logits.sigmoid()  # (B, N, K)
            confidence, index = scores.amax(dim=2).topk(min(NUM_ANCHORS, len(anchors)), dim=1)  # (B, S)
            classes = quality_focal_loss(_rows(predictions.class_logits, index).float(), _rows(scores, index))
            matched = anchors[index.flatten()]  # (B·S, 4)
            boxes = criterion.box_losses_to(
                _rows(predictions.box_deltas, index).flatten(0, 1).float(),
                matched,
                _rows(taught.box_deltas, index).flatten(0, 1),
            )
            confidence = torch.where(confidence >= MIN_SCORE, confidence, 0).flatten()
            box_sum = (boxes * confidence[:, None]).sum()
            factor = self.weight / normaliser
            return {"class_loss": classes.sum() * factor, "box_loss": criterion.box_weight * box_sum * factor}


def _rows(values: Tensor, index: Tensor) -> Tensor:
    """Return the rows (B, S, …) of (B, N, …) at (B, S) indices."""
    return values.gather(1, index[..., None].expand(*index.shape, values.shape[2]))
