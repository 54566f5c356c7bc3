"""Write a model as a file of another runtime, such as ONNX or TFLite, that holds all that is needed to use it.

effdet export --weights runs/demo/best.safetensors --format onnx --check data/demo/images
effdet export --weights runs/demo/best.safetensors --format openvino --precision int8 --calibration data/demo
effdet export --weights runs/demo/best.safetensors --format tflite --check data/demo/images
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

from effdet.commands import program
from effdet.commands.model_options import image_size
from effdet.commands.output import write_json
from effdet.deployment.formats import FORMATS, Precision, format_of

if TYPE_CHECKING:
    import numpy as np

    from effdet.data.dataset import Dataset
    from effdet.deployment.compare import Comparison
    from effdet.deployment.export import ExportOptions
    from effdet.deployment.quantise import AccuracyControl, Quantisation
    from effdet.deployment.runtimes import Runtime
    from effdet.detector.efficientdet import EfficientDet
    from effdet.images.pixel_format import PixelFormat

NUM_CHECKED = 8  # largest number of photos that a check uses
AUTO = "auto"
NUM_CALIBRATION = 300  # largest number of images that calibration uses


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``export``."""
    result = argparse.ArgumentParser(
        prog=program("export"),
        description="Write a model as a file that other runtimes run, and compare it with PyTorch. Class names, "
        "category ids, input size, mean, standard deviation and settings are inside the file.",
    )
    result.add_argument("--weights", required=True, metavar="W", help="what EfficientDet.from_pretrained takes")
    result.add_argument("--format", choices=FORMATS, default="onnx", help="default: onnx")
    result.add_argument("--out", type=Path, metavar="FILE", help="the file (default: named after the weights)")
    result.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="network input: one side, or H W")
    result.add_argument("--dynamic-size", action="store_true", help="allow any height and width")
    result.add_argument("--batch", default="1", metavar="N", help="images of every run, or 'dynamic' (default: 1)")
    result.add_argument("--precision", choices=(*get_args(Precision), AUTO), default="fp32", help=_PRECISION)
    result.add_argument("--calibration", metavar="DATA", help=_CALIBRATION)
    result.add_argument("--max-drop", type=float, metavar="AP", help=_MAX_DROP)
    result.add_argument("--int8-outputs", action="store_true", help="int8: quantise the last convolutions too")
    inside = result.add_mutually_exclusive_group()
    inside.add_argument("--postprocess", action="store_true", default=None, help="put hard NMS into the file")
    inside.add_argument("--raw", dest="postprocess", action="store_false", default=None, help=_RAW)
    result.add_argument("--score-threshold", type=float, metavar="SCORE", help=_SCORE_THRESHOLD)
    result.add_argument("--max-candidates", type=int, metavar="N", help="boxes that NMS inside the file sees (3840)")
    result.add_argument(
        "--check", metavar="SOURCE", help="photos to compare the file with PyTorch on: file, folder, glob"
    )
    result.add_argument("--tolerance", type=float, nargs=2, metavar=("SCORE", "IOU"), help=_TOLERANCE)
    result.add_argument("--json", metavar="FILE", help="write what was exported and how it compares; - is stdout")
    return result


_PRECISION = (
    "default: fp32. auto: fp32, and the file says how much AP bf16 costs on the val split of --check DATA, by which "
    "effdet.load(FILE, precision='auto') and --precision auto of other commands choose; onnx and openvino"
)
_RAW = "tflite: class logits and box deltas as outputs; without it such a file does hard NMS"
_SCORE_THRESHOLD = "least score that NMS inside the file reports (default: the model's; tflite: 0.02 or more)"
_CALIBRATION = "for int8: 100 or more images, as a folder, a glob pattern, or data with a train split"
_MAX_DROP = (
    "int8: largest allowed drop of AP (0…1) on the val split of --calibration, such as 0.005; layers are changed back "
    "to float until the drop is no larger, which takes long"
)
_TOLERANCE = "largest difference of a score, smallest IoU of a box (default: by precision)"


def run(args: argparse.Namespace) -> int:
    """Export, compare, and return the exit status."""
    from effdet.deployment.export import as_exported, export
    from effdet.deployment.load import load_exported
    from effdet.detector.efficientdet import EfficientDet

    _check(args)
    options = _options(args)
    model = EfficientDet.from_pretrained(args.weights).eval()
    if options.image_size is not None:
        model.image_size = options.image_size
    file = args.out or _default_file(args.weights, _written(args.precision), FORMATS[args.format].suffix)

    _propose_size(args, model)
    quantisation = _quantisation(args, model, options) if args.precision == "int8" else None
    if args.precision == AUTO:
        options = replace(options, bf16_drop=_bf16_drop(args, model, options))
    description = export(model, file, options, quantisation=quantisation)
    comparison: Comparison | None = None
    raw: float | None = None
    where = FORMATS[args.format].runs_elsewhere
    if where is None:
        comparison, raw = _compare(args, as_exported(model, description), load_exported(file), file)

    report = sys.stderr if args.json == "-" else sys.stdout
    size = _size(file)
    result = str(comparison or f"not run and not compared with PyTorch, as such a file runs {where}")
    if raw is not None:
        result += f"; logits and deltas differ by at most {raw:.2g} of their standard deviation"
    print(f"{file}: {args.format} {_written(args.precision)}, {size / 1e6:.1f} MB; {result}", file=report)
    if args.json:
        compared = {**asdict(comparison), "raw_difference": raw} if comparison else {}
        write_json(
            {"file": str(file), "bytes": size, "bf16_drop": description.bf16_drop, **compared}, args.json, indent=2
        )
    return 0


