"""Measure this project beside a peer, on this machine, in one run.

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

from effdet.commands.output import write_json
from effdet.deployment.formats import is_exported

WORKS = {
    "network": "the network alone, and its share of the machine's peak",
    "predict": "from a JPEG file to boxes",
    "train": "one step: forward, loss, backward, update",
    "loader": "augmented batches from JPEG files, on one core",
    "evaluate": "COCO numbers of 5,000 images with 100 detections each",
    "startup": "import, --help, first prediction of a fresh process",
    "throughput": "images a second of an exported network on 1 to N cores, with several runs at a time",
    "quality": "wall-clock until a detector fine-tuned on photos reaches an AP",
    "plot": "milliseconds against MACs and AP, or AP against minutes, from JSON files of network, predict or quality",
}
PEERS = ("effdet", "torchvision:NAME")

_NOTES = """\
Every contender runs in a process of its own and all take turns (ours, peer, ours, …), the others asleep; what is
printed is the median of all steps after the warm-up, the quartiles, and the most memory that the process ever held.

Weights: random ones would mislead, because vanishing activations end in denormal numbers, which are a hundred times as
slow. BN statistics are therefore those of a batch of photos, and the class head is scaled so that in a photo 5,000
(anchor, class) pairs score above 0.001 and the best scores 0.9. The peer gets the same numbers. --weights takes a
trained model instead.

