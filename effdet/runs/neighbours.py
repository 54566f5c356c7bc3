"""Other programs on the processors of a run: as long as they are busy, waiting threads of PyTorch sleep at once.

A thread of OpenMP that waits for the others of its team spins for some milliseconds before it sleeps. That is fastest
on processors that nobody else uses. Beside a busy program it takes the time that the late thread of its team needs.

libgomp, the OpenMP of PyTorch's packages for Linux, spins for much less time while a process has more threads of OpenMP
than processors (its manual, ``GOMP_SPINCOUNT``). So ``watch_neighbours`` lets idle threads exist while other programs
are busy. The threads that compute, and hence the sums and their order, stay the same.

A process that the run itself started, such as a loader process, is no neighbour. Another training is one, even if the
same shell started both.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from effdet.runs.workers import usable_cores

logger = logging.getLogger(__name__)

CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "KMP_BLOCKTIME")  # by which a user says how threads wait
SECONDS = 2.0  # between two looks at the machine
CROWDED = 0.2  # processors that are missing before threads sleep at once
QUIET_LOOKS = 10  # in a row, before they spin again
GRAIN = 32768  # elements that PyTorch gives to one thread at least

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")
_BUSY = (1, 2, 3, 6, 7, 8)  # columns of /proc/stat: user, nice, system, interrupts (2), taken by other virtual machines
_SPENT = slice(11, 15)  # columns of /proc/PID/stat, after the name: user, system, and both of children that have ended


@contextlib.contextmanager
def watch_neighbours(device: torch.device) -> Iterator[None]:
    """Look at the machine from time to time, and let waiting threads sleep at once while other programs need it.

    A line in the log says what was found first, and one what changed. Nothing happens on a GPU, where PyTorch has one
    thread, where the environment says how threads wait, or where the system does not tell how busy its processors are.

    Args:
        device: Where the network runs.
    """
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    chosen = [f"{name}={os.environ[name]}" for name in CHOICES if name in os.environ]
    if chosen and threads > 1:
        logger.info("waiting threads behave as the environment says: %s", ", ".join(chosen))
    if chosen or threads == 1 or not (PROC / "stat").exists():
        yield
        return
    ended = threading.Event()
    watcher = threading.Thread(target=_watch, args=(threads, ended), name="effdet-neighbours", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        ended.set()
        watcher.join()


def _watch(threads: int, ended: threading.Event) -> None:
    """Look every ``SECONDS``, and hold idle threads while the processors are too few."""
    processors, meter, quiet_looks = usable_processors(), Meter(), 0
    idle: contextlib.ExitStack | None = None
    is_first = True
    while not ended.wait(SECONDS):
        others = meter.others()
        missing = threads + others - processors
        quiet_looks = 0 if missing > CROWDED / 2 else quiet_looks + 1
        found = f"other programs use {others:.1f} of {processors:g} processors, this run has {threads} threads"
        if idle is None and missing > CROWDED:
            idle = contextlib.ExitStack()
            idle.enter_context(idle_threads(threads, processors))
            logger.info("%s: waiting threads sleep at once", found)
        elif idle is not None and quiet_looks >= QUIET_LOOKS:
            idle.close()
            idle = None
            logger.info("%s: waiting threads spin again", found)
        elif is_first:
            logger.info("%s", found)
        is_first = False
    if idle is not None:
        idle.close()


@contextlib.contextmanager
def idle_threads(threads: int, processors: float) -> Iterator[None]:
    """Let this process have more threads of OpenMP than processors; those beside the ones that compute sleep.

    Each thread that calls PyTorch has a team of its own, which exists as long as that thread.

    Args:
        threads: Threads of a team, two or more.
        processors: That this process may use.
    """
    released = threading.Event()
    count = max(0, int(processors) - threads) // (threads - 1) + 1
    made = threading.Barrier(count + 1)

    def hold() -> None:
        torch.ones(threads * GRAIN)  # so large that the whole team takes part
        made.wait()
        released.wait()

    holders = [threading.Thread(target=hold, name="effdet-idle", daemon=True) for _ in range(count)]
    for holder in holders:
        holder.start()
    made.wait()
    try:
        yield
    finally:
        released.set()
        for holder in holders:
            holder.join()


class Meter:
    """Measures how many processors other programs use, from one call to the next."""

    def __init__(self) -> None:
        self._last = self._read()

    def others(self) -> float:
        """Return processors in use by other programs since the last call; of those that this process may use."""
        now, last = self._read(), self._last
        self._last = now
        seconds, busy, own = (after - before for after, before in zip(now, last, strict=True))
        return max(0.0, busy - max(0.0, own)) / max(seconds, 1e-3)

    @staticmethod
    def _read() -> tuple[float, float, float]:
        """Return seconds by the clock, those in which the processors were busy, and those of this run."""
        names = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        rows = (line.split() for line in (PROC / "stat").read_text().splitlines() if line.startswith("cpu"))
        ticks = sum(int(row[column]) for row in rows if row[0] in names for column in _BUSY)
        return time.monotonic(), ticks / os.sysconf("SC_CLK_TCK"), own_seconds()


def own_seconds() -> float:
    """Return the processor seconds of this process and of those that it started, also of those that have ended."""
    return sum(map(_ticks_of, own_processes())) / os.sysconf("SC_CLK_TCK")


def _ticks_of(process: int) -> int:
    """Return the time of a process and of its children that have ended; 0 if it has ended itself."""
    try:
        text = (PROC / str(process) / "stat").read_text()
    except OSError:
        return 0
    return sum(map(int, text.rpartition(")")[2].split()[_SPENT]))


def own_processes(process: int | None = None) -> list[int]:
    """Return the numbers of a process (None: this one) and of all that it started, and those started, and so on."""
    process = os.getpid() if process is None else process
    found = [process]
    with contextlib.suppress(OSError):  # it ends at this moment
        for children in (PROC / str(process) / "task").glob("*/children"):
            for child in children.read_text().split():
                found += own_processes(int(child))
    return found


def usable_processors() -> float:
    """Return how many processors this process may use: those of its affinity, or fewer by a limit of its cgroup."""
    return min([float(usable_cores()), *_cgroup_limits()])


def _cgroup_limits() -> Iterator[float]:
    """Yield the limits in processors that cgroups set to this process, in version 2 and version 1."""
    with contextlib.suppress(OSError, ValueError):
        own = Path("/proc/self/cgroup").read_text().partition("0::/")[2].splitlines()
        folder = CGROUP.joinpath(*own[:1])
        for place in (folder, *folder.parents):
            file = place / "cpu.max"
            quota, _, period = (file.read_text() if file.exists() else "max").partition(" ")
            if quota.strip() != "max":
                yield int(quota) / int(period)
    with contextlib.suppress(OSError, ValueError):
        quota_us, period_us = (int((CGROUP / "cpu" / f"cpu.cfs_{name}_us").read_text()) for name in ("quota", "period"))
        if quota_us > 0:
            yield quota_us / period_us