def _propose_size(args: argparse.Namespace, model: EfficientDet) -> None:
    """Say which --size has the shape of the photos, where MediaPipe would distort them."""
    photos = args.calibration or args.check
    if args.format != "tflite" or args.size is not None or photos is None:
        return
    from effdet.deployment.mediapipe import propose_size

    sizes = [image.shape[:2] for _, image in islice(_calibration_images(photos, model.letterbox.pixels), NUM_CHECKED)]
    proposed = propose_size(model.image_size, sizes) if sizes else None
    if proposed is not None:
        print(
            f"MediaPipe stretches photos to the input of {model.image_size[0]}×{model.image_size[1]}; "
            f"--size {proposed[0]} {proposed[1]} has the shape of these photos",
            file=sys.stderr,
        )


def _size(file: Path) -> int:
    """Return the bytes of an exported file, with those beside it or, if it is a folder, in it."""
    parts = {file, *map(file.with_suffix, format_of(file).companions), *file.rglob("*")}
    return sum(part.stat().st_size for part in parts if part.is_file())


def _check(args: argparse.Namespace) -> None:
    if args.precision == AUTO and (args.check is None or args.format not in ("onnx", "openvino")):
        parser().error("--precision auto needs --check DATA with boxes, and --format onnx or openvino")
    if (args.precision == "int8") != (args.calibration is not None):
        parser().error("--precision int8 needs --calibration, and the other precisions do without")
    if (args.max_drop is not None or args.int8_outputs) and args.precision != "int8":
        parser().error("--max-drop and --int8-outputs go with --precision int8")
    if args.max_drop is not None and not 0 <= args.max_drop <= 1:
        parser().error(f"--max-drop must lie in [0, 1], got {args.max_drop:g}")
    if (args.check or args.tolerance) and FORMATS[args.format].runs_elsewhere:
        parser().error(f"--check and --tolerance do not go with {args.format}, which is not run here")
    if args.batch != "dynamic" and not (args.batch.isdigit() and int(args.batch) > 0):
        parser().error(f"--batch must be a number from 1 or 'dynamic', got {args.batch}")


def _options(args: argparse.Namespace) -> ExportOptions:
    from effdet.deployment.export import ExportOptions

    return ExportOptions(
        format=args.format,
        image_size=None if args.size is None else image_size(args.size),
        batch=None if args.batch == "dynamic" else int(args.batch),
        dynamic_size=args.dynamic_size,
        precision=_written(args.precision),
        postprocess=args.postprocess,
        score_threshold=args.score_threshold,
        max_candidates=args.max_candidates,
    )


def _written(precision: str) -> Precision:
    """Return the precision of the file: fp32 for auto, which leaves the choice to the machine that loads it."""
    return "fp32" if precision == AUTO else cast("Precision", precision)


def _bf16_drop(args: argparse.Namespace, model: EfficientDet, options: ExportOptions) -> float | None:
    """Return how much AP bf16 costs; None, with a line, on a processor that cannot tell."""
    from effdet.deployment.precision import openvino_has_bf16
    from effdet.runs.bf16_drop import measure_bf16_drop

    if not openvino_has_bf16():
        reason = "this processor has no instructions for it that OpenVINO uses"
        print(f"what bf16 costs is not measured, as {reason}", file=sys.stderr)
        return None
    return measure_bf16_drop(model, args.check, options)


def _default_file(weights: str, precision: str, suffix: str) -> Path:
    """Return the file beside the weights; a name of published weights gives a file in the working folder."""
    weights_file = Path(weights)
    stem = weights_file.with_suffix("") if weights_file.exists() else Path(weights_file.name.replace(":", "-"))
    return stem.with_name(stem.name + ("" if precision == "fp32" else f"-{precision}") + suffix)


def _quantisation(args: argparse.Namespace, model: EfficientDet, options: ExportOptions) -> Quantisation:
    """Return the network inputs made from the calibration images, and the limit on the loss of AP.

    Raises:
        ValueError: If there are too few images, or none to measure the AP on.
    """
    from effdet.deployment.quantise import MIN_IMAGES, Quantisation
    from effdet.detector.batches import make_batch

    step, inputs, count = options.batch or 1, [], 0
    images = islice(_calibration_images(args.calibration, model.letterbox.pixels), NUM_CALIBRATION)
    while chunk := list(islice(images, step)):
        count += len(chunk)
        batch = make_batch((chunk * step)[:step], model.letterbox)
        inputs.append(model.network_input(batch).contiguous().numpy())
    if count < MIN_IMAGES:
        raise ValueError(f"calibration needs {MIN_IMAGES} images or more, got {count} in {args.calibration}")
    control = None if args.max_drop is None else _accuracy_control(args, model, options)
    print(f"calibrating on {count} images", file=sys.stderr)
    return Quantisation(inputs=inputs, float_outputs=not args.int8_outputs, control=control)


