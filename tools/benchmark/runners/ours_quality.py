"""Train as ``effdet train`` does, and print the time and the AP at every evaluation.

    python -m benchmark.runners.ours_quality CONFIG [key.sub=value ...]

One line of JSON on stdout for each evaluation: ``seconds`` since the start of the process, ``training_seconds`` without
evaluations, ``ap``, ``ap50``.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from effdet.commands import main
from effdet.runs import build


def report_evaluations(build: Callable[..., Any], started: float) -> Callable[..., Any]:
    """Wrap ``build``, which builds the evaluation of a run, so that every evaluation prints a line."""

    def build_and_report(*args: Any, **kwargs: Any) -> Callable[[Any], Mapping[str, float]]:
        evaluate, spent = build(*args, **kwargs), 0.0

        def report(candidate: Any) -> Mapping[str, float]:
            nonlocal spent
            before = time.time()
            scores: Mapping[str, float] = evaluate(candidate)
            now = time.time()
            training = before - started - spent
            spent += now - before
            line = {"seconds": now - started, "training_seconds": training, "ap": scores["ap"], "ap50": scores["ap50"]}
            print(json.dumps(line), flush=True)
            return scores

        return report

    return build_and_report


if __name__ == "__main__":
    start = float(os.environ.get("BENCHMARK_STARTED", time.time()))
    build.build_evaluation = report_evaluations(build.build_evaluation, start)
    sys.exit(main(["train", *sys.argv[1:]]))
