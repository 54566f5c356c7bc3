"""Functions that all measurements use: threads, repeats, preparation, and the form of a result."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmark.race import Entry, Row, Runner
from benchmark.runners.serve import REAL_TIME

REPEATS = {"network": 5, "predict": 5, "train": 4, "loader": 10, "evaluate": 3, "startup": 9}
WARMUPS = {"network": 3, "predict": 3, "train": 2, "loader": 3, "evaluate": 0, "startup": 1}
SLEEPING = ("network", "predict", "train")  # whose first step after the turns of the others is slow
STEPS = 3  # counted steps of a turn of these


def threads_of(args: argparse.Namespace) -> dict[str, str]:
    """Return the variables that set the number of threads and the priority of a runner."""
    return {"OMP_NUM_THREADS": str(args.threads), **({REAL_TIME: "1"} if getattr(args, "real_time", False) else {})}


def race_options(args: argparse.Namespace) -> dict[str, int]:
    """Return the numbers of rounds, warm-up steps, and steps of a turn: the options, or the measurement's defaults."""
    sleeps = args.measurement in SLEEPING
    default = STEPS if sleeps else 1
    steps = default if args.steps is None else args.steps
    return {
        "steps": steps,
        "lead_in": 1 if sleeps else 0,
        "alone": steps if sleeps else 0,
        "rounds": REPEATS[args.measurement] if args.repeats is None else args.repeats,
        "warmup": WARMUPS[args.measurement] if args.warmup is None else args.warmup,
    }


def ask_once(entry: Entry) -> dict[str, Any]:
    """Start a process that prepares something, and return its facts."""
    with Runner(entry) as runner:
        return runner.start()


def make_result(args: argparse.Namespace, title: str, rows: Sequence[Row], **more: Any) -> dict[str, Any]:
    """Return a result: plain values, for JSON and for the report."""
    settings = {**race_options(args), "threads": args.threads}
    return {
        "measurement": args.measurement,
        "title": title,
        "settings": settings,
        "rows": [row.to_dict() for row in rows],
        **more,
    }
