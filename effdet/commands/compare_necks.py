"""Print size and speed of every neck and fusion for one backbone, width and input size, beside the paper's ratios.

effdet compare-necks d0
effdet compare-necks d3 --repeats 5 --neck fpn --neck bifpn --fusion sum --fusion fast
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from effdet.commands import program
from effdet.commands.output import STDOUT, prepare_output, write_json

if TYPE_CHECKING:
    from effdet.adaptation.neck_comparison import NeckComparison, NeckRow
    from effdet.models.architecture import Architecture

_NOTES = """\
Parameters, multiply-adds (G) and milliseconds are those of the neck alone, with its laterals: ms of the forward pass,
training of forward and backward pass. Each × is a ratio to the repeated top-down FPN that adds, and the column after it
is the paper's (Table 5). FPN and the fully connected pyramid get twice the layers, because a layer has half the nodes
of PAN. The paper's ratios fit d3 with --repeats 5 best; see docs/explanations/design_methods.md.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``compare-necks``."""
    result = argparse.ArgumentParser(
        prog=program("compare_necks"), description="Print size and speed of every neck and fusion.", epilog=_NOTES
    )
    result.add_argument("model", nargs="?", default="d0", help="a published model that gives the rest (default: d0)")
    result.add_argument("--backbone", metavar="NAME", help="another backbone: any timm model with these strides")
    result.add_argument("--channels", type=int, metavar="N", help="another width of the neck")
    result.add_argument("--repeats", type=int, metavar="N", help="another number of BiFPN layers")
    result.add_argument(
        "--image-size", type=int, nargs="+", metavar="PX", help="another input: a side, or height width"
    )
    result.add_argument("--neck", action="append", metavar="NAME", help="only this neck; again for more")
    result.add_argument("--fusion", action="append", metavar="NAME", help="only this fusion; again for more")
    result.add_argument("--runs", type=int, default=10, metavar="N", help="measured runs of each neck (default: 10)")
    result.add_argument("--threads", type=int, metavar="N", help="threads of PyTorch (default: its own choice)")
    result.add_argument("--json", metavar="FILE", help="write the numbers as JSON; - is stdout")
    return result


def run(args: argparse.Namespace) -> int:
    """Measure, print, and return the exit status."""
    from effdet.adaptation.neck_comparison import FUSIONS, NECKS, compare_necks

    if args.json:
        prepare_output(args.json)
    found = compare_necks(
        _architecture(args),
        necks=args.neck or NECKS,
        fusions=args.fusion or FUSIONS,
        runs=args.runs,
        num_threads=args.threads,
    )
    if args.json:
        write_json(_to_json(found), args.json, indent=1)
    if args.json != STDOUT:
        print(_table(found))
    return 0


def _architecture(args: argparse.Namespace) -> Architecture:
    from dataclasses import replace

    from effdet.commands.model_options import image_size
    from effdet.models.architecture import Architecture

    changes: dict[str, Any] = {"backbone": args.backbone, "channels": args.channels, "neck_repeats": args.repeats}
    if args.image_size is not None:
        changes["image_size"] = image_size(args.image_size)
    return replace(
        Architecture.named(args.model), **{name: value for name, value in changes.items() if value is not None}
    )


def _to_json(found: NeckComparison) -> dict[str, Any]:
    from dataclasses import asdict

    return {
        "architecture": found.architecture.to_dict(),
        "threads": found.threads,
        "runs": found.runs,
        "softmax_slowdowns": {
            "forward": found.softmax_slowdowns(training=False),
            "training": found.softmax_slowdowns(training=True),
        },
        "rows": [asdict(row) for row in found.rows],
    }


def _table(found: NeckComparison) -> str:
    chosen = found.architecture
    height, width = chosen.image_size
    lines = [
        f"{chosen.backbone}, {chosen.channels} channels, {height}×{width}, {found.threads} threads, {found.runs} runs",
        f"{'neck':8} {'layers':>6} {'fusion':18} {'parameters':>10} {'×':>5} {'paper':>5} {'MACs, G':>8} {'×':>5} "
        f"{'paper':>5} {'ms':>8} {'×':>5} {'training':>8} {'network: parameters':>20} {'MACs, G':>8}",
        *(_line(row) for row in found.rows),
    ]
    for what, training in (("forward", False), ("training", True)):
        slowdowns = found.softmax_slowdowns(training=training)
        if slowdowns:
            times = ", ".join(f"{neck} {ratio:.2f}" for neck, ratio in slowdowns.items())
            lines.append(f"{what}: time of softmax to time of fast fusion: {times}; on a GPU in the paper: 1.26–1.31")
    return "\n".join(lines)


def _line(row: NeckRow) -> str:
    papers = ["" if r is None else f"{r:.2f}" for r in (row.paper_parameter_ratio, row.paper_macs_ratio)]
    return (
        f"{row.neck:8} {row.repeats:6} {row.fusion:18} {row.parameters:10,} {row.parameter_ratio:5.2f} {papers[0]:>5} "
        f"{row.macs / 1e9:8.3f} {row.macs_ratio:5.2f} {papers[1]:>5} {row.milliseconds:8.1f} {row.time_ratio:5.2f} "
        f"{row.training_milliseconds:8.1f} {row.network.parameters:20,} {row.network.macs / 1e9:8.3f}"
    )
