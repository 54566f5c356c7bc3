"""Show on stderr how far a long job is: a bar on a terminal, plain lines elsewhere if they are wanted."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, Protocol, TextIO, TypeAlias, TypeVar

Item = TypeVar("Item", covariant=True)

Report: TypeAlias = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and out of how much."""


def report_nothing(what: str, done: int, total: int) -> None:
    """Show nothing; the default of functions that take a ``Report``."""


class ProgressBar:
    """A bar with the percentage and the time left; a ``Report`` that is also a context manager.

        with ProgressBar(seconds_between_lines=10) as report:
            report("checking images", 5, 100)

    The bar disappears at the end. A terminal that is closed meanwhile does not end the job.

    Args:
        seconds_between_lines: Where stderr is not a terminal, print a line at least this long after the last, and at
            the start and the end of each job. None prints nothing there.
    """

    def __init__(self, *, seconds_between_lines: float | None = None) -> None:
        self._pause = seconds_between_lines
        self._bar: Any = None
        self._job, self._done, self._last_line = ("", 0), 0, 0.0

    @property
    def is_shown(self) -> bool:
        """Whether there is a bar, because stderr is a terminal; False before ``with``."""
        return self._bar is not None

    def __enter__(self) -> ProgressBar:
        if sys.stderr.isatty():
            self._bar = _make_bar()
            self._bar.start()
        return self

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` are done; a ``total`` of 0 is not known.

        The time left is estimated anew when ``total`` changes.
        """
        if self._bar is not None:
            self._move(what, done, total)
        elif self._pause is not None:
            self._print(what, done, total)

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _move(self, what: str, done: int, total: int) -> None:
        if total != self._job[1] or done < self._done:
            self._bar.reset(0, total=total or None, completed=done, description=what)
        self._job, self._done = (what, total), done
        self._bar.update(0, completed=done, description=what)

    def _print(self, what: str, done: int, total: int) -> None:
        assert self._pause is not None
        if (what, total) != self._job or done == total or time.monotonic() - self._last_line > self._pause:
            of_total = f" of {total:,} ({done / total:.0%})" if total else ""
            print(f"{what}: {done:,}{of_total}", file=sys.stderr)
            self._last_line = time.monotonic()
        self._job = (what, total)


class SizedIterable(Protocol[Item]):
    """What has a length and can be iterated over."""

    def __len__(self) -> int: ...
    def __iter__(self) -> Iterator[Item]: ...


def track(items: SizedIterable[Item], what: str) -> Iterator[Item]:
    """Yield the items; on a terminal a bar shows how many have been used."""
    with ProgressBar() as bar:
        bar(what, 0, len(items))
        for done, item in enumerate(items, start=1):
            yield item
            bar(what, done, len(items))


class SafeStderr:
    """A stream like ``sys.stderr`` that may stop taking text without ending the program.

    Its reader may go away, as in ``2>&1 | head -1``, the terminal may be closed, the disk of a log may be full. What is
    written after that is dropped, also by child processes and by libraries that write to the descriptor.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._is_gone = False

    def write(self, text: str) -> int:
        """Write a text, or drop it if nobody can read it any more."""
        with self._reader_may_be_gone():
            if not self._is_gone:
                self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._reader_may_be_gone():
            if not self._is_gone:
                self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _reader_may_be_gone(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            self._is_gone = True
            with contextlib.suppress(OSError):  # a stream without a descriptor
                _discard(self._stream.fileno())


def _discard(descriptor: int) -> None:
    """Let what is written to a descriptor from now on go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _make_bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    console = Console(file=SafeStderr(sys.stderr))  # type: ignore[arg-type]
    columns = (BarColumn(), TaskProgressColumn(), TimeRemainingColumn(), TextColumn("left"))
    bar = Progress(TextColumn("{task.description}", markup=False), *columns, console=console, transient=True)
    bar.add_task("", total=None)
    return bar
