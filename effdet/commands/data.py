"""Check a data set, show it, write it in another format, divide it, draw the demo set, download COCO.

effdet data check data/coco --image-size 512
effdet data show photos --out shown
effdet data convert data/coco data/yolo --to yolo
effdet data split photos --val 0.2 --test 0.1
effdet data demo --root data/demo
effdet data download coco2017 --root data/coco
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.commands import program
from effdet.commands.model_options import image_size
from effdet.commands.output import STDOUT, write_json
from effdet.commands.overrides import OverridesParser

if TYPE_CHECKING:
    from effdet.data.doctor.examination import Examination
    from effdet.data.findings import Finding


def parser(command: str = "data") -> argparse.ArgumentParser:
    """Return the parser of ``data``; ``command`` is the name that it goes by."""
    name = program(command)
    result = argparse.ArgumentParser(prog=name, description=_DATA)
    actions = result.add_subparsers(
        dest="action", required=True, metavar="ACTION", prog=name, parser_class=OverridesParser
    )

    check = actions.add_parser("check", help="look for mistakes in a data set", description=_CHECK)
    check.add_argument("data", metavar="DATA", help=f"{_ANY_DATA}, or config file (.yaml)")
    check.add_overrides("the config")
    check.add_argument("--config", metavar="CONFIG", help=_CONFIG_HELP)
    check.add_argument(
        "--image-size", nargs="+", type=int, metavar="PIXELS", help="network input, one side or height and width"
    )
    check.add_argument("--anchor-scale", type=float, metavar="SCALE", help="smallest anchor / stride")
    check.add_argument("--quick", action="store_true", help="do not open the images, only see whether they exist")
    check.add_argument(
        "--no-estimate", action="store_true", help="do not measure training steps to estimate time and memory"
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")
    check.add_argument("--fix", metavar="DST", help="write a cleaned copy to this new folder; DATA stays as it is")

    show = actions.add_parser("show", help="draw images with their boxes, and plots", description=_SHOW)
    show.add_argument("data", metavar="DATA", help=f"{_ANY_DATA}, or config file (.yaml)")
    show.add_overrides("the config")
    show.add_argument("--config", metavar="CONFIG", help=_CONFIG_HELP)
    show.add_argument("--out", default="shown", metavar="DIR", help="folder of the pictures (default: shown)")
    show.add_argument("--images", type=int, default=8, metavar="N", help="images on the contact sheet (default: 8)")
    show.add_argument("--json", action="store_true", help="print the names of the files as JSON")

    convert = actions.add_parser("convert", help="write a data set in another format", description=_CONVERT)
    convert.add_argument("data", metavar="SRC", help=_ANY_DATA)
    convert.add_argument("folder", metavar="DST", help="new or empty folder")
    convert.add_argument("--to", required=True, choices=_WRITABLE, help="format")
    convert.add_argument("--copy", action="store_true", help="copy the image files instead of linking to them")
    convert.add_argument("--json", action="store_true", help="print what was written as JSON")

    split = actions.add_parser("split", help="divide a data set into train, val and test", description=_SPLIT)
    split.add_argument("data", metavar="DATA", help=_ANY_DATA)
    split.add_argument(
        "--val", type=float, required=True, metavar="PART", help="part of the images to validate on: 0.2"
    )
    split.add_argument("--test", type=float, default=0.0, metavar="PART", help="part to test on (default: none)")
    split.add_argument("--seed", type=int, default=0, help="another seed divides in another way (default: 0)")
    split.add_argument(
        "--likeness",
        choices=("similar", "exact"),
        default="similar",
        help="which images stay together: those that look the same, or files with the same bytes (default: similar)",
    )
    split.add_argument("--json", action="store_true", help="print the parts as JSON")

    demo = actions.add_parser("demo", help="draw the demo set", description=_DEMO)
    demo.add_argument("--root", type=Path, default=Path("data/demo"), help="folder to write (default: data/demo)")
    demo.add_argument("--train", type=int, default=400, metavar="N", help="training images (default: 400)")
    demo.add_argument("--val", type=int, default=100, metavar="N", help="held-out images (default: 100)")
    demo.add_argument("--seed", type=int, default=0, help="another seed draws other pictures (default: 0)")

    download = actions.add_parser("download", help="download a public data set", description=_DOWNLOAD)
    download.add_argument("dataset", choices=["coco2017"], metavar="NAME", help="coco2017")
    download.add_argument(
        "--split", choices=["all", "val"], default="all", help="val: 5,000 images, 1 GB (default: all)"
    )
    download.add_argument("--root", type=Path, default=Path("data/coco"), help="folder to fill (default: data/coco)")
    download.add_argument("--base-url", default=None, metavar="URL", help="a mirror of images.cocodataset.org")
    download.add_argument("--delete-archives", action="store_true", help="remove each .zip file once it is unpacked")
    return result


_WRITABLE = ("coco", "yolo", "voc", "csv", "openimages", "shards")
_DATA = "Check a data set, show it, write it in another format, divide it; draw the demo set, download COCO."
_ANY_DATA = "folder or annotation file in any format that docs/how-to/your_data.md lists"
_CONFIG_HELP = "what will be trained (default: DATA if it is a config, else configs/custom.yaml)"
_SHOW = (
    "Draw a data set: images as annotated, and as augmentation shows them to the network (contact_sheet.png), plots of "
    "classes, sizes, places and shapes of the boxes (boxes.png), and a page with both (index.html)."
)
_CONVERT = (
    "Write a data set to a new folder in another format. Image files become hard links to the originals where the file "
    "system allows it, else copies. docs/how-to/your_data.md says what each format cannot hold."
)
_SPLIT = (
    "Divide a data set: write which image belongs to train, val and test to splits.json beside the annotations, which "
    "stay as they are. Images that look the same stay in one part, and classes are spread evenly. A set that has train "
    "but no val gets val out of train."
)
_CHECK = "Look for mistakes in a data set. Exit status 0: usable, perhaps with warnings; 1: errors were found."
_DEMO = "Draw the demo set: JPEG files and COCO JSON, the same bytes for the same seed. A finished set is left alone."
_DOWNLOAD = "Download COCO 2017 (20 GB, and as much again unpacked). After an interruption the same command goes on."


def run(args: argparse.Namespace) -> int:
    """Do what ``args.action`` says and return the exit status."""
    actions = {
        "check": _check,
        "show": _show,
        "convert": _convert,
        "split": _split,
        "demo": _demo,
        "download": _download,
    }
    return actions[args.action](args)


def _convert(args: argparse.Namespace) -> int:
    from effdet.data.conversion import convert

    done = convert(args.data, args.folder, to=args.to, images="copy" if args.copy else "link")
    boxes = {part: len(dataset.boxes_xywh) for part, dataset in done.parts.items()}
    images = {part: len(dataset) for part, dataset in done.parts.items()}
    if args.json:
        result = {"folder": args.folder, "images": images, "boxes": boxes, "files": done.images, "lost": done.lost}
        write_json(result, STDOUT, indent=1)
        return 0
    for part in images:
        print(f"{part}: {images[part]:,} images, {boxes[part]:,} boxes")
    files = ", ".join(f"{count:,} {what}" for what, count in done.images.items() if count)
    print(f"image files: {files}")
    for text in done.lost:
        print(f"not held by this format: {text}")
    return 0


def _show(args: argparse.Namespace) -> int:
    from effdet.runs.show_data import show_data

    shown = show_data(args.data, args.out, args.config, args.overrides, images=args.images)
    if args.json:
        write_json({name: str(path) for name, path in vars(shown).items()}, STDOUT, indent=1)
    else:
        print(f"written: {shown.page}, {shown.contact_sheet}, {shown.plots}")
    return 0


def _split(args: argparse.Namespace) -> int:
    from effdet.data.splitting import split_data
    from effdet.progress import ProgressBar

    with ProgressBar(seconds_between_lines=10) as progress:
        done = split_data(
            args.data, val=args.val, test=args.test, seed=args.seed, likeness=args.likeness, report=progress
        )
    if args.json:
        alike = {"groups_of_alike_images": done.num_groups, "images_in_them": done.num_grouped}
        write_json({"file": str(done.file), "parts": done.rows(), **alike}, STDOUT, indent=1)
        return 0
    for row in done.rows():
        boxes = ", ".join(f"{name} {count:,}" for name, count in row["boxes"].items())
        print(f"{row['part']}: {row['images']:,} images; boxes: {boxes}")
    print(f"{done.num_grouped:,} images look like another one, in {done.num_groups:,} groups; a group stays together")
    print(f"written to {done.file}")
    return 0


def _demo(args: argparse.Namespace) -> int:
    from effdet.data.demo import draw_demo

    drawn = draw_demo(args.root, num_train=args.train, num_val=args.val, seed=args.seed)
    print(f"{args.root}: {'drawn' if drawn else 'is there already'}", file=sys.stderr)
    return 0


def _download(args: argparse.Namespace) -> int:
    from effdet.data.download import COCO_2017, COCO_URL, download
    from effdet.progress import ProgressBar

    with ProgressBar(seconds_between_lines=10) as progress:
        new = download(
            COCO_2017[args.split],
            args.root,
            base_url=args.base_url or COCO_URL,
            delete_archives=args.delete_archives,
            report=progress,
        )
    print(f"{args.root}: {'complete' if new else 'was complete already'}", file=sys.stderr)
    return 0


def _check(args: argparse.Namespace) -> int:
    from effdet.progress import ProgressBar
    from effdet.runs.check_data import check_data

    options: dict[str, Any] = {"config": args.config, "overrides": _overrides(args), "quick": args.quick}
    options["estimate"] = not args.no_estimate and args.fix is None
    with ProgressBar(seconds_between_lines=10) as progress:
        result = check_data(args.data, **options, report=progress)
    if not args.json:
        print(_as_text(result))
    if args.fix is not None:
        return _fix(args, options, result)
    if args.json:
        write_json(result.to_dict(), STDOUT, indent=1)
    return 1 if result.has_errors else 0


def _fix(args: argparse.Namespace, options: dict[str, Any], result: Examination) -> int:
    """Write a cleaned copy, check it, print what was done, and return the exit status."""
    from effdet.progress import ProgressBar
    from effdet.runs.check_data import check_data, clean_data

    with ProgressBar(seconds_between_lines=10) as progress:
        cleaned = clean_data(args.data, args.fix, report=progress)
        left = check_data(args.fix, **{**options, "estimate": not args.no_estimate}, report=progress)
    if args.json:
        fixed = {**cleaned.to_dict(), "check": left.to_dict()}
        write_json({**result.to_dict(), "fixed": fixed}, STDOUT, indent=1)
    else:
        print(f"\n{cleaned.folder} has a cleaned copy in {cleaned.format}:")
        print(*map(_in_words, cleaned.changes), sep="\n", end="\n\n")
        print(_as_text(left))
    return 1 if left.has_errors else 0


def _in_words(finding: Finding) -> str:
    return f"{finding.severity:8}{finding.split + ': ' if finding.split else ''}{finding}"


def _overrides(args: argparse.Namespace) -> list[str]:
    """Return the overrides of a config that the options are short forms of, and those that are given."""
    overrides = []
    if args.image_size:
        height, width = image_size(args.image_size)
        overrides += [f"data.image_size=[{height},{width}]"]
    if args.anchor_scale is not None:
        overrides.append(f"model.architecture.anchor_scale={args.anchor_scale}")
    return [*overrides, *args.overrides]


def _as_text(result: Examination) -> str:
    lines = []
    for split in result.splits:
        sides = "/".join(f"{side:g}" for side in split["box_side_percentiles"])
        lines += [
            f"{split['file']}",
            f"  {split['images']:,} images, {split['images_without_boxes']:,} of them without boxes; "
            f"{split['boxes']:,} boxes, {split['crowd_boxes']:,} of them crowds",
            f"  side of a box √(width·height), 5th/50th/95th percentile: {sides or 'no boxes'} pixels",
            f"  {len(split['boxes_of_class'])} classes: "
            + ", ".join(f"{name} {count:,}" for name, count in split["boxes_of_class"].items()),
        ]
    if result.network is not None:
        height, width = result.network.image_size
        reached = "" if result.anchors is None else f"; anchors reach {result.anchors.recall:.1%} of the boxes"
        lines.append(f"network: {result.network.name}, input {height}×{width}{reached}")
    for finding in result.findings:
        lines.append(_in_words(finding))
    counts = Counter(finding.severity for finding in result.findings)
    return "\n".join([*lines, f"{counts['error']} errors, {counts['warning']} warnings"])
