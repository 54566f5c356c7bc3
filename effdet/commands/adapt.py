"""Narrow a trained detector until it is as fast as it has to be (NetAdapt).

effdet adapt --weights best.safetensors --data photos --target-ms 15 --runtime onnxruntime
effdet adapt --weights best.safetensors --data photos --target-ms 15 train.epochs=30 train.lr=0.002
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.commands import program
from effdet.commands.output import STDOUT, prepare_output, write_json
from effdet.commands.overrides import OverridesParser
from effdet.deployment.formats import RUNTIMES

_NOTES = """\
Each step proposes networks with one width less, keeps their most important channels, fine-tunes each for some steps,
and goes on with the one that loses the least AP for a millisecond saved. The same command goes on where it was stopped;
started several times, or by torchrun, its processes share the work. Measure on the machine that the detector is for,
while nothing else uses it. docs/how-to/adaptation.md has more.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``adapt``."""
    result = OverridesParser(
        prog=program("adapt"),
        description="Narrow a trained detector until it is as fast as it has to be (NetAdapt).",
        epilog=_NOTES,
    )
    result.add_argument("--weights", required=True, metavar="W", help="the trained detector")
    result.add_argument("--data", metavar="DATA", help="data to train on, a folder or an annotation file's folder")
    result.add_argument("--target-ms", type=float, required=True, metavar="MS", help="milliseconds of the network")
    result.add_argument("--runtime", default="onnxruntime", choices=RUNTIMES, help="(default: onnxruntime)")
    result.add_argument("--threads", type=int, metavar="N", help="threads of the network (default: one per core)")
    result.add_argument("--out", type=Path, metavar="FOLDER", help="for all results (default: runs/adapt-NAME)")
    result.add_argument("--config", default="custom", help="how networks are trained (default: custom)")
    result.add_argument("--step-ms", type=float, metavar="MS", help="least saving of a step (default: a fifth of all)")
    result.add_argument("--short-steps", type=int, default=40, metavar="T", help="of a proposal (default: 40)")
    result.add_argument("--held-out", type=float, default=0.2, metavar="SHARE", help="of the photos (default: 0.2)")
    result.add_argument("--choice", default="ratio", choices=["ratio", "ap"], help="by ΔAP/Δlatency, or by AP alone")
    result.add_argument("--json", metavar="FILE", help="write the steps as JSON; - is stdout")
    result.add_overrides("the config")
    return result


def run(args: argparse.Namespace) -> int:
    """Adapt, print the steps, and return the exit status."""
    from effdet.adaptation.netadapt import AdaptSettings, adapt
    from effdet.config import load_config

    if args.json:
        prepare_output(args.json)
    given = {"model.weights": args.weights, "data.root": args.data}
    own = [f"{key}={value}" for key, value in given.items() if value is not None]
    empty = ["model.name=null", "model.backbone_weights=null"]
    config = load_config(args.config, [*empty, *own, *args.overrides])
    settings = AdaptSettings(
        target_ms=args.target_ms,
        runtime=args.runtime,
        num_threads=args.threads,
        step_ms=args.step_ms,
        short_steps=args.short_steps,
        held_out=args.held_out,
        choice=args.choice,
    )
    adapted = adapt(config, settings, args.out or Path("runs") / f"adapt-{Path(args.weights).stem}")
    if args.json:
        write_json([step.to_dict() for step in adapted.steps], args.json, indent=1)
    if args.json != STDOUT:
        print("\n".join([*map(str, adapted.steps), f"adapted detector: {adapted.folder / 'best.safetensors'}"]))
    return 0