The peer runs under --peer-python, an interpreter of another environment with PyPI effdet 0.4.1, since both packages
have the same import name; torchvision's detectors (--peer torchvision:ssdlite320_mobilenet_v3_large) run there too, or
here without it. Peers have three columns: as they come, channels_last, and channels_last with bf16 autocast; the ratio
is given to the first and to the best of them.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit status; None takes it from ``sys.argv``."""
    args = parser().parse_args(argv)
    try:
        return run(args)
    except KeyboardInterrupt:
        print("tools/benchmark.py: interrupted", file=sys.stderr)
        return 130
    except (OSError, ValueError) as error:
        print(f"tools/benchmark.py: error: {error}", file=sys.stderr)
        return 1


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``benchmark``."""
    result = argparse.ArgumentParser(
        prog="tools/benchmark.py",
        description="Measure this project beside a peer, on this machine, in one run.",
        epilog="\n".join(f"  {name:11}{what}" for name, what in WORKS.items()) + "\n\n" + _NOTES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("work", choices=WORKS, metavar="WORK", help="what to measure; see below")
    result.add_argument("files", nargs="*", type=Path, metavar="FILE", help="of plot: JSON files of earlier runs")
    _add_model(result.add_argument_group("model"))
    _add_peer(result.add_argument_group("peer"))
    _add_measuring(result.add_argument_group("measuring"))
    _add_quality(result.add_argument_group("quality"))
    _add_throughput(result.add_argument_group("throughput"))
    return result


def _add_model(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--variant", nargs="+", default=["d0"], metavar="NAME", help="models (default: d0)")
    group.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="network input: one side, or H W")
    group.add_argument("--classes", type=int, default=90, metavar="K", help="number of classes (default: 90)")
    group.add_argument("--batch", type=int, nargs="+", metavar="N", help="images at a time (default: 1; train: 4)")
    group.add_argument("--runtime", nargs="+", metavar="NAME", help=_RUNTIMES)
    group.add_argument("--precision", nargs="+", default=["fp32"], choices=("fp32", "bf16"), help="of train, ours")
    group.add_argument("--with-loader", action="store_true", help="of train: one more row, with a loader process")
    group.add_argument("--weights", metavar="W", help="a trained model (.safetensors) instead of made weights")
    group.add_argument("--photos", metavar="FOLDER", help="own JPEG files instead of drawn ones")
    group.add_argument("--data", metavar="DATA", help="of loader and quality: a data set in COCO format")
    group.add_argument("--photo-size", type=int, nargs=2, metavar=("H", "W"), help="of drawn photos")


_RUNTIMES = (
    "of ours: eager, channels_last, compile (torch.compile), onnxruntime, openvino, torch-export, or an exported file; "
    "for predict also with a preset, as in openvino:effdet (default: eager, onnxruntime and openvino; for predict "
    "beside effdet also with its preset)"
)


def _add_peer(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--peer-python", metavar="PYTHON", help="interpreter of an environment with the peer")
    group.add_argument("--peer", nargs="+", default=["effdet"], metavar="PEER", help=f"{', '.join(PEERS)}")
    group.add_argument(
        "--peer-modes",
        nargs="+",
        choices=("default", "channels_last", "bf16", "compile"),
        default=["default", "channels_last", "bf16"],
        help="columns of the peer (default: default channels_last bf16)",
    )


def _add_measuring(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--repeats", type=int, metavar="N", help="rounds of turns (default: by the work)")
    group.add_argument("--warmup", type=int, metavar="N", help="steps before the first round (default: by the work)")
    group.add_argument("--threads", type=int, metavar="N", help="of each contender (default: cores of this process)")
    group.add_argument("--no-peak", action="store_true", help="of network: leave out the machine's peak")
    group.add_argument("--images", type=int, metavar="N", help="photos drawn; evaluate: images (default: 5000)")
    group.add_argument("--json", type=Path, metavar="FILE", help="write every measurement and the machine as JSON")
    group.add_argument("--out", type=Path, metavar="FILE", help="of plot: the picture (.png)")


def _add_quality(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--side", choices=("ours", "peer"), default="ours", help="who trains (default: ours)")
    group.add_argument("--minutes", type=float, default=35.0, help="stop after these (default: 35)")
    group.add_argument("--config", type=Path, metavar="CONFIG", help="of ours (default: configs/custom.yaml)")
    group.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="of ours: settings of the config")
    group.add_argument("--epochs", type=int, default=36, metavar="N", help="of the peer: length of the cycle")
    group.add_argument("--lr", type=float, default=2e-3, help="of the peer: its highest (default: 0.002)")
    group.add_argument("--every", type=int, default=2, metavar="N", help="of the peer: epochs between evaluations")


def _add_throughput(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--cores", type=int, nargs="+", metavar="N", help="threads (default: 1, 2, 4, … --threads)")
    group.add_argument("--streams", type=int, nargs="+", metavar="N", help="runs at a time (default: as --cores)")
    group.add_argument("--seconds", type=float, metavar="S", help="of each pair of these (default: 5)")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    _check(args)
    if args.work == "plot":
        from benchmark.plot import plot

        plot(args.files, args.out)
        return 0
    _make_absolute(args)
    from benchmark.machine import describe_machine, usable_cores
    from benchmark.report import failed, print_case
    from benchmark.works import measure

    args.threads = args.threads or usable_cores()
    machine = {**describe_machine(), "threads": args.threads}
    cases: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for case in measure(args, Path(folder)):
            print_case(case, sys.stdout)
            cases.append(case)
            if args.json:  # after every case: what is measured is not lost
                content = {"command": ["benchmark", *sys.argv[1:]], "machine": machine, "cases": cases}
                write_json(content, args.json, indent=1)
    return 1 if any(failed(case) for case in cases) else 0


def _check(args: argparse.Namespace) -> None:
    if args.work == "plot":
        if not args.files or args.out is None:
            parser().error("plot needs JSON files of network, predict or quality, and --out FILE")
        return
    if args.files:
        parser().error(f"{args.work} takes no files, got {args.files[0]}; they go with plot")
    for name, least in (("repeats", 1), ("warmup", 0), ("threads", 1), ("images", 1)):
        value = getattr(args, name)
        if value is not None and value < least:
            parser().error(f"--{name} must be {least} or more, got {value}")
    for name in ("cores", "streams"):
        if min(getattr(args, name) or [1]) < 1:
            parser().error(f"--{name} must be 1 or more, got {min(getattr(args, name))}")
    if args.seconds is not None and args.seconds <= 0:
        parser().error(f"--seconds must be more than 0, got {args.seconds:g}")
    if args.size is not None and len(args.size) > 2:
        parser().error(f"--size must be one side or height and width, got {len(args.size)} numbers")
    if args.work == "train" and args.photos is not None:
        parser().error("train needs photos with boxes and draws them: leave out --photos")
    if args.work == "quality" and args.data is None:
        parser().error("quality needs --data DATA")
    if args.side == "peer" and args.peer_python is None:
        parser().error("--side peer needs --peer-python PYTHON")


def _make_absolute(args: argparse.Namespace) -> None:
    """Make the paths among the options absolute, as contenders start in folders of their own."""
    for name in ("weights", "photos", "data"):
        value = getattr(args, name)
        if value is not None and Path(value).exists():  # weights may also be a name
            setattr(args, name, str(Path(value).absolute()))
    if args.runtime is not None:
        args.runtime = [str(Path(name).absolute()) if _is_path(name) else name for name in args.runtime]
    if args.peer_python is not None:
        found = shutil.which(args.peer_python)
        if found is None:
            parser().error(f"--peer-python {args.peer_python} is no program; make one with: python -m venv peer")
        args.peer_python = str(Path(found).absolute())  # links stay: they tell an interpreter its environment


def _is_path(runtime: str) -> bool:
    return is_exported(runtime.partition(":")[0])
