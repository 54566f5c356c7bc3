"""Measure this project beside other detectors, on this machine, in one run.

python tools/benchmark.py network --variant d0 --runtime eager onnxruntime --peer-python ../peer/bin/python
python tools/benchmark.py train --batch 4 16 --peer-python ../peer/bin/python --json train.json
python tools/benchmark.py plot network.json --out network.png
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmark import options
from effdet.commands.output import write_json
from effdet.deployment.formats import is_exported

PROGRAM = "tools/benchmark.py"

MEASUREMENTS = {
    "network": "the network alone, and its share of the machine's peak",
    "predict": "from a JPEG file to boxes",
    "train": "one step: forward, loss, backward, update",
    "loader": "augmented batches from JPEG files, on one core",
    "evaluate": "COCO numbers of 5,000 images with 100 detections each",
    "startup": "import, --help, first prediction of a fresh process",
    "throughput": "images a second of an exported network on 1 to N cores, with several runs at a time",
    "quality": "time until a detector fine-tuned on photos reaches an AP",
    "plot": "a picture from JSON files: milliseconds against MACs and AP, or AP against minutes",
}

_NOTES = """\
Every runner has a process of its own and all take turns (ours, peer, ours, …), while the others sleep. Printed are the
median of all steps after the warm-up, the quartiles, and the most memory that the process ever held.

Weights: random ones would mislead, because vanishing activations end in denormal numbers, which are a hundred times as
slow. BN statistics are therefore those of a batch of photos, and the class head is scaled so that in a photo 5,000
(anchor, class) pairs score above 0.001 and the best scores 0.9. The peer gets the same numbers. --weights takes a
trained model instead.

The peer runs under --peer-python, an interpreter of another environment with PyPI effdet 0.4.1, since both packages
have the same import name; torchvision's detectors (--peer torchvision:ssdlite320_mobilenet_v3_large) run there too, or
here without it. Peers have three rows: as they come, channels_last, and channels_last with bf16 autocast; the ratio is
given to the first and to the best of them.
"""

# The groups of options that each measurement accepts; all other options are absent from its arguments.
_OPTIONS = {
    "network": (options.model, options.photos, options.runtime, options.peer, options.network, options.turns),
    "predict": (options.model, options.photos, options.runtime, options.peer, options.turns, options.predict),
    "train": (options.model, options.drawn, options.train, options.peer, options.turns),
    "loader": (options.batches, options.drawn, options.loader, options.peer_python, options.turns),
    "evaluate": (options.images, options.turns),
    "startup": (options.model, options.photos, options.peer_python, options.turns),
    "throughput": (options.model, options.photos, options.runtime, options.throughput, options.threads),
    "quality": (options.quality, options.peer_python, options.threads),
    "plot": (options.plot,),
}
_NOT_TAKEN = dict.fromkeys(("peer_python", "photos", "runtime", "weights", "repeats", "warmup", "size", "data"))


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit status. None: the arguments in ``sys.argv``."""
    args = parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print(f"{PROGRAM}: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser; each measurement is a subcommand with its own options."""
    result = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Measure this project beside other detectors, on this machine, in one run.",
        epilog=_NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = result.add_subparsers(dest="measurement", required=True, metavar="MEASUREMENT")
    for name, what in MEASUREMENTS.items():
        command = commands.add_parser(name, help=what, description=f"{what[0].upper()}{what[1:]}.")
        command.set_defaults(**_NOT_TAKEN, peer=[])
        for add in _OPTIONS[name]:
            add(command)
        command.set_defaults(usage_error=command.error)
    return result


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    if args.measurement == "plot":
        from benchmark.plot import plot

        plot(args.files, args.out)
        return 0
    _check(args)
    _make_absolute(args)
    from benchmark.machine import describe_machine, usable_cores
    from benchmark.measurements.models import measure
    from benchmark.report import failed, print_result

    args.threads = args.threads or usable_cores()
    machine = {**describe_machine(), "threads": args.threads}
    results: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for result in measure(args, Path(folder)):
            print_result(result, sys.stdout)
            results.append(result)
            if args.json:  # written after every result, so that a later failure loses none
                document = {"command": [PROGRAM, *sys.argv[1:]], "machine": machine, "results": results}
                write_json(document, args.json, indent=1)
    return 1 if any(failed(result) for result in results) else 0


def _check(args: argparse.Namespace) -> None:
    for name in ("repeats", "warmup", "threads", "images", "cores", "streams", "steps"):
        least = 0 if name == "warmup" else 1
        value = getattr(args, name, None)
        for number in value if isinstance(value, list) else [value]:
            if number is not None and number < least:
                args.usage_error(f"--{name} must be {least} or more, got {number}")
    seconds = getattr(args, "seconds", None)
    if seconds is not None and seconds <= 0:
        args.usage_error(f"--seconds must be more than 0, got {seconds:g}")
    if args.size is not None and len(args.size) > 2:
        args.usage_error(f"--size must be one side or height and width, got {len(args.size)} numbers")
    if args.measurement == "quality" and args.side == "peer" and args.peer_python is None:
        args.usage_error("--side peer needs --peer-python PYTHON")


def _make_absolute(args: argparse.Namespace) -> None:
    """Make the paths among the options absolute, because runners start in other folders."""
    if getattr(args, "keep", None):
        args.keep = args.keep.absolute()
    for name in ("weights", "photos", "data"):
        value = getattr(args, name)
        if value is not None and Path(value).exists():  # weights may also be the name of a published model
            setattr(args, name, str(Path(value).absolute()))
    if args.runtime is not None:
        args.runtime = [str(Path(name).absolute()) if _is_path(name) else name for name in args.runtime]
    if args.peer_python:
        found = shutil.which(args.peer_python)
        if found is None:
            args.usage_error(f"--peer-python {args.peer_python} is no program; make one with: python -m venv peer")
        args.peer_python = str(
            Path(found).absolute()
        )  # not resolved: the path of the link tells Python its environment
    else:
        args.peer_python = None  # empty, for example from an unset shell variable


def _is_path(runtime: str) -> bool:
    return is_exported(runtime.partition(":")[0])
