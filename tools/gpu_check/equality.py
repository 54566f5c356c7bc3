"""Everything that has a path of its own on a GPU, beside the CPU in float32."""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from torch import Tensor

from effdet import EfficientDet, Target
from effdet.structures import Predictions
from effdet.training.losses import DetectionLoss

MODELS = ("d0", "lite0", "d7x", "cspdarkdet53m")
# Difference of the outputs in standard deviations of the output on the CPU: the largest one in float32, the root of the
# mean square in the others.
LIMITS = {torch.float32: 1e-3, torch.bfloat16: 0.3, torch.float16: 0.05}
GRADIENT_LIMIT = 1e-3  # of float32, in norms of the gradient


def check(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Compare networks, losses, gradients, targets and post-processing."""
    device = torch.device(args.device)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    rows = []
    for name in MODELS[:1] if args.quick else MODELS:
        rows += _compare_model(name, device, size=(128, 128) if args.quick else (256, 320))
    return rows


def _compare_model(name: str, device: torch.device, *, size: tuple[int, int]) -> list[dict[str, Any]]:
    torch.manual_seed(0)
    model = EfficientDet(name, num_classes=8, image_size=size, stochastic_depth=0.0)
    images = _images(size)
    _settle_statistics(model, images)
    on_device = copy.deepcopy(model).to(device)
    rows = []

    model.eval(), on_device.eval()
    with torch.inference_mode():
        expected = model.network(images)
        for dtype, limit in LIMITS.items():
            with torch.autocast(device.type, dtype=dtype, enabled=dtype is not torch.float32):
                got = on_device.network(images.to(device))
            worst = max(
                _difference(got.class_logits, expected.class_logits, dtype),
                _difference(got.box_deltas, expected.box_deltas, dtype),
            )
            rows.append(_row(f"{name} network, {str(dtype)[6:]}", worst, limit, "standard deviations"))

    rows += _compare_postprocessing(name, model, on_device, expected, device)
    rows += _compare_training(name, model, on_device, images, device, size)
    return rows


def _images(size: tuple[int, int]) -> Tensor:
    """Return smooth random images (4, 3, H, W), normalised."""
    coarse = torch.randn(4, 3, size[0] // 16, size[1] // 16)
    fine = torch.randn(4, 3, *size)
    return torch.nn.functional.interpolate(coarse, size=size, mode="bilinear", align_corners=False) + 0.2 * fine


def _settle_statistics(model: EfficientDet, images: Tensor) -> None:
    """Give BN the statistics of these images, so that activations neither vanish nor explode."""
    model.network.set_bn_momentum(1.0)
    model.train()
    with torch.no_grad():
        model.network(images)
    model.network.set_bn_momentum(0.01)


def _compare_postprocessing(
    name: str, model: EfficientDet, on_device: EfficientDet, expected: Predictions, device: torch.device
) -> list[dict[str, Any]]:
    """Give both the same spread logits: with random weights all scores are nearly equal."""
    logits = (expected.class_logits - expected.class_logits.mean()) / expected.class_logits.std() * 2 - 4
    sizes = torch.tensor([list(model.image_size)] * len(logits))
    results = []
    for detector, where in ((model, torch.device("cpu")), (on_device, device)):
        predictions = Predictions(logits.to(where), expected.box_deltas.to(where))
        results.append(_detections(detector, predictions, sizes))
    (boxes, labels, scores), (other_boxes, other_labels, other_scores) = results
    if labels.shape != other_labels.shape:
        return [{"check": f"{name} detections", "value": f"{len(other_labels)} for {len(labels)}", "ok": False}]
    return [
        _row(f"{name} boxes of detections", (boxes - other_boxes).abs().max().item(), 0.01, "pixels"),
        _row(f"{name} scores of detections", (scores - other_scores).abs().max().item(), 1e-5, ""),
        _row(f"{name} labels that differ", float((labels != other_labels).sum()), 0, ""),
    ]


def _detections(detector: EfficientDet, predictions: Predictions, sizes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    from effdet.ops.postprocess import postprocess

    results = postprocess(
        predictions,
        detector.anchors(detector.image_size, predictions.class_logits.device),
        scales=torch.ones(len(sizes)),
        original_sizes=sizes,
        settings=detector.settings,
    )
    boxes, labels, scores = (torch.cat(column).cpu() for column in zip(*results, strict=True))
    return boxes, labels, scores


def _compare_training(
    name: str,
    model: EfficientDet,
    on_device: EfficientDet,
    images: Tensor,
    device: torch.device,
    size: tuple[int, int],
) -> list[dict[str, Any]]:
    """Compare targets, losses and gradients, with BN's running statistics: those of a few cells enlarge rounding."""
    targets = [_target(size, count) for count in (3, 0, 12, 1)]
    criterion, results = DetectionLoss(box_loss="huber"), []
    for detector, where in ((model, torch.device("cpu")), (on_device, device)):
        moved = [target.to(where) for target in targets]
        anchors = detector.anchors(size, where)
        assignment = criterion.assign(anchors, moved)
        losses = criterion(detector.network(images.to(where)), anchors, moved, assignment=assignment)
        (losses["class_loss"] + losses["box_loss"]).backward()
        gradient = torch.cat([p.grad.flatten().cpu() for p in detector.parameters() if p.grad is not None])
        detector.zero_grad()
        results.append((losses, gradient, int(assignment.num_positives)))
    (losses, gradient, positives), (other_losses, other_gradient, other_positives) = results
    worst = max(abs(other_losses[key].item() / losses[key].item() - 1) for key in losses)
    return [
        _row(f"{name} positive anchors that differ", float(abs(positives - other_positives)), 0, f"of {positives}"),
        _row(f"{name} losses", worst, 1e-4, "relative"),
        _row(
            f"{name} gradient",
            ((gradient - other_gradient).norm() / gradient.norm()).item(),
            GRADIENT_LIMIT,
            "relative",
        ),
    ]


def _target(size: tuple[int, int], count: int) -> Target:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] * 0.6, size[0] * 0.6])
    side = torch.rand(count, 2, generator=generator) * 0.35 * min(size) + 8
    boxes = torch.cat([corner, corner + side], dim=1)
    return Target(boxes, torch.randint(0, 8, (count,), generator=generator))


def _difference(got: Tensor, expected: Tensor, dtype: torch.dtype) -> float:
    difference = (got.float().cpu() - expected).abs()
    size = difference.max() if dtype is torch.float32 else difference.square().mean().sqrt()
    return (size / expected.std()).item()


def _row(check: str, value: float, limit: float, unit: str) -> dict[str, Any]:
    return {"check": check, "value": float(value), "limit": limit, "unit": unit, "ok": bool(value <= limit)}
