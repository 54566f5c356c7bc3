"""``TFLite_Detection_PostProcess``: the operator of every TFLite runtime that makes detections of deltas and scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from effdet.deployment.tflite.graph import Graph
from effdet.ops.settings import PostprocessSettings

OPERATOR = "TFLite_Detection_PostProcess"
OUTPUTS = ("location", "category", "score", "number of detections")  # the names that MediaPipe looks for


def append_nms(
    graph: Graph, anchors: np.ndarray, image_size: tuple[int, int], num_classes: int, settings: PostprocessSettings
) -> None:
    """Replace the raw outputs of a graph by detections: sigmoid, decoding, hard NMS within each class.

    The new outputs are, best score first: boxes (1, D, 4) as (ymin, xmin, ymax, xmax) in 0…1 of the network input, not
    clipped; labels (1, D); scores (1, D); the number of detections (1,). All are float32.

    Args:
        graph: With the outputs class_logits (1, N, K) and box_deltas (1, N, 4), the deltas as (dy, dx, dh, dw).
        anchors: (N, 4) float32 xyxy pixels of the network input.
        image_size: (height, width) of the network input.
        num_classes: K.
        settings: Thresholds and the number D of detections.
    """
    logits, deltas = graph.named(("class_logits", "box_deltas"))
    scores = graph.tensor("scores", logits.shape)
    graph.operator("LOGISTIC", [logits], [scores])
    detections = settings.max_detections
    shapes = ((1, detections, 4), (1, detections), (1, detections), (1,))
    outputs = {name: graph.tensor(name, shape) for name, shape in zip(OUTPUTS, shapes, strict=True)}
    inputs = [deltas, scores, graph.constant(_centres_and_sides(anchors, image_size), "anchors")]
    custom = (OPERATOR, _options(num_classes, settings))
    graph.operator("CUSTOM", inputs, list(outputs.values()), custom=custom)
    graph.set_signature({"images": graph.at(graph.subgraph.inputs[0])}, outputs)


def _centres_and_sides(anchors: np.ndarray, image_size: tuple[int, int]) -> np.ndarray:
    """Return xyxy pixels as (yc, xc, h, w) in 0…1 of the network input."""
    x1, y1, x2, y2 = anchors.astype(np.float64).T
    height, width = image_size
    centred = [(y1 + y2) / 2 / height, (x1 + x2) / 2 / width, (y2 - y1) / height, (x2 - x1) / width]
    return np.stack(centred, axis=1).astype(np.float32)


def _options(num_classes: int, settings: PostprocessSettings) -> bytes:
    from flatbuffers import flexbuffers

    builder = flexbuffers.Builder()
    with builder.Map():
        builder.Int("max_detections", settings.max_detections)
        builder.Int("max_classes_per_detection", 1)
        builder.Int("detections_per_class", settings.max_detections)
        builder.Int("num_classes", num_classes)
        builder.Bool("use_regular_nms", True)
        builder.Float("nms_score_threshold", settings.score_threshold)
        builder.Float("nms_iou_threshold", settings.iou_threshold)
        for name in ("y_scale", "x_scale", "h_scale", "w_scale"):
            builder.Float(name, 1.0)
    return bytes(builder.Finish())


def as_detections(outputs: Sequence[np.ndarray], image_size: tuple[int, int]) -> list[np.ndarray]:
    """Return boxes (1, D, 4) xyxy pixels of the network input, scores (1, D), and labels (1, D) int64.

    Args:
        outputs: The four outputs of the operator, in its order. Rows beyond the number of detections get the label -1.
        image_size: (height, width) of the network input.
    """
    boxes, labels, scores, count = outputs
    height, width = image_size
    pixels = boxes[..., [1, 0, 3, 2]] * np.array([width, height, width, height], np.float32)
    found = np.arange(labels.shape[1]) < count.reshape(-1, 1)
    return [pixels, scores.copy(), np.where(found, labels, -1).astype(np.int64)]


def find_operator(model: Any) -> Any:
    """Return the operator of a ``ModelT``; None where the model does not have it."""
    names = [code.customCode for code in model.operatorCodes]
    return next((one for one in model.subgraphs[0].operators if names[one.opcodeIndex] == OPERATOR), None)


def options_of(operator: Any) -> dict[str, Any]:
    """Return the options of the operator, such as ``num_classes`` and ``nms_iou_threshold``."""
    from flatbuffers import flexbuffers

    options: dict[str, Any] = flexbuffers.Loads(bytes(operator.customOptions))
    return options
