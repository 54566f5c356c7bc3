"""Detect objects with MediaPipe Tasks in Python.

    pip install mediapipe        # in an environment of its own: it brings an OpenCV that overwrites others
    python detect.py model.tflite photo.jpg --score-threshold 0.3

Prints one line per object: class, score, and left, upper, right and lower edge in whole pixels of the photo. The model
is a file of ``effdet export --format tflite``. MediaPipe stretches every photo to the shape of the network's input.
"""

import argparse

from mediapipe import Image
from mediapipe.tasks.python import BaseOptions
from mediapipe.tasks.python.vision import ObjectDetector, ObjectDetectorOptions


def main():
    """Detect in the photos of the command line."""
    parser = argparse.ArgumentParser(description="Detect objects in photos with MediaPipe.")
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--score-threshold", type=float, default=0.3)
    args = parser.parse_args()
    options = ObjectDetectorOptions(
        base_options=BaseOptions(model_asset_path=args.model), score_threshold=args.score_threshold, max_results=100
    )
    with ObjectDetector.create_from_options(options) as detector:
        for photo in args.photos:
            for found in detector.detect(Image.create_from_file(photo)).detections:
                box = found.bounding_box
                edges = box.origin_x, box.origin_y, box.origin_x + box.width, box.origin_y + box.height
                for category in found.categories:  # equal boxes of several classes come as one detection
                    numbers = "\t".join(str(edge) for edge in edges)
                    print(f"{photo}\t{category.category_name}\t{category.score:.3f}\t{numbers}")


if __name__ == "__main__":
    main()
