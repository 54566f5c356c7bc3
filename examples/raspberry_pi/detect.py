"""Detect objects with LiteRT on a Raspberry Pi or any other small computer: no PyTorch, no effdet.

    pip install ai-edge-litert numpy pillow
    python detect.py model.tflite photo.jpg --score-threshold 0.3

Prints one line per object: class, score, and left, upper, right and lower edge in pixels of the photo. The model is a
file of ``effdet export --format tflite``; class names and input size are inside it.
"""

import argparse
import json
import zipfile

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


class Detector:
    """A ``.tflite`` file with NMS inside."""

    def __init__(self, file, num_threads=2):
        with zipfile.ZipFile(file) as inside:  # a zip archive behind the model
            self.description = json.loads(inside.read("effdet.json"))
        self.interpreter = Interpreter(model_path=str(file), num_threads=num_threads)
        self.interpreter.allocate_tensors()
        (self.input,) = self.interpreter.get_input_details()
        self.outputs = [output["index"] for output in self.interpreter.get_output_details()]
        if len(self.outputs) != 4:
            raise SystemExit(f"{file} must have NMS inside; export it without --raw")

    def __call__(self, image, score_threshold=0.3):
        """Return (class name, score, [left, upper, right, lower]) of every object in an RGB image of Pillow."""
        pixels, scales = self.fit(image)
        self.interpreter.set_tensor(self.input["index"], pixels)
        self.interpreter.invoke()
        boxes, labels, scores, count = (self.interpreter.get_tensor(index) for index in self.outputs)
        height, width = self.description["image_size"]
        found = []
        for box, label, score in list(zip(boxes[0], labels[0], scores[0], strict=True))[: int(count[0])]:
            if score >= score_threshold:
                top, left, bottom, right = box * [height, width, height, width] / [*scales[::-1], *scales[::-1]]
                edges = np.clip([left, top, right, bottom], 0, [*image.size, *image.size]).tolist()
                found.append((self.description["class_names"][int(label)], float(score), edges))
        return found

    def fit(self, image):
        """Return the input of the network, and the network pixels per pixel of the photo along x and y."""
        height, width = self.description["image_size"]
        scale_x, scale_y = width / image.width, height / image.height
        preprocessing = self.description["preprocessing"]
        if preprocessing.get("fit", "letterbox") == "letterbox":
            scale_x = scale_y = min(scale_x, scale_y)
        size = max(1, int(image.width * scale_x + 1e-6)), max(1, int(image.height * scale_y + 1e-6))
        mean, std = (np.array(self.description[name], np.float32) for name in ("mean", "std"))
        colour = tuple(preprocessing["fill"] or (round(value) for value in mean.tolist()))
        canvas = Image.new("RGB", (width, height), colour)
        canvas.paste(image.resize(size, Image.Resampling.BILINEAR, reducing_gap=None), (0, 0))
        pixels = np.asarray(canvas)[None]
        if self.input["dtype"] != np.uint8:
            pixels = pixels.astype(np.float32)
            if self.description["input"] == "normalised":
                pixels = (pixels - mean) / std
        return pixels, (scale_x, scale_y)


def main():
    """Detect in the photos of the command line."""
    parser = argparse.ArgumentParser(description="Detect objects in photos with LiteRT.")
    parser.add_argument("model")
    parser.add_argument("photos", nargs="+")
    parser.add_argument("--score-threshold", type=float, default=0.3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    detector = Detector(args.model, args.threads)
    for photo in args.photos:
        with Image.open(photo) as opened:
            image = ImageOps.exif_transpose(opened).convert("RGB")
        for name, score, edges in detector(image, args.score_threshold):
            print(f"{photo}\t{name}\t{score:.3f}\t" + "\t".join(f"{edge:.0f}" for edge in edges))


if __name__ == "__main__":
    main()
