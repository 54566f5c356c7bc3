"""Measure how fast your weights are on this machine.

effdet benchmark runs/demo/best.safetensors
effdet benchmark best.onnx --runtime openvino --threads 4 --photos photos
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.commands import program
from effdet.commands.model_options import add_model_options, load_model
from effdet.commands.output import STDOUT, prepare_output, write_json

if TYPE_CHECKING:
    from effdet.deployment.speed import Speed

PICTURE_SIDES = (480, 640)  # shortest and longest side of the drawn pictures

_NOTES = """\
The network alone and everything from a photo's file to boxes are measured on the same photos, after a warm-up: median
and quartiles of the milliseconds of one image. The last row is the mean where one call gets all files: a thread then
decodes the next photos while the network computes. Without --photos, pictures are drawn; post-processing depends on
what is in a photo, so your own photos give truer numbers. Run it while nothing else uses the machine.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``benchmark``."""
    result = argparse.ArgumentParser(
        prog=program("benchmark"), description="Measure how fast your weights are on this machine.", epilog=_NOTES
    )
    result.add_argument("weights", metavar="WEIGHTS", help="weights, the name of published ones, or an exported file")
    result.add_argument("--batch-size", type=int, default=1, metavar="N", help="images of a run (default: 1)")
    result.add_argument("--threads", type=int, metavar="N", help="threads of the network (default: one per core)")
    result.add_argument("--photos", type=Path, metavar="FOLDER", help="your own photos instead of drawn pictures")
    result.add_argument("--runs", type=int, default=20, metavar="N", help="measured runs (default: 20)")
    result.add_argument("--json", metavar="FILE", help="write the numbers as JSON; - is stdout")
    add_model_options(result)
    result.set_defaults(score_threshold=None)  # as the weights were saved
    return result


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    from effdet.deployment.speed import measure_speed

    if args.json:
        prepare_output(args.json)
    detector: Any = load_model(args, num_threads=args.threads)
    with tempfile.TemporaryDirectory() as folder:
        photos = _photos(args.photos, Path(folder))
        speed = measure_speed(detector, photos, batch_size=args.batch_size, runs=args.runs)
    if args.json:
        write_json(_to_json(args, speed), args.json, indent=1)
    if args.json != STDOUT:
        print(_table(args, speed))
    return 0


def _photos(folder: Path | None, drawn: Path) -> list[Path]:
    """Return the image files of a folder, or pictures that are drawn into another.

    Raises:
        FileNotFoundError: If the folder holds no image file.
    """
    from effdet.data.demo import draw_demo
    from effdet.images.file_types import is_image

    if folder is None:
        draw_demo(drawn / "demo", num_train=7, num_val=1, image_size=PICTURE_SIDES)
        folder = drawn / "demo" / "images"
    found = sorted(file for file in folder.glob("*") if is_image(file))
    if not found:
        raise FileNotFoundError(f"--photos must be a folder with image files, got {folder}")
    return found


def _to_json(args: argparse.Namespace, speed: Speed) -> dict[str, Any]:
    from dataclasses import asdict

    return {"weights": args.weights, "runtime": args.runtime, "threads": args.threads, **asdict(speed)}


def _table(args: argparse.Namespace, speed: Speed) -> str:
    height, width = speed.image_size
    lines = [
        f"{args.weights} at {height}×{width}, batch {speed.batch_size}, {speed.runs} runs",
        f"{'':20} {'median ms':>10} {'quartiles':>16} {'images/s':>9}",
    ]
    for name, timing in (("network", speed.network), ("from file to boxes", speed.predict)):
        quartiles = f"{timing.first_quartile:.1f}–{timing.third_quartile:.1f}"
        lines.append(f"{name:20} {timing.median:10.1f} {quartiles:>16} {timing.images_per_second:9.2f}")
    lines.append(f"{'all at once, mean':20} {speed.stream:10.1f} {'':>16} {1000 / speed.stream:9.2f}")
    return "\n".join(lines)
