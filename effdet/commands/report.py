"""Write a page that shows what a detector learned, or compare several runs.

effdet report runs/blood
effdet report --weights blood.safetensors --data photos
effdet report runs/first runs/second
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.commands import program
from effdet.commands.model_options import add_model_options, add_view_options, load_model, views_of
from effdet.commands.unused_options import refuse_unused

if TYPE_CHECKING:
    from effdet.runs.report import Report


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``report``."""
    result = argparse.ArgumentParser(
        prog=program("report"),
        description="Write report.html, one file that opens without a network, and report.json with the same numbers: "
        "of a run, of weights on a data set, or of a results file. Several runs are compared with the first one.",
    )
    result.add_argument("runs", nargs="*", type=Path, metavar="RUN", help="folder of a run")
    result.add_argument("--weights", metavar="W", help="weights or an export; with --data")
    result.add_argument("--predictions", type=Path, metavar="FILE", help="results in COCO's JSON format")
    result.add_argument("--annotations", type=Path, metavar="FILE", help="COCO JSON that --predictions is scored by")
    result.add_argument("--data", metavar="DATA", help="data set in any format, or config (.yaml)")
    result.add_argument("--split", choices=("train", "val", "test"), default="val", help="part of DATA (default: val)")
    result.add_argument("--out", type=Path, metavar="DIR", help=_OUT)
    result.add_argument("--max-images", type=int, default=200, metavar="N", help="pictures at most (default: 200)")
    result.add_argument("--store-threshold", action="store_true", help=_STORE)
    result.add_argument("--batch-size", type=int, default=8, metavar="N", help="images at a time (default: 8)")
    result.add_argument("--workers", type=int, metavar="N", help="processes that read images (default: by the machine)")
    add_view_options(result)
    add_model_options(result)
    result.set_defaults(score_threshold=None)  # as the weights were saved
    return result


_OUT = "folder for the files (default: the folder of the run; otherwise ./report)"
_STORE = "write the recommended threshold into the weights, as the default of predict"


def run(args: argparse.Namespace) -> int:
    """Write the report and return the exit status."""
    _check(args)
    done = _write(args)
    print(done.page)
    if args.store_threshold and done.threshold is not None:
        from effdet.runs.report import store_threshold

        store_threshold(args.weights or args.runs[0] / "best.safetensors", done.threshold)
        print(f"predict now takes the threshold {done.threshold:g}", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> None:
    sources = [bool(args.runs), args.weights is not None, args.predictions is not None]
    if sum(sources) != 1:
        parser().error(
            "name one of: folders of runs, --weights with --data, --predictions with --annotations or --data"
        )
    if args.weights and args.data is None:
        parser().error("--weights needs --data")
    if args.predictions and (args.annotations is None) == (args.data is None):
        parser().error("--predictions needs either --annotations or --data")
    if args.annotations and not args.predictions:
        parser().error("--annotations goes with --predictions")
    if args.runs and args.data:
        parser().error("--data goes with --weights or --predictions; a run is reported on its own validation images")
    if args.store_threshold and (args.predictions or len(args.runs) > 1):
        parser().error("--store-threshold goes with one run or --weights")
    used, of_what = _used_options(args)
    if used is not None:
        refuse_unused(parser(), args, used=used, reason=f"has no effect on the report of {of_what}")
    for name in ("batch_size", "max_images"):
        if getattr(args, name) < 1:
            parser().error(f"--{name.replace('_', '-')} must be 1 or more, got {getattr(args, name)}")


def _used_options(args: argparse.Namespace) -> tuple[tuple[str, ...] | None, str]:
    """Return the options that have an effect, None if all have, and what the report is of."""
    if len(args.runs) > 1:
        return ("runs", "out", "device"), "several runs"
    if args.runs:
        return ("runs", "out", "device", "max_images", "store_threshold"), "a run, which its config says"
    if args.annotations:
        return ("runs", "predictions", "annotations", "out", "max_images"), "a results file"
    if args.predictions:
        return ("runs", "predictions", "data", "split", "out", "max_images"), "a results file"
    return None, "weights"


def _write(args: argparse.Namespace) -> Report:
    from effdet.runs.report import check_own_weights, compare_runs, report_model, report_results, report_run

    out = args.out or Path("report")
    if len(args.runs) > 1:
        return compare_runs(args.runs, out, device=args.device)
    if args.runs:
        return report_run(args.runs[0], out=args.out, device=args.device, max_images=args.max_images)
    from effdet.evaluation.coco import read_truth
    from effdet.runs.data import dataset_of

    dataset = read_truth(args.annotations) if args.annotations else dataset_of(args.data, args.split)
    if args.predictions:
        return report_results(args.predictions, dataset, out, title=args.predictions.name, max_images=args.max_images)
    views = views_of(args)
    if args.store_threshold:
        check_own_weights(args.weights)  # an error now costs no time
    return report_model(
        load_model(args),
        dataset,
        out,
        batch_size=args.batch_size,
        workers=args.workers,
        views=None if views.is_plain else views,
        max_images=args.max_images,
    )
