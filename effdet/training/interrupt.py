"""Ctrl-C and SIGTERM as a request that is granted between two optimizer steps."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)


class Interrupted(KeyboardInterrupt):
    """The run was stopped by Ctrl-C or SIGTERM; its checkpoint is written."""


@dataclass
class StopRequest:
    """Whether somebody wants the run to end."""

    made: bool = False
    at_once: bool = False  # set while nothing would be lost: a signal then raises Interrupted

    @contextlib.contextmanager
    def granted_at_once(self) -> Iterator[None]:
        """Let a signal end the block instead of waiting for its end."""
        self.at_once = True
        try:
            yield
        finally:
            self.at_once = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Let Ctrl-C and SIGTERM make the request; a second one raises ``Interrupted``.

        Loader processes may die of the same signal, which PyTorch's handler of SIGCHLD reports as an error. After a
        request their death is none any more, so a handler that does nothing takes its place. (``SIG_DFL`` would not
        do: CPython complains when a signal that is already on its way finds no handler.)
        """
        owner = os.getpid()
        replaced: dict[int, Any] = {}

        def request(number: int, frame: FrameType | None) -> None:
            if os.getpid() != owner:
                return  # a loader process, which its parent will end
            if hasattr(signal, "SIGCHLD") and callable(signal.getsignal(signal.SIGCHLD)):
                replaced.setdefault(signal.SIGCHLD, signal.signal(signal.SIGCHLD, lambda number, frame: None))
            if self.made or self.at_once:
                raise Interrupted
            self.made = True
            logger.info("%s: stopping after this step", signal.Signals(number).name)

        for number in (signal.SIGINT, signal.SIGTERM):
            replaced[number] = signal.signal(number, request)
        try:
            yield
        finally:
            for changed, handler in replaced.items():
                signal.signal(changed, handler)
