"""The process of one runner: it does a task whenever it is asked to, and sleeps in between.

    python serve.py MODULE_OR_FILE

It is started by path, under this project's interpreter or a peer's, and therefore imports nothing but the standard
library before the module that it is given. That has ``TASKS``: names and classes; an object is made with the settings
of its task, ``step()`` runs the task once and may return the seconds of its parts, and ``result()`` its outcome.

Requests and answers are lines of JSON on stdin and stdout; whatever else prints goes to stderr.
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
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO


def serve(name: str, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until their end; an error is an answer too."""
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
        except Exception as error:  # whatever a runner raises is its result
            answer = {"error": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        answers.write(json.dumps({**answer, "peak_mb": peak_mb()}) + "\n")
        answers.flush()


def run(task: Any, count: int) -> dict[str, Any]:
    """Do the task ``count`` times; return the seconds of each time and of its parts."""
    seconds: list[float] = []
    parts: list[dict[str, float]] = []
    for _ in range(count):
        started = time.perf_counter()
        found = task.step()
        seconds.append(time.perf_counter() - started)
        parts.append(found or {})
    return {"seconds": seconds, "parts": parts}


def load(name: str) -> ModuleType:
    """Import a module by its name, or by its file."""
    if not name.endswith(".py"):
        return importlib.import_module(name)
    spec = importlib.util.spec_from_file_location(Path(name).stem, name)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def peak_mb() -> float:
    """Return the most memory that this process ever held, in MB.

    ``ru_maxrss`` would do, but on Linux it starts with the size of the process that started this one.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Serve on the real stdout, after giving its number to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.argv[1], sys.stdin, answers)


if __name__ == "__main__":
    main()
