"""The networks on the way of an adaptation, as a table and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from effdet.adaptation.widths import widths_of
from effdet.atomic_write import replace_file
from effdet.models.architecture import Architecture


@dataclass(frozen=True, kw_only=True)
class Step:
    """The network after one step of an adaptation."""

    number: int  # 0 is the given detector
    cut: str  # as ``stage 2 output 40 → 32``; "" for the given detector
    ap: float  # on the training images that were held out, after the short fine-tuning
    milliseconds: float  # measured
    predicted: float  # milliseconds by the table of latencies
    architecture: Architecture

    def __str__(self) -> str:
        return f"step {self.number}: {self.milliseconds:.2f} ms, AP {self.ap:.4f}, cut: {self.cut or 'nothing'}"

    def to_dict(self) -> dict[str, Any]:
        """Return the step as JSON values."""
        return {**vars(self), "architecture": self.architecture.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Step:
        """Return the step of ``to_dict``."""
        return cls(**{**values, "architecture": Architecture.from_dict(values["architecture"])})


def write_trajectory(file: Path, steps: Sequence[Step]) -> None:
    """Write a CSV file with a row for each step: numbers, what was cut, and all widths."""
    names = list(widths_of(steps[0].architecture))
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["step", "cut", "ap", "milliseconds", "predicted", *names])
    for step in steps:
        widths = widths_of(step.architecture)
        values = [widths[name].value if name in widths else "" for name in names]
        writer.writerow([step.number, step.cut, step.ap, step.milliseconds, step.predicted, *values])
    with replace_file(file) as target:
        target.write(text.getvalue().encode())


def draw_trajectory(
    picture: Path, steps: Sequence[Step], target_ms: float, others: Mapping[str, tuple[float, float]] | None = None
) -> None:
    """Draw AP against latency, each step with what it cut.

    Args:
        picture: The PNG to write.
        steps: The networks on the way.
        target_ms: Drawn as a line.
        others: More points by their names: milliseconds and AP on the same images.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot([step.milliseconds for step in steps], [step.ap for step in steps], marker="o", label="NetAdapt")
    for step in steps:
        text = f"{step.number}: {step.cut.replace('→', 'to') or 'as given'}"
        axes.annotate(text, (step.milliseconds, step.ap), xytext=(6, -12), textcoords="offset points", fontsize=8)
    for name, (milliseconds, ap) in (others or {}).items():
        axes.plot([milliseconds], [ap], marker="s", linestyle="", label=name)
    axes.axvline(target_ms, linestyle=":", color="gray", label=f"target, {target_ms:g} ms")
    axes.set(xlabel="milliseconds of one image in the network", ylabel="AP on held-out training images")
    axes.margins(x=0.15, y=0.15)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(picture)
