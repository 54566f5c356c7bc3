"""Measure runners in turns: ours, peer, ours, peer, … so that load on the machine affects all of them alike.

A process that has slept for the turns of the others is slow in its first step: its caches are cold, and its threads
have to wake up. That costs a fast program a larger share than a slow one. So the first steps of a turn may be left out
(``lead_in``), and each entry may also be measured before the others are at work (``alone``).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
SEARCH_PATH = os.pathsep.join([str(ROOT), str(HERE.parent)])  # where Python finds the modules effdet and benchmark
LONG_ROUND = 5.0  # seconds from which on a line tells that a round is over
PAUSE = 0.05  # seconds between turns, in which the threads of the last runner go to sleep


class RunnerError(RuntimeError):
    """A runner could not do its task; the message comes from the runner."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A runner to start, with its task.

    Attributes:
        name: Name in tables.
        module: A module of ``runners``, or its file if ``python`` is given.
        task: A key of the module's ``TASKS``.
        settings: Arguments of the task.
        python: Interpreter of another environment; None: this one.
        environment: Environment variables of the process, in addition to those of this process.
    """

    name: str
    module: str
    task: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    python: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)


class Runner:
    """The process of an entry. Peers run isolated, in another folder, because both projects are imported as effdet."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self._folder = tempfile.TemporaryDirectory()
        serve = str(HERE / "runners" / "serve.py")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "NO_ALBUMENTATIONS_UPDATE": "1", **entry.environment}
        if entry.python is None:
            environment["PYTHONPATH"] = SEARCH_PATH
            command = [sys.executable, serve, f"benchmark.runners.{entry.module}"]
        else:
            environment.pop("PYTHONPATH", None)
            command = [entry.python, "-I", "-W", "ignore", serve, str(HERE / "runners" / f"{entry.module}.py")]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=self._folder.name,
            env=environment,
            text=True,
        )
        self.peak_mb = 0.0

    def __enter__(self) -> Runner:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        self._folder.cleanup()

    def ask(self, do: str, **details: Any) -> dict[str, Any]:
        """Send a request and wait for its answer.

        Raises:
            RunnerError: If the runner fails, or its process ends.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **details}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise RunnerError(f"{self.entry.name}: its process ended without an answer; see its messages on stderr")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise RunnerError(f"{self.entry.name}: {answer['error']}")
        self.peak_mb = answer["peak_mb"]
        return answer

    def start(self) -> dict[str, Any]:
        """Prepare the task and return the runner's facts about itself."""
        facts: dict[str, Any] = self.ask("start", task=self.entry.task, settings=dict(self.entry.settings))["facts"]
        return facts


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Median and spread of measured seconds."""

    median: float
    first_quartile: float
    third_quartile: float
    smallest: float
    largest: float
    count: int


def spread(values: Sequence[float]) -> Spread:
    """Return median, quartiles (medians of the lower and the upper half), extremes and number of values.

    Raises:
        ValueError: If there are none.
    """
    if not values:
        raise ValueError("a spread needs at least one value, got none")
    ordered = sorted(values)
    half = (len(ordered) + 1) // 2
    return Spread(
        median=median(ordered),
        first_quartile=median(ordered[:half]),
        third_quartile=median(ordered[-half:]),
        smallest=ordered[0],
        largest=ordered[-1],
        count=len(ordered),
    )


@dataclass(kw_only=True)
class Row:
    """The result of one entry."""

    name: str
    seconds: list[float] = field(default_factory=list)  # of every counted step
    alone: list[float] = field(default_factory=list)  # of steps after the warm-up, while the other processes sleep
    parts: dict[str, list[float]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    peak_mb: float = 0.0
    error: str | None = None

    @property
    def median(self) -> float:
        """Median seconds of a step."""
        return spread(self.seconds).median

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain values for JSON."""
        return {
            **asdict(self),
            "spread": asdict(spread(self.seconds)) if self.seconds else None,
            "spread_alone": asdict(spread(self.alone)) if self.alone else None,
            "parts": {name: asdict(spread(values)) for name, values in self.parts.items()},
        }


def race(
    entries: Sequence[Entry], *, rounds: int, warmup: int, steps: int = 1, lead_in: int = 0, alone: int = 0
) -> list[Row]:
    """Start and warm up every entry; then measure ``steps`` steps of each in turn, ``rounds`` times.

    Each round begins with another entry. After a failure an entry keeps its error and is not measured again. Lines on
    stderr tell when an entry is ready, and when a long round is over.

    Args:
        entries: What runs.
        rounds: Turns of each entry.
        warmup: Steps of an entry after its start; they are not counted.
        steps: Counted steps of a turn.
        lead_in: Steps before them in each turn; they are not counted.
        alone: Steps that are measured right after the warm-up of each entry, while all others sleep.
    """
    rows = [Row(name=entry.name) for entry in entries]
    runners = [Runner(entry) for entry in entries]
    try:
        running = [pair for pair in zip(runners, rows, strict=True) if _ready(*pair, warmup, alone)]
        for turn in range(rounds):
            started = time.perf_counter()
            for runner, row in running[turn % max(1, len(running)) :] + running[: turn % max(1, len(running))]:
                if row.error is None:
                    _measure(runner, row, steps, lead_in)
                    time.sleep(PAUSE)
            if (seconds := time.perf_counter() - started) >= LONG_ROUND:
                _say(f"round {turn + 1} of {rounds} took {seconds:.0f} s")
        for runner, row in running:
            if row.error is None:
                _finish(runner, row)
    finally:
        for runner in runners:
            runner.__exit__(None, None, None)
    return rows


def _say(what: str) -> None:
    """Tell who waits how far the race is; results alone go to stdout."""
    print(what, file=sys.stderr, flush=True)


def _ready(runner: Runner, row: Row, warmup: int, alone: int) -> bool:
    started = time.perf_counter()
    try:
        row.facts = runner.start()
        if warmup:
            runner.ask("step", count=warmup)
        if alone:
            row.alone = runner.ask("step", count=alone)["seconds"]
    except RunnerError as error:
        row.error = str(error)
        return False
    _say(f"{row.name} is ready after {time.perf_counter() - started:.1f} s")
    return True


def _measure(runner: Runner, row: Row, steps: int, lead_in: int) -> None:
    try:
        answer = runner.ask("step", count=lead_in + steps)
    except RunnerError as error:
        row.error = str(error)
        return
    row.seconds += answer["seconds"][lead_in:]
    row.peak_mb = runner.peak_mb
    for parts in answer["parts"][lead_in:]:
        for name, seconds in parts.items():
            row.parts.setdefault(name, []).append(seconds)


def _finish(runner: Runner, row: Row) -> None:
    try:
        row.result = runner.ask("result")["result"]
    except RunnerError as error:
        row.error = str(error)
    row.peak_mb = runner.peak_mb
