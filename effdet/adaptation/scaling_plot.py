"""The figures of compound scaling: AP against multiply-adds and against milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

STYLES = {  # method → colour and marker
    "compound": ("tab:red", "o"),
    "width": ("tab:blue", "s"),
    "depth": ("tab:green", "^"),
    "resolution": ("tab:orange", "D"),
}


def plot_comparison(rows: Sequence[Mapping[str, Any]], picture: str | Path, *, clock: str) -> None:
    """Draw one line for each way of scaling, from the base on.

    Args:
        rows: Fields of ``Row``, the base first.
        picture: The PNG to write.
        clock: What computed the milliseconds, for the label of the axis.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = (
        ("macs", 1e9, "multiply-adds of one image, G"),
        ("milliseconds", 1, f"milliseconds of one image, {clock}"),
    )
    for axes, (key, unit, label) in zip(figure.subplots(1, 2, sharey=True), panels, strict=True):
        base = rows[0]
        for method, (color, marker) in STYLES.items():
            line = [base, *(row for row in rows if row["method"] == method)]
            points = sorted((row[key] / unit, 100 * row["ap"]) for row in line)
            axes.plot(*zip(*points, strict=True), color=color, marker=marker, label=method)
        axes.plot(
            base[key] / unit, 100 * base["ap"], color="black", marker="o", markersize=9, linestyle="none", label="base"
        )
        axes.set(xlabel=label, ylabel="AP, %" if key == "macs" else None)
        axes.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(picture)
