"""Scale a detector: to a budget of multiply-adds or milliseconds, or by the papers' procedure on your own data.

effdet scale budget --macs 6e9 --out my.yaml
effdet scale budget --latency-ms 30 --runtime onnxruntime --out my.yaml
effdet scale search custom data.root=photos --images 2000 --out runs/scaling
effdet scale compare custom data.root=photos --images 2000 --out runs/comparison
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.commands import program
from effdet.commands.output import STDOUT, prepare_output, write_json
from effdet.commands.overrides import OverridesParser
from effdet.deployment.formats import RUNTIMES

if TYPE_CHECKING:
    from effdet.adaptation.measurement import Stopwatch
    from effdet.adaptation.scaling_budget import Fit
    from effdet.config import Config
    from effdet.models.architecture import Architecture

RECIPE = "custom"  # the packaged config whose recipe is used where none is given


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``scale``."""
    name = program("scale")
    result = argparse.ArgumentParser(
        prog=name, description="Scale a detector to a budget, or by the papers' procedure on your own data."
    )
    actions = result.add_subparsers(
        dest="action", required=True, metavar="ACTION", prog=name, parser_class=OverridesParser
    )
    _add_budget(actions.add_parser("budget", help="find the network that a budget allows", description=_BUDGET))
    _add_search(actions.add_parser("search", help="search the bases of compound scaling", description=_SEARCH))
    _add_compare(actions.add_parser("compare", help="compound scaling against one dimension", description=_COMPARE))
    return result


_BUDGET = (
    "Find the largest phi, in steps of 0.05, whose detector costs no more than a number of multiply-adds or "
    "milliseconds. Without CONFIG: the detectors between D0 and D7, with the recipe of the config 'custom'. With "
    "CONFIG: its model, made larger or smaller. Latencies are those of the network alone with random weights; run it "
    "while nothing else uses the machine."
)
_SEARCH = (
    "Search alpha, beta and gamma with alpha*beta^2*gamma^2 = 2 (within 0.1), then the base of the neck's width, by "
    "short trainings of the model of CONFIG scaled to one phi. Run the same command again after a kill."
)
_COMPARE = (
    "Train the model of CONFIG, and for each phi four larger ones of equal multiply-adds: by compound scaling, and by "
    "width, depth or resolution alone; draw AP against multiply-adds and milliseconds. Run the same command again "
    "after a kill."
)


def _add_budget(action: OverridesParser) -> None:
    action.add_argument("config", metavar="CONFIG", nargs="?", help="YAML file or name of a packaged config")
    action.add_overrides("CONFIG")
    limit = action.add_mutually_exclusive_group(required=True)
    limit.add_argument("--macs", type=float, metavar="N", help="most multiply-adds of an image, such as 6e9")
    limit.add_argument("--latency-ms", type=float, metavar="MS", help="most milliseconds of an image")
    action.add_argument("--free", action="store_true", help="depth, width and resolution need not grow together")
    for name in ("depth", "width", "resolution"):
        action.add_argument(
            f"--{name}", type=float, metavar="PHI", help=f"with --free: keep this coefficient of {name}"
        )
    action.add_argument("--stride", type=int, metavar="N", help="inputs are multiples of it (128; with CONFIG 32)")
    action.add_argument("--num-classes", type=int, metavar="K", help="classes (default: model.num_classes, or 90)")
    _add_stopwatch(action)
    action.add_argument("--out", type=Path, metavar="FILE", help="write a config that trains the network")
    action.add_argument("--json", metavar="FILE", help="write the network and its cost as JSON; - is stdout")


def _add_search(action: OverridesParser) -> None:
    _add_trials(action)
    for name, what in (
        ("depth", "alpha"),
        ("width", "beta"),
        ("resolution", "gamma"),
        ("neck-width", "the neck's base"),
    ):
        action.add_argument(f"--{name}", type=float, nargs="+", metavar="X", help=f"values of {what} to try")
    action.add_argument("--phi", type=float, default=1.0, help="coefficient at which rules are compared (default: 1)")


def _add_compare(action: OverridesParser) -> None:
    _add_trials(action)
    action.add_argument(
        "--phi", type=float, nargs="+", default=[1.0, 2.0], help="coefficients of compound scaling (default: 1 2)"
    )
    _add_stopwatch(action)


def _add_trials(action: OverridesParser) -> None:
    action.add_argument("config", metavar="CONFIG", help="YAML file or name of a packaged config: data, recipe, base")
    action.add_overrides("CONFIG")
    action.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="folder of all runs and results")
    action.add_argument("--images", type=int, required=True, metavar="N", help="training images that each network sees")
    action.add_argument("--stride", type=int, default=32, metavar="N", help="inputs are multiples of it (default: 32)")
    action.add_argument("--json", metavar="FILE", help="write the results as JSON here too; - is stdout")