def _accuracy_control(args: argparse.Namespace, model: EfficientDet, options: ExportOptions) -> AccuracyControl:
    """Return a function that measures the AP of a graph on the validation split, and the largest drop allowed."""
    from effdet.deployment.detector import DeployedDetector
    from effdet.deployment.export import describe
    from effdet.deployment.quantise import AccuracyControl
    from effdet.runs.data import dataset_of, leave_out_unreadable
    from effdet.runs.evaluate import evaluate_dataset

    dataset, _ = leave_out_unreadable(dataset_of(args.calibration, "val"))
    description = describe(model, options)

    def score(runtime: Runtime, indices: Sequence[int]) -> float:
        part = dataset.without(set(range(len(dataset))) - set(indices))
        detector = DeployedDetector(description, runtime)
        ap = evaluate_dataset(detector, part, batch_size=options.batch or 1, workers=0).ap
        if len(part) == len(dataset):
            print(f"AP {ap:.4f} on {len(part)} images", file=sys.stderr)
        return ap

    return AccuracyControl(score=score, num_images=len(dataset), max_drop=args.max_drop)


def _calibration_images(data: str, pixels: PixelFormat) -> Iterator[tuple[str, np.ndarray]]:
    """Yield images of a folder or a glob pattern, or evenly spaced images of the train split of a data set.

    They have the channels and levels that the network takes.
    """
    from effdet.images.reading import ImageError
    from effdet.runs.data import dataset_of

    try:
        dataset = dataset_of(data, "train")
    except (ValueError, OSError):
        whole = _undivided(data)
        if whole is None:
            return (yield from _photos(data, pixels))
        dataset = whole
    dataset = replace(dataset, pixels=pixels)
    stride = max(1, len(dataset) // NUM_CALIBRATION)
    for index in range(0, len(dataset), stride):
        try:
            yield str(dataset.path(index)), dataset.read(index)
        except (ImageError, OSError) as error:
            print(f"left out: {error}", file=sys.stderr)


def _photos(source: str, pixels: PixelFormat) -> Iterator[tuple[str, np.ndarray]]:
    """Return an iterator over the images of a source, in the form that the network takes."""
    from effdet.images.sources import iterate_pictures

    pictures = iterate_pictures(source, pixels.read, convert=pixels.convert)
    return ((picture.name, picture.pixels) for picture in pictures)


def _undivided(data: str) -> Dataset | None:
    """Return a data set that has no parts; calibration needs no boxes. None for a folder of mere photos."""
    from effdet.data.formats import read_parts

    try:
        return read_parts(data).get("all")
    except (ValueError, OSError):
        return None


def _compare(args: argparse.Namespace, model: Any, exported: Any, file: Path) -> tuple[Comparison, float | None]:
    """Return how far detections and, without NMS inside, raw outputs of a file are from those of PyTorch on photos.

    Raises:
        ValueError: If a detection differs by more than the tolerance; the message names it.
    """
    from effdet.deployment.compare import TOLERANCES, compare, raw_difference

    pixels = model.letterbox.pixels
    tolerance = TOLERANCES[_written(args.precision)]
    if args.tolerance is not None:
        tolerance = replace(tolerance, score=args.tolerance[0], iou=args.tolerance[1])
    if args.precision == AUTO:
        photos = _calibration_images(args.check, pixels)
    elif args.check is not None:
        photos = _photos(args.check, pixels)
    elif args.calibration is not None:
        photos = _calibration_images(args.calibration, pixels)
    else:
        print("compared on a drawn image, as --check names no photos", file=sys.stderr)
        photos = _drawn_images(pixels)
    chosen = list(islice(photos, NUM_CHECKED))
    comparison = compare(model, exported, chosen, min_score=tolerance.min_score, at_least=tolerance.at_least)
    comparison.check(tolerance, str(file))
    is_raw = exported.description.outputs == "raw" and chosen
    return comparison, raw_difference(model, exported, chosen) if is_raw else None


def _drawn_images(pixels: PixelFormat) -> Iterator[tuple[str, np.ndarray]]:
    """Yield a drawn image; where the network takes other than three channels, they repeat red, green and blue."""
    import numpy as np

    from effdet.data.shapes import draw_scene

    image = draw_scene(np.random.default_rng(0), (480, 640), (2, 5, 8)).image
    levels = image[..., np.arange(pixels.channels) % 3].astype(pixels.dtype)
    yield "the drawn image", np.ascontiguousarray(levels)
