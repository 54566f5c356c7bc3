"""Detect objects in images, folders or videos: drawn pictures, and the detections in COCO's format.

effdet predict --weights runs/demo/best.safetensors photo.jpg photos/ "more/*.png" clip.mp4 --out found
"""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.commands import program
from effdet.commands.model_options import add_model_options, add_view_options, load_model, views_of
from effdet.commands.output import STDOUT, prepare_output

if TYPE_CHECKING:
    from effdet.detector.prediction import Detector
    from effdet.detector.views import Views


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``predict``."""
    result = argparse.ArgumentParser(
        prog=program("predict"),
        description="Detect objects in images, folders, glob patterns or videos. DIR gets the drawn pictures, "
        "results.json (COCO's results format) and images.json (which image_id is which file).",
    )
    result.add_argument("sources", nargs="+", metavar="SOURCE", help=_SOURCE)
    result.add_argument("--weights", required=True, metavar="W", help="weights, or an exported file")
    result.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for what is found")
    result.add_argument("--score-threshold", type=float, metavar="SCORE", help=_THRESHOLD)
    result.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at a time (default: 1)")
    result.add_argument("--json", metavar="FILE", help="write all detections, boxes as xyxy, as JSON; - is stdout")
    result.add_argument("--annotations", type=Path, metavar="FILE", help=_ANNOTATIONS)
    result.add_argument("--classes", nargs="+", metavar="NAME", help="report these classes only")
    result.add_argument("--resume", action="store_true", help=_RESUME)
    result.add_argument("--no-draw", action="store_true", help="write no pictures and videos, only the JSON files")
    add_view_options(result)
    add_model_options(result)
    return result


_SOURCE = "image, folder, glob pattern, video, http(s) address, rtsp stream or webcam:0"
_RESUME = (
    "write the results of each image as they come, and go on with what an earlier prediction into DIR has left; always "
    "so under torchrun, where the processes share the images. Sources may then also be tar archives, folders at an "
    "address such as s3://bucket/photos, and .txt files that list sources. Nothing is drawn"
)
_THRESHOLD = (
    "smallest score that is reported (default: what a report has stored in the weights, else 0.3; to evaluate "
    "results.json afterwards take 0.001)"
)
_ANNOTATIONS = "COCO JSON that lists the images: results.json gets its image and category ids"


def run(args: argparse.Namespace) -> int:
    """Predict, draw, and return the exit status: 1 if a source could not be read."""
    if args.batch_size < 1:
        parser().error(f"--batch-size must be 1 or more, got {args.batch_size}")
    if is_shared(args) and args.json:
        parser().error("--json is not written with --resume or under torchrun; DIR/results.json has all detections")
    if args.score_threshold is not None and not 0 <= args.score_threshold <= 1:
        parser().error(f"--score-threshold must lie in [0, 1], got {args.score_threshold}")

    views = views_of(args)
    model = load_model(args)
    _use_threshold(model, args)
    if is_shared(args):
        return _run_shared(args, model, views)
    if args.json:
        prepare_output(args.json)
    from effdet.runs.predict import predict_to_folder

    to_stdout = args.json == STDOUT
    done = predict_to_folder(
        model,
        args.sources,
        args.out,
        score_threshold=args.score_threshold,
        batch_size=args.batch_size,
        views=views,
        classes=args.classes,
        draw=not args.no_draw,
        annotations=args.annotations,
        details=sys.stdout if to_stdout else Path(args.json) if args.json else None,
        report=lambda line: print(line, file=sys.stderr if to_stdout else sys.stdout, flush=True),
        complain=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )
    if done.failures:
        print(f"{len(done.failures)} of the sources could not be read", file=sys.stderr)
    return 1 if done.failures else 0


def _use_threshold(model: Detector, args: argparse.Namespace) -> None:
    """Choose the threshold that was not given, and let NMS know it: what is below needs no NMS."""
    from effdet.detector.prediction import choose_threshold

    args.score_threshold = choose_threshold(model, args.score_threshold)
    if args.score_threshold > model.settings.score_threshold:
        model.settings = replace(model.settings, score_threshold=args.score_threshold)


def is_shared(args: argparse.Namespace) -> bool:
    """Return whether results are written image by image: under torchrun, or because the user asked for it."""
    return args.resume or "WORLD_SIZE" in os.environ


def _run_shared(args: argparse.Namespace, model: Detector, views: Views) -> int:
    from effdet.runs.shared_prediction import predict_shared

    done = predict_shared(
        model,
        args.sources,
        args.out,
        rank=int(os.environ.get("RANK", 0)),
        world_size=int(os.environ.get("WORLD_SIZE", 1)),
        score_threshold=args.score_threshold,
        batch_size=args.batch_size,
        views=views,
        classes=args.classes,
        annotations=args.annotations,
        report=lambda line: print(line, flush=True),
        complain=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )
    if not done.num_images:
        print("the sources hold no image", file=sys.stderr)
    return 0 if done.num_images else 1
