"""Draw what the nodes of a neck learned: the share of each input over the steps of one run or several.

effdet fusion-weights runs/fast runs/softmax --out weights.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from effdet.commands import program
from effdet.commands.output import prepare_output

_NOTES = """\
A run whose neck learns fusion weights (model.architecture.fusion: fast, softmax, unbounded, or one of these for every
channel) records them in fusion_weights.csv about a hundred times. The paper's Figure 5 is this picture of two runs, one
with fast and one with softmax fusion.
"""


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``fusion-weights``."""
    result = argparse.ArgumentParser(
        prog=program("fusion_weights"), description="Draw the fusion weights of runs over training.", epilog=_NOTES
    )
    result.add_argument("runs", metavar="RUN", type=Path, nargs="+", help="run folders, at most four")
    result.add_argument("--out", metavar="FILE", type=Path, required=True, help="the PNG to write")
    result.add_argument(
        "--node",
        metavar="NAME",
        action="append",
        help="a node to draw, again for another (default: the three that move most)",
    )
    return result


def run(args: argparse.Namespace) -> int:
    """Draw, and return the exit status."""
    from effdet.runs.fusion_weights import plot_fusion_weights

    prepare_output(args.out)
    nodes = plot_fusion_weights(args.runs, args.out, nodes=args.node)
    print(f"{args.out}: {', '.join(nodes)}")
    return 0
