"""Draw earlier results: milliseconds against MACs and published AP, or AP against minutes of training."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from benchmark.measurements.quality import TARGETS
from benchmark.report import milliseconds

# AP on COCO val2017 that the authors publish; lite: float models. None of it was measured here.
PUBLISHED_AP = {
    **{"d0": 34.3, "d1": 40.2, "d2": 43.5, "d3": 46.8, "d4": 49.3},
    **{"lite0": 26.41, "lite1": 31.50, "lite2": 35.06, "lite3": 38.77, "lite3x": 42.64, "lite4": 43.18},
    **{"ssdlite320_mobilenet_v3_large": 21.3, "retinanet_resnet50_fpn_v2": 41.5},
}
MACS_LABEL, AP_LABEL = "multiply-accumulates, G", "published AP, COCO val2017"


def plot(files: Sequence[Path], out: Path) -> None:
    """Draw results of ``network`` or ``predict`` at batch 1, or of ``quality``, from JSON files into a picture.

    Raises:
        FileNotFoundError: If a file does not exist.
        ValueError: If they hold no such result, or both kinds.
    """
    results = [result for file in files for result in json.loads(file.read_text(encoding="utf-8"))["results"]]
    curves, runs = read_curves(results), [result for result in results if result["measurement"] == "quality"]
    if bool(curves) == bool(runs):
        names = ", ".join(map(str, files))
        raise ValueError(
            f"{names}: must hold results of network or predict at batch 1, or of quality; got none or both"
        )
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
    axes[0].legend(fontsize=8)
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
    """Draw one curve in one colour for each runner, dashed for peers; write each model's name at its fastest point."""
    runners = sorted({point["runner"] for points in curves.values() for point in points})
    for axis, key, label in zip(axes, ("macs", "ap"), (MACS_LABEL, AP_LABEL), strict=True):
        known = [[point for point in points if point[key] is not None] for points in curves.values()]
        for points in filter(None, known):
            _draw_curve(axis, sorted(points, key=_ms), key, runners)
        fastest: dict[str, dict[str, Any]] = {}
        for point in sorted(chain.from_iterable(known), key=_ms):
            fastest.setdefault(point["variant"], point)
        for variant, point in fastest.items():
            place = (point["ms"], point[key])
            axis.annotate(variant, place, textcoords="offset points", xytext=(-5, 3), ha="right", fontsize=8)
        axis.set(xlabel="milliseconds an image, batch 1 (median)", ylabel=label, xscale="log")
        axis.margins(x=0.12)
    axes[0].set_yscale("log")


def _draw_curve(axis: Any, points: Sequence[dict[str, Any]], key: str, runners: Sequence[str]) -> None:
    name = points[0]["runner"]
    axis.plot(
        [point["ms"] for point in points],
        [point[key] for point in points],
        color=f"C{runners.index(name)}",
        linestyle="-" if ": ours" in name else "--",
        marker="o",
        markersize=4,
        label=None if name in axis.get_legend_handles_labels()[1] else name,
    )


def _ms(point: dict[str, Any]) -> float:
    return float(point["ms"])


def read_curves(results: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return for every runner and family, such as "ours, eager: d", its points: variant, ms, macs (G), ap."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for result in results:
        if result["measurement"] in ("network", "predict") and result["images_per_step"] == 1:
            for row in result["rows"]:
                _add(curves, result, row)
    return curves


def _add(curves: dict[str, list[dict[str, Any]]], result: dict[str, Any], row: dict[str, Any]) -> None:
    ms = milliseconds(row)
    if ms is None:
        return
    variant, macs = result["model"]["variant"], result["model"]["macs"] / 1e9
    runner = curve = f"{result['measurement']}: {row['name']}"
    if row["name"].startswith("torchvision:"):  # another network than the result's variant
        variant, macs = row["name"].partition(",")[0].removeprefix("torchvision:"), None
    else:
        curve += f", {variant.rstrip('0123456789x')}"
    points = curves.setdefault(curve, [])
    if not any(point["variant"] == variant for point in points):
        points.append({"runner": runner, "variant": variant, "ms": ms, "macs": macs, "ap": PUBLISHED_AP.get(variant)})
