"""Run inputs through a reader in processes of their own, which a bad one may end."""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path

from fuzz.targets import Target, all_targets, is_clean

_SECONDS, _BYTES = 30, 4 << 30
_TOLD = 500  # inputs between two notes of a worker


class State:
    """How many inputs each reader has had, in a JSON file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, dict[str, int]] = {}
        if path is not None and path.is_file():
            self._known = json.loads(path.read_text())

    def next(self, name: str) -> int:
        """Return the number of the first input that a reader has not had."""
        return self._known.get(name, {}).get("tried", 0)

    def add(self, name: str, tried: int, accepted: int, failed: int) -> None:
        """Count inputs."""
        known = self._known.setdefault(name, {"tried": 0, "accepted": 0, "failed": 0})
        for key, value in (("tried", tried), ("accepted", accepted), ("failed", failed)):
            known[key] += value
        if self._path is not None:
            self._path.write_text(json.dumps(self._known, indent=1))


class TooSlowError(BaseException):
    """An input took more than its time."""


def try_input(target: Target, content: bytes, folder: Path) -> str | None:
    """Return what is wrong with the answer to one input; "" if it is refused cleanly, None if it is accepted."""
    try:
        target.read(content, folder)
        return None
    except (Exception, TooSlowError, SystemExit) as error:
        wrong = is_clean(error)
        return f"{wrong}\n{traceback.format_exc()}" if wrong else ""


def run_target(target: Target, numbers: range, failures: Path, state: State) -> int:
    """Run inputs of a reader; return how many failed. A worker that ends is replaced."""
    number, started, failed = numbers.start, time.perf_counter(), 0
    while number < numbers.stop:
        ours, theirs = multiprocessing.Pipe(duplex=False)
        context = (
            multiprocessing.get_context("fork") if sys.platform == "linux" else multiprocessing.get_context("spawn")
        )
        worker = context.Process(target=_work, args=(target.name, range(number, numbers.stop), failures, theirs))
        worker.start()
        theirs.close()
        begun = number
        with contextlib.suppress(EOFError):
            while True:
                done, accepted, bad = ours.recv()
                state.add(target.name, done - number, accepted, bad)
                number, failed = done, failed + bad
        worker.join()
        if worker.exitcode and number < numbers.stop:
            number = _after_the_fatal(target, number, numbers.stop, failures, worker.exitcode, state)
            failed += 1
        elif number == begun:
            raise RuntimeError(f"the worker for {target.name} ended before its first input")
    seconds = time.perf_counter() - started
    print(f"{target.name}: {len(numbers):,} inputs, {failed} failed, {seconds:.0f} s", flush=True)
    return failed


def _after_the_fatal(target: Target, number: int, stop: int, failures: Path, code: int, state: State) -> int:
    """Find the input that ended a worker among those since its last note, keep it, and return the next number."""
    for candidate in range(number, min(stop, number + _TOLD)):
        worker = multiprocessing.get_context("fork").Process(
            target=_work, args=(target.name, range(candidate, candidate + 1), failures, None)
        )
        worker.start()
        worker.join()
        if worker.exitcode:
            _keep(target, candidate, failures, f"the process ended with {worker.exitcode}")
            state.add(target.name, candidate + 1 - number, 0, 1)
            return candidate + 1
    _keep(target, number, failures, f"the process ended with {code}, by no single input of the next {_TOLD}")
    state.add(target.name, min(stop, number + _TOLD) - number, 0, 1)
    return min(stop, number + _TOLD)


def _work(name: str, numbers: range, failures: Path, notes: Connection | None) -> None:
    target = all_targets()[name]
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    resource.setrlimit(resource.RLIMIT_AS, (_address_space() + _BYTES,) * 2)
    signal.signal(signal.SIGPROF, _too_slow)
    with _silenced(), tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as place:
        accepted = failed = 0
        for count, number in enumerate(numbers, start=1):
            folder = Path(place) / "x"
            folder.mkdir()
            signal.setitimer(signal.ITIMER_PROF, _SECONDS)
            wrong = try_input(target, target.input(number), folder)
            signal.setitimer(signal.ITIMER_PROF, 0)
            shutil.rmtree(folder)
            accepted += wrong is None
            if wrong:
                _keep(target, number, failures, wrong)
                failed += 1
            if notes is not None and (count % _TOLD == 0 or count == len(numbers)):
                notes.send((number + 1, accepted, failed))
                accepted = failed = 0


def _too_slow(*_: object) -> None:
    raise TooSlowError(f"more than {_SECONDS} s of a processor")


def _address_space() -> int:
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    return 16 << 30


@contextlib.contextmanager
def _silenced() -> Iterator[None]:
    """Send what decoders write to stderr to nowhere."""
    sys.stderr.flush()
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _keep(target: Target, number: int, failures: Path, wrong: str) -> None:
    folder = failures / target.name.replace(" ", "-")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{number}.input").write_bytes(target.input(number))
    (folder / f"{number}.txt").write_text(wrong)


def run_guided(target: Target, count: int, failures: Path) -> int:
    """Let atheris look for inputs that reach new lines of the readers; it ends the process itself.

    Raises:
        ImportError: If atheris is not installed.
    """
    import atheris

    corpus = failures / f"corpus-{target.name.replace(' ', '-')}"
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.known_seeds()):
        (corpus / f"seed-{number}").write_bytes(seed)
    place = Path(tempfile.mkdtemp())

    def one(content: bytes) -> None:
        folder = place / "x"
        folder.mkdir()
        wrong = try_input(target, content, folder)
        shutil.rmtree(folder)
        if wrong:
            raise AssertionError(wrong)

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], str(corpus), f"-runs={count}", "-timeout=30", "-rss_limit_mb=8192"], one)
    atheris.Fuzz()
    return 0
