"""Post-processing as part of an ONNX graph: decoding, hard NMS, the best detections."""

from __future__ import annotations

from typing import Any

import numpy as np

from effdet.deployment.runtimes import require
from effdet.ops.settings import PostprocessSettings

OUTPUTS = ("boxes", "scores", "labels")  # (B, D, 4) xyxy pixels of the network input, (B, D), (B, D) int64
ALL_CANDIDATES = 1_000_000_000  # more than any network has


def postprocess_settings(settings: PostprocessSettings, max_candidates: int) -> PostprocessSettings:
    """Return the settings that a graph with post-processing has: hard NMS and so many candidates.

    Raises:
        ValueError: If a setting has no counterpart in the graph.
    """
    from dataclasses import replace

    if settings.best_class_only or settings.class_agnostic or settings.clip in ("before", "network"):
        raise ValueError(
            "post-processing inside the file must have best_class_only and class_agnostic off and clip 'after' or "
            f"'none', got {settings}; change the model's settings, or export raw outputs"
        )
    return replace(settings, nms="hard", max_candidates=max_candidates)


def append_postprocessing(model: Any, anchors: np.ndarray, num_classes: int, settings: PostprocessSettings) -> None:
    """Replace the raw outputs of a graph by ``OUTPUTS``, best score first.

    Every image has D = ``max_detections`` rows; those beyond what was found have the label -1, the score 0 and no area.

    Args:
        model: The ``onnx.ModelProto`` with the outputs class_logits (B, N, K) and box_deltas (B, N, 4); changed in
            place.
        anchors: (N, 4) float32 xyxy pixels of the network input.
        num_classes: K.
        settings: As ``postprocess_settings`` returns them.
    """
    graph = _Writer(model)
    num_candidates = min(settings.max_candidates, len(anchors) * num_classes)
    num_detections = min(settings.max_detections, num_candidates)

    flat = graph.add("Reshape", "class_logits", graph.int64([0, -1]))  # (B, N·K)
    logits, best = graph.add("TopK", flat, graph.int64([num_candidates]), outputs=2)  # (B, C)
    scores = graph.add("Sigmoid", logits)
    chosen = graph.add("Div", best, graph.int64(num_classes))  # (B, C) anchors
    labels = graph.add("Sub", best, graph.add("Mul", chosen, graph.int64(num_classes)))
    deltas = graph.take_rows("box_deltas", chosen)  # (B, C, 4)
    boxes = _decode(graph, deltas, graph.add("Gather", graph.float32(anchors), chosen, axis=0))

    kept = _suppress(graph, boxes, scores, labels, settings)  # (B, C) 1 where a candidate stays
    kept_scores = graph.add("Mul", scores, kept)
    top_scores, top = graph.add("TopK", kept_scores, graph.int64([num_detections]), outputs=2)  # (B, D)
    is_found = graph.add("Greater", top_scores, graph.float32(max(settings.score_threshold, 1e-30) * (1 - 1e-6)))
    mask = graph.add("Cast", is_found, to=1)
    graph.add("Mul", graph.take_rows(boxes, top), graph.add("Unsqueeze", mask, graph.int64([2])), name=OUTPUTS[0])
    graph.add("Mul", top_scores, mask, name=OUTPUTS[1])
    top_labels = graph.add("GatherElements", labels, top, axis=1)
    graph.add("Where", is_found, top_labels, graph.int64(-1), name=OUTPUTS[2])
    graph.finish(num_detections)


def _decode(graph: _Writer, deltas: str, anchors: str) -> str:
    """Write ``effdet.ops.boxes.decode`` for (B, C, 4) deltas and anchors."""
    low, high = graph.split_pairs(anchors)  # (B, C, 2) corners
    side = graph.add("Sub", high, low)
    centre = graph.add("Mul", graph.add("Add", low, high), graph.float32(0.5))
    shift, stretch = graph.split_pairs(deltas)
    moved = graph.add("Add", graph.add("Mul", shift, side), centre)
    half = graph.add("Mul", graph.add("Mul", graph.add("Exp", stretch), side), graph.float32(0.5))
    return graph.add("Concat", graph.add("Sub", moved, half), graph.add("Add", moved, half), axis=2)


