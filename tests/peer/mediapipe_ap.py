"""Measure the AP that MediaPipe itself reaches with a ``.tflite`` file, beside what ``--as mediapipe`` predicts.

make mediapipe-env
python tests/peer/mediapipe_ap.py runs/custom/best.tflite ../shared/data/bccd --python .venv-mediapipe/bin/python
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import effdet
from effdet.data.dataset import Dataset
from effdet.deployment.mediapipe import as_mediapipe
from effdet.evaluation.coco import evaluate_coco
from effdet.runs.data import dataset_of
from effdet.runs.evaluate import evaluate_dataset

SCORE_THRESHOLD = 0.02  # that of NMS inside the file, unless it was exported with another


def ask_mediapipe(python: str, file: Path, dataset: Dataset) -> list[dict[str, Any]]:
    """Return what MediaPipe detects on all photos of a data set, as COCO results."""
    script = Path(__file__).with_name("make_mediapipe.py")
    photos = [str(dataset.path(index)) for index in range(len(dataset))]
    with tempfile.TemporaryDirectory() as folder:
        answers = Path(folder) / "answers.json"
        command = [python, str(script), str(file), str(answers), *photos, "--score-threshold", str(SCORE_THRESHOLD)]
        subprocess.run(command, check=True, capture_output=True)
        found = json.loads(answers.read_text())
    category_ids = dict(zip(dataset.class_names, dataset.category_ids, strict=True))
    return [
        {"image_id": dataset.image_id(index), "category_id": category_ids[name], "bbox": one["box"], "score": score}
        for index, detections in enumerate(found)
        for one in detections
        for name, score in one["scores"].items()
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="a .tflite file")
    parser.add_argument("data", help="a data set; its val split is used")
    parser.add_argument("--python", required=True, help="an interpreter that has mediapipe")
    args = parser.parse_args()
    dataset = dataset_of(args.data, "val")
    detector = effdet.load(args.model)
    for name, metrics in (
        ("as it is", evaluate_dataset(detector, dataset, batch_size=8, workers=0)),
        ("--as mediapipe", evaluate_dataset(as_mediapipe(detector), dataset, batch_size=8, workers=0)),
        ("MediaPipe", evaluate_coco(dataset, ask_mediapipe(args.python, args.model, dataset))),
    ):
        print(f"{name:16} AP {metrics.ap:.4f}  AP50 {metrics.ap50:.4f}", flush=True)


if __name__ == "__main__":
    main()
