"""Check a data set, draw the demo set, download COCO.

effdet inspect_data check data/coco --image-size 512
effdet inspect_data demo --root data/demo
effdet inspect_data download coco2017 --root data/coco
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.commands import program


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``inspect_data``."""
    name = program("inspect_data")
    result = argparse.ArgumentParser(prog=name, description="Check a data set, draw the demo set, download COCO.")
    actions = result.add_subparsers(dest="action", required=True, metavar="ACTION", prog=name)

    check = actions.add_parser("check", help="look for mistakes in a data set", description=_CHECK)
    check.add_argument("data", metavar="DATA", help="folder in a known layout, COCO JSON file, or config file (.yaml)")
    check.add_argument(
        "--image-size",
        nargs="+",
        type=int,
        metavar="PIXELS",
        help="network input, one side or height and width; adds the check that anchors reach every box",
    )
    check.add_argument(
        "--anchor-scale", type=float, default=4.0, help="smallest anchor / stride (default: 4, as D0-D5)"
    )
    check.add_argument("--json", action="store_true", help="print the findings as JSON")

    demo = actions.add_parser("demo", help="draw the demo set", description=_DEMO)
    demo.add_argument("--root", type=Path, default=Path("data/demo"), help="folder to write (default: data/demo)")
    demo.add_argument("--train", type=int, default=400, metavar="N", help="training images (default: 400)")
    demo.add_argument("--val", type=int, default=100, metavar="N", help="held-out images (default: 100)")
    demo.add_argument("--seed", type=int, default=0, help="another seed draws other pictures (default: 0)")

    download = actions.add_parser("download", help="download a public data set", description=_DOWNLOAD)
    download.add_argument("dataset", choices=["coco2017"], metavar="NAME", help="coco2017")
    download.add_argument("--root", type=Path, default=Path("data/coco"), help="folder to fill (default: data/coco)")
    download.add_argument("--base-url", default=None, metavar="URL", help="a mirror of images.cocodataset.org")
    download.add_argument("--delete-archives", action="store_true", help="remove each .zip file once it is unpacked")
    return result


_CHECK = "Look for mistakes in a data set. Exit status 0: usable, perhaps with warnings; 1: errors were found."
_DEMO = "Draw the demo set: JPEG files and COCO JSON, the same bytes for the same seed. A finished set is left alone."
_DOWNLOAD = "Download COCO 2017 (20 GB, and as much again unpacked). After an interruption the same command goes on."


def run(args: argparse.Namespace) -> int:
    """Do what ``args.action`` says and return the exit status."""
    return {"check": _check, "demo": _demo, "download": _download}[args.action](args)


def _demo(args: argparse.Namespace) -> int:
    from effdet.data.demo import draw_demo

    draw_demo(args.root, num_train=args.train, num_val=args.val, seed=args.seed)
    return 0


def _download(args: argparse.Namespace) -> int:
    raise ValueError("not yet")


def _check(args: argparse.Namespace) -> int:
    raise ValueError("not yet")
