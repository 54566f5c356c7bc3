"""Print the 12 COCO numbers and the AP of every class, of a model or of a results file.

effdet evaluate --weights runs/demo/best.safetensors --data data/demo
effdet evaluate --predictions results.json --annotations val.json
"""

from __future__ import annotations

import argparse
import logging
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from effdet.commands import program
from effdet.commands.model_options import add_model_options, add_view_options, load_model, views_of
from effdet.commands.output import STDOUT, prepare_output, write_json
from effdet.commands.unused_options import refuse_unused

if TYPE_CHECKING:
    from effdet.evaluation.coco import CocoMetrics

logger = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``evaluate``."""
    result = argparse.ArgumentParser(
        prog=program("evaluate"),
        description="Print the 12 COCO numbers and the AP of every class: of a model (--weights and --data), "
        "or of a results file (--predictions and --annotations).",
    )
    what = result.add_mutually_exclusive_group(required=True)
    what.add_argument("--weights", metavar="W", help="weights, such as best.safetensors of a run, or an export")
    what.add_argument("--predictions", type=Path, metavar="FILE", help="results in COCO's JSON format")
    result.add_argument("--annotations", type=Path, metavar="FILE", help="COCO JSON that --predictions is scored by")
    result.add_argument(
        "--data", metavar="DATA", help="data set in any format that docs/how-to/your_data.md lists, or config (.yaml)"
    )
    result.add_argument("--split", choices=("train", "val", "test"), help="part of DATA (default: val)")
    result.add_argument("--json", metavar="FILE", help="write the numbers as JSON; - is stdout")
    result.add_argument("--save-results", metavar="FILE", help="write the detections in COCO's format; - is stdout")
    result.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (default: 8)")
    result.add_argument("--workers", type=int, metavar="N", help="processes that read images (default: by the machine)")
    result.add_argument("--backend", choices=("auto", "pycocotools", "hotcoco"), default="auto", help=_BACKEND)
    result.add_argument("--as", dest="as_program", choices=("mediapipe",), help=_AS)
    add_view_options(result)
    add_model_options(result)
    result.add_argument("--score-threshold", type=float, metavar="SCORE", help="smallest score that counts")
    return result


_FOR_RESULTS = ("predictions", "annotations", "json", "backend", "weights", "data")
_AS = "resize photos, do NMS and round boxes as this program does, to see the AP it will reach (docs/how-to/edge.md)"
_BACKEND = "what computes the numbers, which are the same (default: auto, hotcoco when it is installed)"


def run(args: argparse.Namespace) -> int:
    """Evaluate, print, and return the exit status."""
    _check(args)
    outputs = [path for path in (args.json, args.save_results) if path]
    for path in outputs:
        prepare_output(path)

    metrics, extra = _evaluate_file(args) if args.predictions else _evaluate_model(args)

    print_metrics(metrics, sys.stderr if STDOUT in outputs else sys.stdout)
    if args.json:
        write_json({**metrics.to_dict(), **extra}, args.json, indent=2)
    return 0


def _check(args: argparse.Namespace) -> None:
    needed, useless = ("annotations", "data") if args.predictions else ("data", "annotations")
    mode = "--predictions" if args.predictions else "--weights"
    if getattr(args, needed) is None:
        parser().error(f"{mode} needs --{needed}")
    if getattr(args, useless) is not None:
        parser().error(f"{mode} goes with --{needed}, not with --{useless}")
    if args.predictions:
        refuse_unused(
            parser(),
            args,
            used=_FOR_RESULTS,
            reason="goes with --weights, not with --predictions",
            options={"as_program": "--as"},
        )
    if args.json == args.save_results == STDOUT:
        parser().error("--json and --save-results cannot both go to stdout")
    if args.batch_size < 1:
        parser().error(f"--batch-size must be 1 or more, got {args.batch_size}")
    if args.workers is not None and args.workers < 0:
        parser().error(f"--workers must be 0 or more, got {args.workers}")


def _evaluate_file(args: argparse.Namespace) -> tuple[CocoMetrics, dict[str, Any]]:
    from effdet.evaluation.coco import evaluate_coco

    metrics = evaluate_coco(args.annotations, args.predictions, backend=args.backend)
    return metrics, {"annotations": str(args.annotations), "predictions": str(args.predictions)}


def _evaluate_model(args: argparse.Namespace) -> tuple[CocoMetrics, dict[str, Any]]:
    from effdet.runs.data import dataset_of
    from effdet.runs.evaluate import evaluate_with_results

    views = views_of(args)
    dataset = dataset_of(args.data, args.split or "val")
    model = load_model(args)
    if args.as_program == "mediapipe":
        from effdet.deployment.mediapipe import as_mediapipe

        model = as_mediapipe(model)
    done = evaluate_with_results(
        model,
        dataset,
        batch_size=args.batch_size,
        workers=args.workers,
        backend=args.backend,
        tiles=views.tiles,
        overlap=views.overlap,
        flip=views.flip,
        scales=views.scales,
    )
    count = len(done.dataset)
    logger.info(
        "%d images in %.1f s (%.1f images/s) at %d×%d on %s",
        *(count, done.seconds, count / done.seconds, *model.image_size, model.device),
    )
    if args.save_results:
        write_json(done.results.to_rows(), args.save_results)
    return done.metrics, {
        "annotations": str(done.dataset.annotation_file),
        "weights": str(args.weights),
        "images": count,
        "unreadable": list(done.unreadable),
        "seconds": done.seconds,
    }


_LINES = (
    ("Precision", "AP", "0.50:0.95", "all", 100),
    ("Precision", "AP", "0.50", "all", 100),
    ("Precision", "AP", "0.75", "all", 100),
    ("Precision", "AP", "0.50:0.95", "small", 100),
    ("Precision", "AP", "0.50:0.95", "medium", 100),
    ("Precision", "AP", "0.50:0.95", "large", 100),
    ("Recall", "AR", "0.50:0.95", "all", 1),
    ("Recall", "AR", "0.50:0.95", "all", 10),
    ("Recall", "AR", "0.50:0.95", "all", 100),
    ("Recall", "AR", "0.50:0.95", "small", 100),
    ("Recall", "AR", "0.50:0.95", "medium", 100),
    ("Recall", "AR", "0.50:0.95", "large", 100),
)


def print_metrics(metrics: CocoMetrics, file: TextIO) -> None:
    """Print the 12 numbers as pycocotools words them, with one more digit, and the AP of every class."""
    for (what, short, iou, area, limit), value in zip(_LINES, metrics.numbers(), strict=True):
        head = f" Average {what:<9}  ({short}) @[ IoU={iou:<9} | area={area:>6} | maxDets={limit:>3} ]"
        print(f"{head} = {value:.4f}", file=file)
    print(file=file)
    rows = [(name, "-" if math.isnan(ap) else f"{ap:.4f}") for name, ap in metrics.per_class.items()]
    if file.isatty():
        _print_table(rows, file)
        return
    width = max([len("class"), *(len(name) for name, _ in rows)])
    for name, ap in [("class", "    AP"), *rows]:
        print(f"{name:<{width}}  {ap:>6}", file=file)


def _print_table(rows: list[tuple[str, str]], file: TextIO) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("class", title="AP by class")
    table.add_column("AP", justify="right")
    for name, ap in rows:
        table.add_row(Text(name), ap)  # Text: brackets in a name are not markup
    Console(file=file).print(table)
