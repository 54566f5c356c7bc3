"""Messages between the processes of a run: signs of life, meetings, requests to stop, and failures."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

logger = logging.getLogger(__name__)

BEAT = 1.0  # seconds between two signs of life of a process
ENDED = "ended"  # the last sign of a process
SILENCE = 60.0  # seconds without a sign of life after which other processes log an error


class PeerError(RuntimeError):
    """Another process of the run has failed, has ended or does not respond."""


class Peers:
    """Messages between the processes of a run, through a key-value store that all of them can reach.

    A thread sends a sign of life every second and checks whether a process has asked to stop. The others can therefore
    distinguish a process that works for a long time from one that does not respond.

    Args:
        store: A ``torch.distributed.Store`` of this run.
        rank: Number of this process.
        size: Number of processes.
        timeout: Seconds without a sign of life after which a process counts as lost.
    """

    def __init__(self, store: Any, rank: int, size: int, timeout: float) -> None:
        self._store, self._rank, self._size, self._timeout = store, rank, size, timeout
        self._meetings = self._beats = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="effdet-peers", daemon=True)
        self._stop_seen = False
        self._parent = os.getppid() if _by_torchrun() else None

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Send signs of life during the block, and say at its end that there will be no more."""
        self._give_sign()
        self._thread.start()
        try:
            yield
        finally:
            self._closed.set()
            self._thread.join(timeout=5 * BEAT)
            with contextlib.suppress(RuntimeError):
                if not self._is_orphan():
                    self._store.set(f"sign/{self._rank}", ENDED)

    def meet(self) -> None:
        """Wait until all processes have called this method, without a time limit for one that sends signs of life.

        Raises:
            PeerError: If another process has failed, or has sent no sign of life for the timeout.
        """
        self._meetings += 1
        name = f"meeting/{self._meetings}"
        try:
            self._store.set(f"{name}/{self._rank}", "here")
            self._wait([f"{name}/{rank}" for rank in range(self._size)])
        except PeerError:
            raise
        except RuntimeError as error:
            raise PeerError(self.explain_loss()) from error

    def _wait(self, keys: Sequence[str]) -> None:
        heard = {rank: ("", time.monotonic()) for rank in range(self._size)}
        pause, next_look = 0.001, time.monotonic() + BEAT
        while not self._store.check(keys):
            time.sleep(pause)
            pause = min(2 * pause, BEAT / 4)
            if time.monotonic() < next_look:
                continue
            next_look = time.monotonic() + BEAT
            failure = self.failure()
            if failure is not None:
                raise PeerError(failure)
            missing = [rank for rank, key in enumerate(keys) if not self._store.check([key])]
            for rank in missing:
                sign = self._sign_of(rank)
                heard[rank] = (sign, time.monotonic()) if sign != heard[rank][0] else heard[rank]
            lost = [rank for rank in missing if time.monotonic() - heard[rank][1] > self._timeout]
            if lost:
                raise PeerError(self._describe_silence(lost))

    # ------------------------------------------------------------------ how a run ends

    def announce_stop(self) -> None:
        """Ask all processes to stop."""
        with contextlib.suppress(RuntimeError):
            if not self._is_orphan():
                self._store.set("stop", str(self._rank))

    def announce_failure(self, sentence: str) -> None:
        """Send the reason why this process ends to the other processes, and to ``torchrun`` for its summary."""
        with contextlib.suppress(RuntimeError):
            if not self._is_orphan() and not self._store.check(["failure"]):
                self._store.set("failure", json.dumps([self._rank, sentence]))
        _write_error_file(sentence)

    def failure(self) -> str | None:
        """Return which process has reported a failure and why, or None."""
        try:
            if self._is_orphan() or not self._store.check(["failure"]):
                return None
            rank, sentence = json.loads(self._store.get("failure"))
        except RuntimeError:
            return None
        return None if rank == self._rank else f"process {rank} of this run has failed: {sentence}"

    def explain_loss(self) -> str:
        """Return why the connection may be lost, after a short wait for signs of life."""
        for _ in range(3):  # a process that has failed may not have sent the reason yet
            failure = self.failure()
            if failure is not None:
                return failure
            time.sleep(BEAT / 3)
        if self._is_orphan():
            return "the process that started this run has ended"
        try:
            before = [self._sign_of(rank) for rank in range(self._size)]
            time.sleep(3 * BEAT)
            lost = [rank for rank in range(self._size) if self._sign_of(rank) == before[rank] and rank != self._rank]
        except RuntimeError:
            return "the process that started this run, or its main process, has ended; see the messages before this one"
        return self._describe_silence(lost)

    def _is_orphan(self) -> bool:
        """Return whether ``torchrun`` has ended, and with it the store; PyTorch logs long errors about a lost store."""
        return self._parent is not None and os.getppid() != self._parent

    def _describe_silence(self, lost: Sequence[int]) -> str:
        if not lost:
            return "another process of this run does not answer in time, or its connection broke; see its messages"
        return (
            f"process {', '.join(map(str, lost))} of this run has ended or stands still, without a message; look at "
            "the memory and the disk of its machine, then continue the run with --resume"
        )

    # ------------------------------------------------------------------ signs of life

    def _give_sign(self) -> None:
        self._beats += 1
        self._store.set(f"sign/{self._rank}", str(self._beats))

    def _sign_of(self, rank: int) -> str:
        key = f"sign/{rank}"
        return self._store.get(key).decode() if self._store.check([key]) else ""

    def _watch(self) -> None:
        """Send signs of life and handle requests to stop, until the store is closed."""
        watched = range(1, self._size) if self._rank == 0 else [0] if self._rank == 1 else []
        heard = {rank: ("", time.monotonic()) for rank in watched}
        while not self._closed.wait(BEAT) and not self._is_orphan():
            try:
                self._give_sign()
                self._look_for_stop()
                for rank in watched:
                    heard[rank] = self._listen(rank, *heard[rank])
            except RuntimeError:
                return

    def _look_for_stop(self) -> None:
        if not self._stop_seen and self._store.check(["stop"]):
            self._stop_seen = True
            if self._store.get("stop").decode() != str(self._rank):
                os.kill(os.getpid(), signal.SIGTERM)  # handled like a signal from another program

    def _listen(self, rank: int, last: str, since: float) -> tuple[str, float]:
        sign = self._sign_of(rank)
        now = time.monotonic()
        if sign == ENDED:
            return sign, math.inf  # never missed: the main process may still be drawing, or writing the report
        if sign != last:
            return sign, now
        if now - since > SILENCE:
            logger.error("process %d gives no sign of life for %d s; the others wait for it", rank, SILENCE)
            return sign, math.inf
        return sign, since


def stop_with_parent() -> None:
    """Send SIGTERM to this process when ``torchrun`` ends, so that it does not continue without the others.

    On Linux the system sends the signal; on other systems a thread checks the parent process every second. Without
    ``torchrun`` this function does nothing, because a process may outlive the shell that started it.
    """
    if not _by_torchrun():
        return
    parent = os.getppid()
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # the parent had already ended
            os.kill(os.getpid(), signal.SIGTERM)
        return
    threading.Thread(target=_watch_parent, args=(parent,), name="effdet-parent", daemon=True).start()


def _by_torchrun() -> bool:
    return "TORCHELASTIC_RUN_ID" in os.environ and os.name == "posix"


def _watch_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(BEAT)
    os.kill(os.getpid(), signal.SIGTERM)


def _write_error_file(sentence: str) -> None:
    """Write the sentence to the file from which ``torchrun`` reads the reason for its summary."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path:
        details = {"py_callstack": sentence, "timestamp": str(int(time.time()))}
        with contextlib.suppress(OSError), open(path, "w", encoding="utf-8") as file:
            json.dump({"message": {"message": sentence, "extraInfo": details}}, file)
