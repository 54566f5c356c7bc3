"""Everything that has a path of its own on a GPU, beside the CPU."""

from __future__ import annotations

import argparse
import copy
from typing import Any

import torch
from torch import Tensor

from effdet import EfficientDet, Target
from effdet.structures import Predictions
from effdet.training.losses import DetectionLoss

DEVIATIONS = "standard deviations"
MODELS = ("d0", "lite0", "d7x", "cspdarkdet53m")
# In float64 both devices must agree: networks with random weights enlarge rounding, and hide faults in less.
LIMIT = 1e-8  # of outputs, in standard deviations; of losses and gradients, relative
# In lower precision the error may be this many times that of the CPU in the same precision (float16: in bfloat16).
TIMES_THE_CPU = 3.0


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
    exact = _outputs(model.double(), images, torch.device("cpu"), torch.float64)
    rows.append(
        _row(
            f"{name} network, float64",
            _error(_outputs(on_device.double(), images, device, torch.float64), exact),
            LIMIT,
            DEVIATIONS,
        )
    )
    rows += _compare_training(name, model, on_device, images.double(), device, size)
    model.float(), on_device.float()
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        on_cpu = _outputs(model, images, torch.device("cpu"), torch.bfloat16 if dtype is torch.float16 else dtype)
        limit = TIMES_THE_CPU * _error(on_cpu, exact)
        got = _outputs(on_device, images, device, dtype)
        rows.append(_row(f"{name} network, {str(dtype)[6:]}", _error(got, exact), limit, DEVIATIONS))
    expected = Predictions(exact.class_logits.float(), exact.box_deltas.float())
    rows += _compare_postprocessing(name, model, on_device, expected, device)
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
        _row(f"{name} losses", worst, 1e-6, "relative"),
        _row(f"{name} gradient", ((gradient - other_gradient).norm() / gradient.norm()).item(), 1e-6, "relative"),
    ]


def _target(size: tuple[int, int], count: int) -> Target:
    generator = torch.Generator().manual_seed(count)
    corner = torch.rand(count, 2, generator=generator) * torch.tensor([size[1] * 0.6, size[0] * 0.6])
    side = torch.rand(count, 2, generator=generator) * 0.35 * min(size) + 8
    boxes = torch.cat([corner, corner + side], dim=1)
    return Target(boxes, torch.randint(0, 8, (count,), generator=generator))


@torch.inference_mode()
def _outputs(model: EfficientDet, images: Tensor, device: torch.device, dtype: torch.dtype) -> Predictions:
    """Return the outputs on the CPU, in float64."""
    half = dtype in (torch.bfloat16, torch.float16)
    images = images.to(device, torch.float64 if dtype is torch.float64 else torch.float32)
    with torch.autocast(device.type, dtype=dtype if half else None, enabled=half):
        found = model.network(images)
    return Predictions(found.class_logits.cpu().double(), found.box_deltas.cpu().double())


def _error(got: Predictions, exact: Predictions) -> float:
    """Return the root mean square of the difference, in standard deviations; of logits or deltas, whichever is more."""
    pairs = ((got.class_logits, exact.class_logits), (got.box_deltas, exact.box_deltas))
    return max(((a - b).square().mean().sqrt() / b.std()).item() for a, b in pairs)


def _row(check: str, value: float, limit: float, unit: str) -> dict[str, Any]:
    return {"check": check, "value": float(value), "limit": limit, "unit": unit, "ok": bool(value <= limit)}
