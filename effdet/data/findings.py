"""What there is to say about a data set: findings with examples and advice, and the error that training raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from numpy.typing import NDArray

from effdet.images.faults import printable

Severity = Literal["error", "warning", "note"]

MAX_EXAMPLES = 3
MAX_LETTERS = 300  # of an example in a message


class DataError(ValueError):
    """A data set is missing or cannot be used; the message names the file and what to do."""


@dataclass(frozen=True)
class Finding:
    """Something that a person should know about a data set.

    error    training or evaluation would fail or be wrong
    warning  it works, but is seldom meant so
    note     good to know
    """

    severity: Severity
    text: str
    advice: str = ""  # what to do
    count: int | None = None  # how many places; None where the text is about the whole set
    examples: tuple[str, ...] = ()  # names of the first few places
    split: str = ""  # "train", "val" or "test"; "" where it is not about one of them

    def __str__(self) -> str:
        more = ", …" if self.count is not None and self.count > len(self.examples) > 0 else ""
        places = "" if self.count is None else f": {self.count:,}"
        examples = f" ({', '.join(map(_shortened, self.examples))}{more})" if self.examples else ""
        return printable(self.text + places + examples + (f"; {self.advice}" if self.advice else ""))


def _shortened(example: str) -> str:
    """Return an example without its middle where it is very long: files may hold names of any length."""
    return example if len(example) <= MAX_LETTERS else f"{example[: MAX_LETTERS // 2]}…{example[-MAX_LETTERS // 2 :]}"


def found(severity: Severity, text: str, places: Iterable[str], advice: str = "") -> list[Finding]:
    """Return one finding about all the places, or none when there are none."""
    places = list(places)
    return [Finding(severity, text, advice, len(places), tuple(places[:MAX_EXAMPLES]))] if places else []


def found_at(
    severity: Severity, text: str, places: Sequence[Any] | NDArray[Any], name: Callable[[Any], str], advice: str = ""
) -> list[Finding]:
    """Return one finding about all the places, or none when there are none; only the first few are named.

    Args:
        severity: Of the finding.
        text: What it says.
        places: Such as an array of row numbers.
        name: Gives the name of a place.
        advice: What to do.
    """
    if not len(places):
        return []
    examples = tuple(name(place) for place in places[:MAX_EXAMPLES])
    return [Finding(severity, text, advice, len(places), examples)]


class FindingList:
    """Findings that a reader collects row by row; places with the same text become one finding."""

    def __init__(self) -> None:
        self._findings: dict[str, Finding] = {}

    def add(self, severity: Severity, text: str, example: str | None = None, advice: str = "") -> None:
        """Add one place, or a finding about the whole set where ``example`` is None."""
        if example is None:
            self._findings[text] = Finding(severity, text, advice)
            return
        known = self._findings.get(text, Finding(severity, text, advice, 0))
        examples = known.examples if len(known.examples) == MAX_EXAMPLES else (*known.examples, example)
        self._findings[text] = Finding(severity, text, advice, (known.count or 0) + 1, examples)

    def add_all(
        self, severity: Severity, text: str, places: Iterable[Any], name: Callable[[Any], str] = str, advice: str = ""
    ) -> None:
        """Add many places at once; only the first few are named.

        Args:
            severity: Of the finding.
            text: What it says.
            places: Such as an array of row numbers; none: nothing is added.
            name: Gives the name of a place.
            advice: What to do.
        """
        places = list(places)
        if places:
            known = self._findings.get(text, Finding(severity, text, advice, 0))
            examples = (*known.examples, *map(name, places[:MAX_EXAMPLES]))[:MAX_EXAMPLES]
            self._findings[text] = Finding(severity, text, advice, (known.count or 0) + len(places), examples)

    def extend(self, findings: Iterable[Finding]) -> None:
        """Add finished findings."""
        for finding in findings:
            self._findings[finding.text] = finding

    def __contains__(self, severity: object) -> bool:
        return any(finding.severity == severity for finding in self._findings.values())

    def as_tuple(self) -> tuple[Finding, ...]:
        """Return all findings, in the order in which they were first seen."""
        return tuple(self._findings.values())
