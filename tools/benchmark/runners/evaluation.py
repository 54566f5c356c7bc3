"""COCO evaluation of random detections, by this project and by pycocotools."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from effdet.evaluation.coco import evaluate_coco
from effdet.evaluation.result_columns import Results

BOXES = 7.3  # mean number of boxes in an image, as in COCO
SIDES = (480, 640)


class ResultsData:
    """Writes ground truth and results of ``num_images`` images, 100 detections each, of ``num_classes`` classes."""

    def __init__(self, *, folder: str, num_images: int, num_classes: int, detections: int = 100) -> None:
        rng = np.random.default_rng(0)
        images = [{"id": 7 * index + 1, "height": SIDES[0], "width": SIDES[1]} for index in range(num_images)]
        truth: list[dict[str, Any]] = []
        found: list[dict[str, Any]] = []
        for image in images:
            boxes, labels = _random_boxes(rng, rng.poisson(BOXES)), rng.integers(1, num_classes + 1, 50)
            for box, label in zip(boxes.tolist(), labels.tolist(), strict=False):
                truth.append(
                    {
                        "id": len(truth) + 1,
                        "image_id": image["id"],
                        "category_id": label,
                        "bbox": box,
                        "area": box[2] * box[3],
                        "iscrowd": int(rng.random() < 0.01),
                    }
                )
            guesses, kinds = _random_boxes(rng, detections), rng.integers(1, num_classes + 1, detections)
            near = rng.random(detections) < (0.5 if len(boxes) else 0.0)
            which = rng.integers(max(1, len(boxes)), size=detections)
            guesses[near] = boxes[which[near]] * np.exp(rng.normal(0, 0.1, (near.sum(), 4)))
            kinds[near] = labels[which[near]]
            rows = zip(guesses.tolist(), kinds.tolist(), (rng.random(detections) ** 3).tolist(), strict=True)
            found += [
                {"image_id": image["id"], "category_id": kind, "bbox": box, "score": score} for box, kind, score in rows
            ]
        categories = [{"id": number, "name": str(number)} for number in range(1, num_classes + 1)]
        content = {"images": images, "annotations": truth, "categories": categories}
        (Path(folder) / "truth.json").write_text(json.dumps(content))
        (Path(folder) / "found.json").write_text(json.dumps(found))
        np.savez(
            Path(folder) / "found.npz",
            image_ids=[row["image_id"] for row in found],
            category_ids=[row["category_id"] for row in found],
            boxes=[row["bbox"] for row in found],
            scores=[row["score"] for row in found],
        )
        self.facts = {"boxes": len(truth), "detections": len(found)}


def _random_boxes(rng: np.random.Generator, count: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    sides = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
    return np.concatenate([rng.random((count, 2)) * (SIDES[1], SIDES[0]), sides], axis=1).round(2)


class Ours:
    """Evaluates with ``evaluate_coco``.

    Args:
        folder: Folder that ``ResultsData`` wrote.
        columns: Pass the detections as arrays, as an evaluation of a model does, instead of a file.
    """

    def __init__(self, *, folder: str, columns: bool) -> None:
        self.truth = str(Path(folder) / "truth.json")
        self.found: Any = str(Path(folder) / "found.json")
        if columns:
            with np.load(Path(folder) / "found.npz") as arrays:
                self.found = Results(**dict(arrays))
        self.numbers: list[float] = []

    def step(self) -> None:
        """Score once, from the files to the numbers."""
        metrics = evaluate_coco(self.truth, self.found)
        self.numbers = list(metrics.numbers())
        self.facts = {"backend": metrics.backend}

    def result(self) -> list[float]:
        """Return the 12 numbers."""
        return self.numbers


class Pycocotools:
    """Evaluates with pycocotools, as in its documentation."""

    def __init__(self, *, folder: str) -> None:
        self.folder = Path(folder)
        self.numbers: list[float] = []

    def step(self) -> None:
        """Score once, from the files to the numbers."""
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval

        with contextlib.redirect_stdout(io.StringIO()):
            truth = COCO(str(self.folder / "truth.json"))
            found = truth.loadRes(str(self.folder / "found.json"))
            evaluation = COCOeval(truth, found, "bbox")
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
        self.numbers = [float(value) for value in evaluation.stats]

    def result(self) -> list[float]:
        """Return the 12 numbers."""
        return self.numbers


TASKS = {"results_data": ResultsData, "ours": Ours, "pycocotools": Pycocotools}
