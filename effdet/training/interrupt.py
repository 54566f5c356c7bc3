"""Signals that end a run: a request, which is granted between two optimizer steps."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)  # Ctrl-C; kill, or the end of a batch job; a terminal that is closed


class Interrupted(KeyboardInterrupt):
    """The run was stopped by a signal; its checkpoint is written."""


@dataclass
class StopRequest:
    """Whether somebody wants the run to end.

    Attributes:
        made: A signal has asked this process.
        agreed: All processes of the run have agreed to stop after the present step. A process never stops on its own
            request alone, because the others would wait for it.
        at_once: Set while nothing would be lost: a signal then raises ``Interrupted``.
        patient: A second signal does not raise ``Interrupted``. ``torchrun`` may pass on a signal that the process has
            already got from the terminal.
    """

    made: bool = False
    agreed: bool = False
    at_once: bool = False
    patient: bool = False

    @contextlib.contextmanager
    def granted_at_once(self) -> Iterator[None]:
        """Let a signal end the block instead of waiting for its end.

        Raises:
            Interrupted: If a signal comes, or has come before.
        """
        self.at_once = True
        try:
            if self.made:
                raise Interrupted
            yield
        finally:
            self.at_once = False

    def wait(self, seconds: float) -> bool:
        """Return whether the request is made, or is made within some seconds."""
        end = time.monotonic() + seconds
        while not self.made and time.monotonic() < end:
            time.sleep(0.01)
        return self.made

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let Ctrl-C, SIGTERM and a closed terminal make the request; a second one raises ``Interrupted``.

        SIGHUP stays ignored where it is, as under ``nohup``. In a thread other than the main one signals are left to
        the program that started it.

        Loader processes may die of the same signal, which PyTorch's handler of SIGCHLD reports as an error. After a
        request their death is no error, so a handler that does nothing takes its place. (``SIG_DFL`` would not do:
        CPython complains when a signal that is already on its way finds no handler.)
        """
        if threading.current_thread() is not threading.main_thread():  # only the main one can set handlers
            yield
            return
        owner = os.getpid()
        replaced: dict[int, Any] = {}

        def request(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:
                return  # a loader process, which its parent will end
            if hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
                replaced.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda number, frame: None))
            if number == getattr(signal, "SIGHUP", None):
                leave_terminal()
            if self.at_once or (self.made and not self.patient):
                raise Interrupted
            if not self.made:
                logger.info("%s: stopping after this step", signal.Signals(number).name)
            self.made = True

        for number in SIGNALS:
            if number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) is not signal.SIG_IGN:
                replaced[number] = signal.signal(number, request)
        try:
            yield
        finally:
            for changed, handler in replaced.items():
                signal.signal(changed, handler)


def leave_terminal() -> None:
    """Write to nowhere from now on what would go to a terminal: writing to a closed one is an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode):
                os.dup2(nowhere, output)
    os.close(nowhere)
