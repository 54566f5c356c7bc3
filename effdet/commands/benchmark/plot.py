"""Pictures of earlier runs: milliseconds against MACs and published AP, or AP against the minutes of a training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from effdet.commands.benchmark.quality import TARGETS
from effdet.commands.benchmark.report import milliseconds

# AP on COCO val2017 that the authors publish; lite: float models. None of it was measured here.
PUBLISHED_AP = {
    **{"d0": 34.3, "d1": 40.2, "d2": 43.5, "d3": 46.8, "d4": 49.3},
    **{"lite0": 26.41, "lite1": 31.50, "lite2": 35.06, "lite3": 38.77, "lite3x": 42.64, "lite4": 43.18},
    **{"ssdlite320_mobilenet_v3_large": 21.3, "retinanet_resnet50_fpn_v2": 41.5},
}
MACS_LABEL, AP_LABEL = "multiply-accumulates, G", "published AP, COCO val2017"


def plot(files: Sequence[Path], out: Path) -> None:
    """Draw the cases of ``network`` or ``predict`` at batch 1, or those of ``quality``, from JSON files into a picture.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If they hold no such case, or both kinds.
    """
    cases = [case for file in files for case in json.loads(file.read_text(encoding="utf-8"))["cases"]]
    curves, runs = read_curves(cases), [case for case in cases if case["work"] == "quality"]
    if bool(curves) == bool(runs):
        names = ", ".join(map(str, files))
        raise ValueError(f"{names}: must hold cases of network or predict at batch 1, or of quality; got none or both")
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(12, 5), sharex=True)
    if runs:
        _draw_runs(axes, runs)
    else:
        _draw_curves(axes, curves)
    for axis in axes:
        axis.grid(visible=True, which="both", alpha=0.3)
    axes[0].legend(fontsize=7)
    figure.tight_layout()
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=110)


def _draw_runs(axes: Sequence[Any], runs: Sequence[dict[str, Any]]) -> None:
    for axis, (key, target) in zip(axes, TARGETS, strict=True):
        for run in runs:
            minutes = [row["seconds"] / 60 for row in run["evaluations"]]
            axis.plot(minutes, [row[key] for row in run["evaluations"]], marker="o", markersize=4, label=run["title"])
        axis.axhline(target, color="grey", linestyle=":")
        axis.set(xlabel="minutes, evaluations included", ylabel={"ap": "AP", "ap50": "AP50"}[key], ylim=(0, 1))


def _draw_curves(axes: Sequence[Any], curves: dict[str, list[dict[str, Any]]]) -> None:
    for axis, key, label in zip(axes, ("macs", "ap"), (MACS_LABEL, AP_LABEL), strict=True):
        for name, points in sorted(curves.items()):
            _draw_curve(axis, name, [point for point in points if point[key] is not None], key)
        axis.set(xlabel="milliseconds an image, batch 1 (median)", ylabel=label, xscale="log")
    axes[0].set_yscale("log")


def _draw_curve(axis: Any, name: str, points: list[dict[str, Any]], key: str) -> None:
    if not points:
        return
    points = sorted(points, key=lambda point: point["ms"])
    marker, line = ("o", "-") if ": ours" in name else ("s", "--")
    axis.plot(
        [p["ms"] for p in points], [p[key] for p in points], marker=marker, linestyle=line, markersize=4, label=name
    )
    for point in points:
        place = (point["ms"], point[key])
        axis.annotate(point["variant"], place, textcoords="offset points", xytext=(4, 4), fontsize=7)


def read_curves(cases: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return for every contender and family, such as "ours, eager: d", its points: variant, ms, macs (G), ap."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for case in cases:
        if case["work"] in ("network", "predict") and case["images_per_step"] == 1:
            for row in case["rows"]:
                _add(curves, case, row)
    return curves


def _add(curves: dict[str, list[dict[str, Any]]], case: dict[str, Any], row: dict[str, Any]) -> None:
    ms = milliseconds(row)
    if ms is None:
        return
    variant, macs = case["model"]["variant"], case["model"]["macs"] / 1e9
    curve = f"{case['work']}: {row['name']}"
    if row["name"].startswith("torchvision:"):  # another network, which the case's variant says nothing about
        variant, macs = row["name"].partition(",")[0].removeprefix("torchvision:"), None
    else:
        curve += f", {variant.rstrip('0123456789x')}"
    points = curves.setdefault(curve, [])
    if not any(point["variant"] == variant for point in points):
        points.append({"variant": variant, "ms": ms, "macs": macs, "ap": PUBLISHED_AP.get(variant)})
