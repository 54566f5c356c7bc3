"""The process of one runner: it waits for requests and does a task for each.

    python serve.py MODULE_OR_FILE

It is started by path, under this project's interpreter or a peer's. Therefore it imports only the standard library
before it imports the given module. ``TASKS`` of that module is a dict from names to classes. An object of a class is
constructed with the settings of the task. Its method ``step()`` runs the task once and may return the seconds of its
parts; ``result()`` returns the result.

Requests and answers are lines of JSON on stdin and stdout; all other output goes to stderr.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

REAL_TIME = "BENCHMARK_REAL_TIME"  # a variable of the environment: measure with real-time priority


def serve(name: str, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more; an error is sent as an answer."""
    started = time.perf_counter()
    module = load(name)
    import_seconds = time.perf_counter() - started
    task: Any = None
    for line in requests:
        request = json.loads(line)
        try:
            if request["do"] == "start":
                task = module.TASKS[request["task"]](**request["settings"])
                answer = {"facts": getattr(task, "facts", {}), "import_seconds": import_seconds}
            elif request["do"] == "step":
                answer = run(task, request["count"])
            else:
                answer = {"result": task.result()}
        except Exception as error:  # any error of a runner is its answer
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answers.write(json.dumps({**answer, "peak_mb": peak_mb()}) + "\n")
        answers.flush()


def run(task: Any, count: int) -> dict[str, Any]:
    """Do the task ``count`` times; return the seconds of each time and of its parts."""
    seconds: list[float] = []
    parts: list[dict[str, float]] = []
    with real_time() if REAL_TIME in os.environ else contextlib.nullcontext():
        for _ in range(count):
            started = time.perf_counter()
            found = task.step()
            seconds.append(time.perf_counter() - started)
            parts.append(found or {})
    return {"seconds": seconds, "parts": parts}


@contextlib.contextmanager
def real_time() -> Iterator[None]:
    """Give the threads of this process precedence over all programs without real-time priority; Linux, as root."""
    _schedule(os.SCHED_RR, 1)
    try:
        yield
    finally:
        _schedule(os.SCHED_OTHER, 0)


def _schedule(policy: int, priority: int) -> None:
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.sched_setscheduler(int(thread), policy, os.sched_param(priority))


def load(name: str) -> ModuleType:
    """Import a module by its name or by the path of its file."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_mb() -> float:
    """Return the peak memory of this process in MB.

    On Linux ``ru_maxrss`` cannot be used, because it begins with the size of the process that started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Serve on the original stdout, and redirect file descriptor 1 to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
