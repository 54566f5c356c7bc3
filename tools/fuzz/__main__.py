"""Give damaged and hostile files to every reader of this project, and see whether one clean sentence refuses each.

    python tools/fuzz --count 10000                       # over all readers
    python tools/fuzz --targets PNG TIFF --count 100000 --state fuzz.json
    python tools/fuzz --targets PNG --coverage            # guided by coverage, needs atheris

An input follows from its reader and its number alone, so that a count goes on where it stopped (--state), and a failure
can be repeated: --targets PNG --first 123 --count 1. A failure is an error of another kind than ValueError and OSError,
a message of several lines, more than 30 s or 4 GB, or the end of the process. Exit status 1: there was one.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[2]), str(Path(__file__).resolve().parents[1])]

from fuzz.run import State, run_guided, run_target  # noqa: E402
from fuzz.targets import all_targets  # noqa: E402


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    result = argparse.ArgumentParser(description="Give damaged and hostile files to the readers of this project.")
    result.add_argument("--targets", nargs="+", choices=list(all_targets()), help="default: all")
    result.add_argument("--count", type=int, default=10_000, help="inputs over all targets")
    result.add_argument("--first", type=int, help="number of the first input; default: where --state stopped")
    result.add_argument("--state", type=Path, help="JSON with the inputs tried so far, by reader")
    result.add_argument("--failures", type=Path, default=Path("fuzz-failures"), help="folder for inputs that failed")
    result.add_argument("--coverage", action="store_true", help="let atheris choose the inputs of one target")
    return result


def main() -> int:
    """Run the command; return its exit status."""
    arguments = parser().parse_args()
    targets = [target for name, target in all_targets().items() if not arguments.targets or name in arguments.targets]
    if arguments.coverage:
        return run_guided(targets[0], arguments.count, arguments.failures)
    state, failed = State(arguments.state), 0
    shares = sum(target.share for target in targets)
    for target in targets:
        first = state.next(target.name) if arguments.first is None else arguments.first
        numbers = range(first, first + max(1, round(arguments.count * target.share / shares)))
        failed += run_target(target, numbers, arguments.failures, state)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
