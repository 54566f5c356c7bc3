"""Detect with MediaPipe Tasks; runs under an interpreter that has mediapipe, and never imports our package.

    python make_mediapipe.py MODEL RESULTS.json PHOTO ... [--score-threshold 0.01]

RESULTS is a list with one entry per photo: a list of {"box": [x, y, width, height], "scores": {class name: score}}.
"""

import argparse
import json

from mediapipe import Image
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ObjectDetector, ObjectDetectorOptions


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("results")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--score-threshold", type=float, default=0.01)
    args = parser.parse_args()
    options = ObjectDetectorOptions(
        base_options=BaseOptions(model_asset_path=args.model), score_threshold=args.score_threshold, max_results=-1
    )
    with ObjectDetector.create_from_options(options) as detector:
        found = [detector.detect(Image.create_from_file(photo)).detections for photo in args.photos]
    results = [[as_json(detection) for detection in detections] for detections in found]
    with open(args.results, "w") as file:
        json.dump(results, file)


def as_json(detection):
    box = detection.bounding_box
    scores = {category.category_name: category.score for category in detection.categories}
    return {"box": [box.origin_x, box.origin_y, box.width, box.height], "scores": scores}


main()
