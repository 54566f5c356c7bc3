"""Serve a page on this machine: drop photos or use the camera, move the threshold, see what a detector finds.

effdet app --weights runs/demo/best.safetensors
"""

from __future__ import annotations

import argparse
import sys

from effdet.commands import program
from effdet.commands.model_options import add_model_options, load_model


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``app``."""
    result = argparse.ArgumentParser(
        prog=program("app"),
        description="Serve a page on this machine that shows what a detector finds in photos and in pictures of the "
        "camera. It loads nothing from other servers.",
    )
    result.add_argument("--weights", required=True, metavar="W", help="weights, or an export")
    result.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help=_HOST)
    result.add_argument("--port", type=int, default=7860, metavar="N", help="of the server; 0: a free one (7860)")
    result.add_argument("--max-megabytes", type=int, default=20, metavar="N", help="largest file that is taken (20)")
    add_model_options(result)
    result.set_defaults(score_threshold=None)  # the slider does that
    return result


_HOST = "address to listen on (default: 127.0.0.1, this machine alone; 0.0.0.0: everybody who reaches this machine)"


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C and return the exit status."""
    if not 0 <= args.port < 65536:
        parser().error(f"--port must be a number from 0 to 65535, got {args.port}")
    if args.max_megabytes < 1:
        parser().error(f"--max-megabytes must be 1 or more, got {args.max_megabytes}")
    model = load_model(args)
    from effdet.runs.app import start_app

    page = start_app(model, host=args.host, port=args.port, max_megabytes=args.max_megabytes, wait=False)
    print(page.local_url, flush=True)
    print("Ctrl-C ends it", file=sys.stderr)
    try:
        page.block_thread()
    finally:
        page.close()
    return 0