def _add_stopwatch(action: argparse.ArgumentParser) -> None:
    action.add_argument("--runtime", choices=tuple(RUNTIMES), default="torch", help="measures latency (default: torch)")
    action.add_argument("--threads", type=int, metavar="N", help="threads of the network (default: one per core)")
    action.add_argument("--runs", type=int, default=20, metavar="N", help="measured runs of a network (default: 20)")


def run(args: argparse.Namespace) -> int:
    """Do the action and return the exit status."""
    if args.json:
        prepare_output(args.json)
    lines, document = {"budget": _budget, "search": _search, "compare": _compare}[args.action](args)
    if args.json:
        write_json(document, args.json, indent=1)
    if args.json != STDOUT:
        print("\n".join(lines))
    return 0


def _budget(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    from effdet.adaptation.scaling_budget import Budget, config_of_fit, describe, fit_free, fit_phi
    from effdet.atomic_write import replace_file
    from effdet.models.architecture import Architecture

    fixed = {name: getattr(args, name) for name in ("depth", "width", "resolution")}
    if not args.free and any(value is not None for value in fixed.values()):
        parser().error("--depth, --width and --resolution go with --free")
    if args.out:
        prepare_output(args.out)
    config, base = _base_of_budget(args)
    budget = Budget(macs=args.macs, milliseconds=args.latency_ms, stopwatch=_stopwatch(args))
    classes = args.num_classes or config.model.num_classes or 90
    fit: Fit
    if args.free:
        base = base or Architecture.named("d0")
        fit = fit_free(budget, base=base, num_classes=classes, stride=args.stride or 32, **fixed)
    else:
        fit = fit_phi(budget, base=base, num_classes=classes, stride=args.stride)
    if args.out:
        with replace_file(args.out) as file:
            file.write(config_of_fit(fit, config).encode())
    lines = describe(fit) + ([f"written to {args.out}"] if args.out else [])
    return lines, {**asdict(fit), "architecture": fit.architecture.to_dict()}


def _base_of_budget(args: argparse.Namespace) -> tuple[Config, Architecture | None]:
    """Return the config whose recipe is used, and the architecture that is scaled; None: D0 to D7."""
    from dataclasses import replace

    from effdet.config import load_config
    from effdet.runs.architecture import architecture_of

    name, overrides = args.config, args.overrides
    config = load_config(name or RECIPE, overrides)
    if name is None and not any(override.startswith("model.") for override in overrides):
        return config, None
    base = architecture_of(config.model)
    return config, replace(base, image_size=config.data.image_size or base.image_size)


def _search(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    from effdet.adaptation.scaling_search import Grid, search_scaling
    from effdet.config import load_config

    names = ("depth", "width", "resolution", "neck_width")
    given = {name: tuple(getattr(args, name)) for name in names if getattr(args, name) is not None}
    config = load_config(args.config, args.overrides)
    result = search_scaling(config, args.out, images=args.images, grid=Grid(**given), phi=args.phi, stride=args.stride)
    lines = _table(
        ("depth", "width", "resolution", "neck", "GMACs", "AP"),
        [(row.depth, row.width, row.resolution, row.neck_width, row.macs / 1e9, row.ap) for row in result.rows],
    )
    best = "best: depth {depth:g}, width {width:g}, resolution {resolution:g}, neck {neck_width:g}"
    return [*lines, best.format(**asdict(result.best)), f"written to {args.out}"], asdict(result)


def _compare(args: argparse.Namespace) -> tuple[list[str], dict[str, Any]]:
    from effdet.adaptation.scaling_compare import compare_scaling
    from effdet.config import load_config

    config = load_config(args.config, args.overrides)
    result = compare_scaling(
        config, args.out, images=args.images, phis=args.phi, stride=args.stride, stopwatch=_stopwatch(args)
    )
    lines = _table(
        ("network", "height", "width", "GMACs", "ms", "AP"),
        [(row.name, *row.image_size, row.macs / 1e9, row.milliseconds, row.ap) for row in result.rows],
    )
    return [*lines, f"written to {args.out}"], {"rows": [asdict(row) for row in result.rows]}


def _stopwatch(args: argparse.Namespace) -> Stopwatch:
    from effdet.adaptation.measurement import Stopwatch

    return Stopwatch(runtime=args.runtime, num_threads=args.threads, runs=args.runs)


def _table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return aligned lines; numbers have four digits."""
    cells = [
        tuple(header),
        *(tuple(f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row) for row in rows),
    ]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in cells]
