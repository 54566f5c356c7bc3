"""NetAdapt's proposals: the narrower networks that a step may choose from, each with one width reduced."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from effdet.adaptation.latency import LatencyTable
from effdet.adaptation.network_parts import Part, parts_of
from effdet.adaptation.widths import Width, widths_of
from effdet.models.architecture import Architecture

TRIES = 4  # values of a width that are measured at most


@dataclass(frozen=True, kw_only=True)
class Proposal:
    """A network with one width less than that of the step before."""

    width: str  # its name in ``widths_of``
    before: int
    after: int
    architecture: Architecture
    milliseconds: float  # by the table

    @property
    def cut(self) -> str:
        """What was cut, as ``stage 2 output 40 → 32``."""
        return f"{self.width} {self.before} → {self.after}"


def propose(
    architecture: Architecture, num_classes: int, image_size: tuple[int, int], *, saving: float, table: LatencyTable
) -> list[Proposal]:
    """Return for each width the largest smaller value found that takes enough off the latency.

    A width that cannot save that much even if all parts that it touches took no time has no proposal. For the others
    the value is first estimated, as if these parts took time in proportion to the width; then what it saves is
    measured, and the estimate is corrected.

    Args:
        architecture: The present network.
        num_classes: K.
        image_size: Network input (height, width).
        saving: Milliseconds that a proposal must take off, as the table predicts them.
        table: Latencies of parts; those that are needed and missing are measured.
    """
    search = _Search(architecture, num_classes, image_size, saving, table)
    open_widths = {name: width for name, width in widths_of(architecture).items() if search.may_save(width)}
    guesses = {name: search.guess(width, search.touched(width), width.value) for name, width in open_widths.items()}
    table.measure([part for name, value in guesses.items() if value for part in search.parts(open_widths[name], value)])
    found = (search.find(width, guesses[name]) for name, width in open_widths.items())
    return [proposal for proposal in found if proposal is not None]


class _Search:
    """The search for the value of each width."""

    def __init__(
        self,
        architecture: Architecture,
        num_classes: int,
        image_size: tuple[int, int],
        saving: float,
        table: LatencyTable,
    ) -> None:
        self.num_classes, self.image_size, self.saving, self.table = num_classes, image_size, saving, table
        self.present = parts_of(architecture, num_classes, image_size)
        table.measure(self.present)
        self.milliseconds = sum(table.latency(part) for part in self.present)

    def parts(self, width: Width, value: int) -> list[Part]:
        return parts_of(width.set(value), self.num_classes, self.image_size)

    def touched(self, width: Width) -> float:
        """Return the milliseconds of all parts that a width touches, or that go with the last layer."""
        least = min(width.smaller(), default=width.value)
        gone = Counter(part.key for part in self.present)
        gone -= Counter(part.key for part in self.parts(width, least))
        latency = {part.key: self.table.latency(part) for part in self.present}
        return sum(count * latency[key] for key, count in gone.items())

    def may_save(self, width: Width) -> bool:
        return next(width.smaller(), None) is not None and self.touched(width) > self.saving

    def guess(self, width: Width, touched: float, below: int) -> int | None:
        """Return the largest value less than ``below`` at which a width saves enough, if time goes with its value."""
        limit = width.value * (1 - self.saving / touched) if touched > self.saving else 0
        values = [value for value in width.smaller() if value < below]
        return next((value for value in values if value <= limit), min(values, default=None))

    def find(self, width: Width, value: int | None) -> Proposal | None:
        for _ in range(TRIES):
            if value is None:
                return None
            milliseconds = self.table.predict(width.set(value), self.num_classes, self.image_size)
            saved = self.milliseconds - milliseconds
            if saved >= self.saving:
                return Proposal(
                    width=width.name,
                    before=width.value,
                    after=value,
                    architecture=width.set(value),
                    milliseconds=milliseconds,
                )
            value = self.guess(width, saved * width.value / (width.value - value), value)
        return None