def _suppress(graph: _Writer, boxes: str, scores: str, labels: str, settings: PostprocessSettings) -> str:
    """Write hard NMS within each class; returns (B, C) float32, 1 where a candidate stays.

    Classes are moved apart, beyond all boxes, so that one run sees all of them.
    """
    far = graph.add("ReduceMax", graph.add("Abs", boxes), keepdims=1)  # (1, 1, 1)
    far = graph.add("Add", graph.add("Mul", far, graph.float32(2.0)), graph.float32(1.0))
    offsets = graph.add("Mul", graph.add("Unsqueeze", graph.add("Cast", labels, to=1), graph.int64([2])), far)
    picked = graph.add(
        "NonMaxSuppression",
        graph.add("Add", boxes, offsets),
        graph.add("Unsqueeze", scores, graph.int64([1])),
        graph.int64([settings.max_detections]),
        graph.float32([settings.iou_threshold]),
    )  # (S, 3): image, 0, candidate
    places = graph.add("Gather", picked, graph.int64([0, 2]), axis=1)
    ones = graph.add(
        "Expand", graph.float32(1.0), graph.add("Slice", graph.add("Shape", picked), graph.int64([0]), graph.int64([1]))
    )
    nothing = graph.add("Mul", scores, graph.float32(0.0))
    return graph.add("ScatterND", nothing, places, ones)


class _Writer:
    """Append nodes and constants to a graph."""

    def __init__(self, model: Any) -> None:
        self.onnx = require("onnx")
        self.graph = model.graph
        self.count = 0

    def add(self, op: str, *inputs: str, outputs: int = 1, name: str | None = None, **attributes: Any) -> Any:
        """Append a node; return the name of its output, or the names if there are several."""
        self.count += 1
        names = [name or f"postprocess.{op}.{self.count}.{index}" for index in range(outputs)]
        self.graph.node.append(self.onnx.helper.make_node(op, list(inputs), names, **attributes))
        return names[0] if outputs == 1 else names

    def int64(self, values: Any) -> str:
        """Return the name of a new constant."""
        return self._constant(np.array(values, dtype=np.int64))

    def float32(self, values: Any) -> str:
        """Return the name of a new constant."""
        return self._constant(np.array(values, dtype=np.float32))

    def _constant(self, values: np.ndarray) -> str:
        self.count += 1
        name = f"postprocess.constant.{self.count}"
        self.graph.initializer.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def take_rows(self, table: str, rows: str) -> str:
        """Write (B, C, 4): of a (B, N, 4) table the rows (B, C)."""
        wide = self.add("Expand", self.add("Unsqueeze", rows, self.int64([2])), self.int64([1, 1, 4]))
        return self.add("GatherElements", table, wide, axis=1)

    def split_pairs(self, values: str) -> tuple[str, str]:
        """Write the first and the last two columns of (B, C, 4)."""
        first = self.add("Slice", values, self.int64([0]), self.int64([2]), self.int64([2]))
        return first, self.add("Slice", values, self.int64([2]), self.int64([4]), self.int64([2]))

    def finish(self, num_detections: int) -> None:
        """Make ``OUTPUTS`` the outputs of the graph."""
        helper, types = self.onnx.helper, self.onnx.TensorProto
        first = self.graph.input[0].type.tensor_type.shape.dim[0]
        batch = first.dim_param or first.dim_value
        shapes = ([batch, num_detections, 4], [batch, num_detections], [batch, num_detections])
        kinds = (types.FLOAT, types.FLOAT, types.INT64)
        del self.graph.output[:]
        for name, kind, shape in zip(OUTPUTS, kinds, shapes, strict=True):
            self.graph.output.append(helper.make_tensor_value_info(name, kind, shape))
