"""Measure the parts of a step."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any


class Stopwatch:
    """Adds up the seconds spent in functions; on a CPU a call returns only when the computation is finished.

    Attributes:
        seconds: Of each part, by its name.
    """

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def around(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return a function that measures the time of the given one and has its attributes."""
        return _Timed(function, part, self)

    def around_entry(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """Return a function that returns a context manager, of which the time before its block is measured."""

        @contextlib.contextmanager
        def timed(*args: Any) -> Iterator[Any]:
            with contextlib.ExitStack() as stack:
                with self.measure(part):
                    value = stack.enter_context(function(*args))
                yield value

        return timed

    @contextlib.contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Add the seconds of a block to a part."""
        started = time.perf_counter()
        yield
        self.seconds[part] += time.perf_counter() - started


class _Timed:
    def __init__(self, function: Any, part: str, stopwatch: Stopwatch) -> None:
        self._function, self._part, self._stopwatch = function, part, stopwatch

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with self._stopwatch.measure(self._part):
            return self._function(*args, **kwargs)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Timed:
        return self  # as copies of functions are

    def __getattr__(self, name: str) -> Any:
        return getattr(self._function, name)
