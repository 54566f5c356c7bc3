"""Search for an architecture that is accurate and cheap on your own data.

effdet search custom data.root=photos --runtime onnxruntime --target-ms 15
effdet search custom data.root=photos --target-macs 1e9 --free channels=32,48,64 --free neck=bifpn,fpn
effdet search custom data.root=photos --target-macs 1e9 --space mnasnet --out runs/blocks
"""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.commands import program
from effdet.commands.output import STDOUT, prepare_output, write_json
from effdet.commands.overrides import OverridesParser
from effdet.deployment.formats import RUNTIMES

if TYPE_CHECKING:
    from effdet.adaptation.search.results import SearchResult
    from effdet.adaptation.search.search import SearchSettings

_NOTES = """\
Each trial proposes an architecture, measures its cost and trains it for a short time. Called again with the same --out
it goes on where it stopped. Start the same command in several terminals to share the work, or on several machines with
a --storage that all of them reach; the number of trials is that of all together. Milliseconds are disturbed by
whatever else the machine does, multiply-adds are not. docs/explanations/design_methods.md explains the method.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``search``."""
    result = OverridesParser(
        prog=program("search"),
        description="Search for an architecture that is accurate and cheap on your own data.",
        epilog=_NOTES,
    )
    result.add_argument("config", metavar="CONFIG", type=Path, help="data, training and the model to start from")
    result.add_overrides("the file")
    result.add_argument("--out", type=Path, default=Path("runs/search"), metavar="DIR", help="default: runs/search")
    _add_space(result)
    _add_cost(result)
    _add_effort(result)
    result.add_argument("--json", metavar="FILE", help="write the Pareto front as JSON; - is stdout")
    return result


def _add_space(result: argparse.ArgumentParser) -> None:
    group = result.add_argument_group("what is free")
    group.add_argument("--space", metavar="NAME|FILE", help="detector, mnasnet, or a YAML file (default: detector)")
    group.add_argument(
        "--free",
        action="append",
        default=[],
        metavar="NAME=VALUES",
        help="a free dimension: channels=32,48,64, or a range phi=-1..2, or one in steps channels=32..96:8; may be "
        "repeated; without --space nothing else is free",
    )


def _add_cost(result: argparse.ArgumentParser) -> None:
    group = result.add_argument_group("what it may cost")
    target = group.add_mutually_exclusive_group(required=True)
    target.add_argument("--target-ms", type=float, metavar="MS", help="milliseconds of the network for one image")
    target.add_argument("--target-macs", type=float, metavar="N", help="multiply-adds of one image, such as 1e9")
    group.add_argument("--runtime", choices=tuple(RUNTIMES), help="what is measured for --target-ms")
    group.add_argument("--threads", type=int, metavar="N", help="threads of the measured network (default: all cores)")
    group.add_argument(
        "--exponents",
        type=float,
        nargs=2,
        default=(-0.07, -0.07),
        metavar=("ALPHA", "BETA"),
        help="of the reward AP · (cost / target)^w below and above the target (default: -0.07 -0.07); 0 -1 makes it a "
        "hard limit",
    )
    group.add_argument(
        "--objective",
        choices=("reward", "pareto"),
        default="reward",
        help="maximise the reward (default), or AP and cost as two objectives",
    )
    group.add_argument(
        "--skip-above",
        type=float,
        default=3.0,
        metavar="FACTOR",
        help="do not train what costs more than this many times the target (default: 3)",
    )


def _add_effort(result: argparse.ArgumentParser) -> None:
    group = result.add_argument_group("how long and how")
    group.add_argument("--trials", type=int, default=50, metavar="N", help="architectures to try (default: 50)")
    group.add_argument("--hours", type=float, default=math.inf, metavar="H", help="begin no trial after this time")
    group.add_argument(
        "--images", type=int, default=2000, metavar="N", help="training images that a trial sees (default: 2000)"
    )
    group.add_argument("--sampler", choices=("tpe", "random", "nsga2", "qmc"), default="tpe", help="default: tpe")
    group.add_argument(
        "--pruner",
        choices=("median", "halving", "hyperband", "none"),
        help="ends trials that fall behind (default: median; none for --objective pareto)",
    )
    group.add_argument("--storage", metavar="FILE|URL", help="default: journal.log in --out; or sqlite:///…, mysql://…")
    group.add_argument("--name", default="search", help="of the search in the storage (default: search)")
    group.add_argument("--seed", type=int, metavar="N", help="of the sampler; give each process another")


def run(args: argparse.Namespace) -> int:
    """Search, print the Pareto front, and return the exit status."""
    from effdet.config import load_config

    config, settings = load_config(args.config, args.overrides), _settings(args)
    from effdet.adaptation.search.results import front_as_values
    from effdet.adaptation.search.search import search_architectures
    from effdet.adaptation.search.space import read_space

    if args.json:
        prepare_output(args.json)
    result = search_architectures(config, read_space(args.space, args.free), settings)
    if args.json:
        write_json(front_as_values(result), args.json, indent=1)
    if args.json != STDOUT:
        print(_table(result))
    return 0


def _settings(args: argparse.Namespace) -> SearchSettings:
    from effdet.adaptation.measurement import Stopwatch
    from effdet.adaptation.search.reward import Reward
    from effdet.adaptation.search.search import SearchSettings
    from effdet.adaptation.search.trial import Price

    if args.target_macs is not None and (args.runtime or args.threads):
        raise ValueError("--runtime and --threads go with --target-ms, which measures; leave them out")
    runtime = args.runtime or "onnxruntime"
    stopwatch = Stopwatch(runtime=runtime, num_threads=args.threads) if args.target_macs is None else None
    alpha, beta = args.exponents
    target = args.target_ms if args.target_macs is None else args.target_macs
    return SearchSettings(
        folder=args.out,
        reward=Reward(target=target, alpha=alpha, beta=beta),
        price=Price(stopwatch=stopwatch),
        objective=args.objective,
        sampler=args.sampler,
        pruner=args.pruner,
        trials=args.trials,
        hours=args.hours,
        images=args.images,
        skip_above=args.skip_above,
        storage=args.storage,
        name=args.name,
        seed=args.seed,
    )


def _table(result: SearchResult) -> str:
    from effdet.adaptation.search.trial import as_text

    lines = [
        f"{len(result.trials)} trials, {len(result.finished)} finished; the Pareto front:",
        f"{'trial':>6} {'AP':>7} {'cost':>14} {'reward':>7}",
    ]
    for trial in result.front:
        assert trial.cost is not None
        cost, mark = as_text(trial.cost, result.unit), "  best" if trial.number == result.best.number else ""
        lines.append(f"{trial.number:6} {trial.ap:7.4f} {cost:>14} {trial.reward:7.4f}{mark}")
    return "\n".join([*lines, f"train the best in full: effdet train {result.folder / 'best.yaml'}"])
