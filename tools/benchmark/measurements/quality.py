"""Measure the time of fine-tuning until an AP is reached: ours by ``effdet train``, the peer's by a simple loop.

One command trains one side only, because two trainings at a time would slow each other down. Run both commands on an
idle machine.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmark.race import HERE, ROOT, SEARCH_PATH, Entry
from benchmark.results import ask_once

TARGETS = (("ap50", 0.85), ("ap", 0.48))
VARIANT = "lite0"


def quality(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Train until the time is over, or without ``--whole`` until the targets are reached; print every evaluation."""
    command, environment = _ours(args, folder) if args.side == "ours" else _peer(args, folder)
    started = time.time()
    environment = {**os.environ, **environment, "BENCHMARK_STARTED": str(started), "OMP_NUM_THREADS": str(args.threads)}
    evaluations = []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=folder, env=environment, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            evaluations.append(json.loads(line))
            print(_describe(evaluations[-1]), file=sys.stderr, flush=True)
            reached_all = all(_reached(evaluations, *target) is not None for target in TARGETS)
            if time.time() - started >= 60 * args.minutes or (reached_all and not args.whole):
                break
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
        assert process.stdout is not None
        process.stdout.close()
    reached = {f"{name} {least}": _reached(evaluations, name, least) for name, least in TARGETS}
    title = f"time to quality of {VARIANT}, {args.side}, on {Path(args.data).name}"
    settings = {"threads": args.threads, "minutes": args.minutes, "command": [Path(command[0]).name, *command[1:]]}
    return {
        "measurement": "quality",
        "title": title,
        "settings": settings,
        "rows": [],
        "evaluations": evaluations,
        "reached": reached,
    }


def _ours(args: argparse.Namespace, folder: Path) -> tuple[list[str], dict[str, str]]:
    config = (args.config or ROOT / "configs" / "custom.yaml").resolve()
    run = [f"data.root={args.data}", f"run.dir={folder / 'runs'}", "run.name=quality"]
    module = "benchmark.runners.ours_quality"
    return [sys.executable, "-m", module, str(config), *run, *args.set], {"PYTHONPATH": SEARCH_PATH}


def _peer(args: argparse.Namespace, folder: Path) -> tuple[list[str], dict[str, str]]:
    settings = {"folder": str(folder), "data": args.data, "variant": VARIANT}
    facts = ask_once(Entry(name="preparation", module="ours_data", task="quality_data", settings=settings))
    size = args.size or [512]
    options = {"size": [size[0], size[-1]], "epochs": args.epochs, "batch": (args.batch or [8])[0], "lr": args.lr}
    script = str(HERE / "runners" / "peer_quality.py")
    content = json.dumps({**facts, **options, "every": args.every})
    return [args.peer_python, "-I", "-W", "ignore", script, content], {}


def _reached(evaluations: list[dict[str, float]], name: str, least: float) -> float | None:
    """Return the seconds until a value was first reached, or None."""
    return next((row["seconds"] for row in evaluations if row[name] >= least), None)


def _describe(row: dict[str, float]) -> str:
    return (
        f"{row['seconds'] / 60:6.2f} min ({row['training_seconds'] / 60:.2f} without evaluations): "
        f"AP {row['ap']:.4f}, AP50 {row['ap50']:.4f}"
    )
