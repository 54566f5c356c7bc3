"""Measure COCO evaluation of many random detections, by this project and by pycocotools."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark.race import Entry, race
from benchmark.results import ask_once, make_result, race_options

IMAGES, CLASSES = 5000, 80


def evaluate(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time from two JSON files to the COCO numbers; ours also from arrays, as in an evaluation of a model."""
    images, classes = args.images or IMAGES, CLASSES
    settings = {"folder": str(folder), "num_images": images, "num_classes": classes}
    facts = ask_once(Entry(name="preparation", module="evaluation", task="results_data", settings=settings))
    where, module = {"folder": str(folder)}, "evaluation"
    entries = [
        Entry(name="ours, from files", module=module, task="ours", settings={**where, "columns": False}),
        Entry(name="ours, from columns", module=module, task="ours", settings={**where, "columns": True}),
        Entry(name="pycocotools, from files", module=module, task="pycocotools", settings=where),
    ]
    rows = race(entries, **race_options(args))
    numbers = [row.result for row in rows if row.result]
    largest = max((abs(a - b) for other in numbers[:-1] for a, b in zip(other, numbers[-1], strict=True)), default=0.0)
    title = (
        f"COCO numbers of {images} images, {facts['detections']} detections, {facts['boxes']} boxes, {classes} classes"
    )
    return make_result(args, title, rows, images_per_step=1, largest_difference=largest)
