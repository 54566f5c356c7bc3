"""Signals that stop a run. A signal makes a request, and the run stops between two optimizer steps."""

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
    """Whether a signal has asked the run to stop.

    Attributes:
        made: This process has received a signal.
        agreed: All processes of the run have agreed to stop after the present step. A process does not stop before
            that, because the others would wait for it.
        at_once: A signal raises ``Interrupted`` at once. Set while an immediate stop loses no work.
        patient: A second signal does not raise ``Interrupted``, because ``torchrun`` may send a signal that the process
            has already received from the terminal.
    """

    made: bool = False
    agreed: bool = False
    at_once: bool = False
    patient: bool = False

    @contextlib.contextmanager
    def granted_at_once(self) -> Iterator[None]:
        """Let a signal interrupt the block at once.

        Raises:
            Interrupted: If a signal arrives, or has arrived before.
        """
        self.at_once = True
        try:
            if self.made:
                raise Interrupted
            yield
        finally:
            self.at_once = False

    def wait(self, seconds: float) -> bool:
        """Wait for a request for at most some seconds, and return whether it was made."""
        end = time.monotonic() + seconds
        while not self.made and time.monotonic() < end:
            time.sleep(0.01)
        return self.made

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Handle signals in the block: Ctrl-C, SIGTERM or a closed terminal makes the request.

        A second signal raises ``Interrupted``. SIGHUP stays ignored if it was ignored before, as under ``nohup``. In
        any thread but the main one no handler is set, because Python does not allow it.

        The same signal may end the loader processes, which PyTorch's handler of SIGCHLD reports as an error. After a
        request this is no error, so a handler that does nothing replaces PyTorch's. (``SIG_DFL`` would not work:
        CPython reports an error if a signal that has already arrived has no handler.)
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
    """Discard all further output to a terminal, because writing to a closed terminal is an error."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        with contextlib.suppress(OSError):
            if stat.S_ISCHR(os.fstat(output).st_mode):
                os.dup2(nowhere, output)
    os.close(nowhere)
