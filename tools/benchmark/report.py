"""Print results as tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TextIO


def print_result(result: dict[str, Any], file: TextIO) -> None:
    """Print one result: a table of its runners, then ratios, parts and comparisons."""
    print(f"\n{result['title']}", file=file)
    if result["measurement"] == "quality":
        _print_quality(result, file)
        return
    if result["measurement"] == "throughput":
        _print_rates(result["rates"], file)
        return
    images = result.get("images_per_step", 1)
    rows = [_cells(row, images) for row in result["rows"]]
    rows = [_heads(images, result), *rows]
    if result["measurement"] in ("evaluate", "startup"):  # images per second have no meaning here
        rows = [[cell for column, cell in enumerate(row) if column != 3] for row in rows]
    _print_table(rows, file)
    ratios = [] if result["measurement"] == "startup" else _ratios(result)
    for line in [
        *ratios,
        *_alone(result, images),
        *_parts(result, images),
        *_sameness(result),
        *_numbers(result),
        *_peak(result),
    ]:
        print(f"  {line}", file=file)
    for row in result["rows"]:
        if row["error"]:
            print(f"  failed: {row['error']}", file=file)
    file.flush()


def _print_quality(result: dict[str, Any], file: TextIO) -> None:
    for name, seconds in result["reached"].items():
        print(f"  {name}: {'not reached' if seconds is None else f'{seconds / 60:.1f} min'}", file=file)
    if result["evaluations"]:
        best = max(result["evaluations"], key=lambda row: row["ap"])
        print(f"  best: AP {best['ap']:.4f}, AP50 {best['ap50']:.4f} at {best['seconds'] / 60:.1f} min", file=file)


def _print_rates(rates: Sequence[dict[str, Any]], file: TextIO) -> None:
    rows = [
        [str(rate["cores"]), str(rate["streams"]), f"{rate['images_per_second']:.2f}", f"{rate['efficiency']:.0%}"]
        for rate in rates
    ]
    _print_table([["cores", "streams", "images/s", "of cores × one core"], *rows], file)
    file.flush()


def failed(result: dict[str, Any]) -> bool:
    """Return whether a runner of a result has failed."""
    return any(row["error"] for row in result["rows"]) or result.get("evaluations") == []


def milliseconds(row: dict[str, Any], images: int = 1) -> float | None:
    """Return the median milliseconds per image, or None if there is no measurement."""
    return 1e3 * row["spread"]["median"] / images if row["spread"] else None


def _heads(images: int, result: dict[str, Any]) -> list[str]:
    unit = "ms/image" if images > 1 or result["measurement"] == "loader" else "ms"
    return ["runner", f"median {unit}", "quartiles", "images/s", "peak MB", "steps"]


def _cells(row: dict[str, Any], images: int) -> list[str]:
    if not row["spread"]:
        return [row["name"], "-", "-", "-", "-", "0"]
    scale, values = 1e3 / images, row["spread"]
    return [
        row["name"],
        f"{values['median'] * scale:.1f}",
        f"{values['first_quartile'] * scale:.1f}–{values['third_quartile'] * scale:.1f}",
        f"{images / values['median']:.2f}",
        f"{row['peak_mb']:.0f}" if row["peak_mb"] else "-",
        str(values["count"]),
    ]


def _print_table(rows: Sequence[Sequence[str]], file: TextIO) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  " + "  ".join([first, *others]).rstrip(), file=file)


def _ratios(result: dict[str, Any]) -> list[str]:
    """Return how much faster our best row is than each peer by default, and than each peer's best row."""
    measured = [row for row in result["rows"] if row["spread"]]
    ours = [row for row in measured if row["name"].startswith("ours")]
    if not ours:
        return []
    best = min(ours, key=lambda row: row["spread"]["median"])
    lines = []
    peers: dict[str, list[dict[str, Any]]] = {}
    for row in measured:
        if row not in ours:
            peers.setdefault(row["name"].partition(",")[0], []).append(row)
    for rows in peers.values():
        fastest = min(rows, key=lambda row: row["spread"]["median"])
        compared = rows[:1] if fastest is rows[0] else [rows[0], fastest]
        ratios = [(row["spread"]["median"] / best["spread"]["median"], row["name"]) for row in compared]
        lines.append(f"{best['name']}: " + ", ".join(f"{ratio:.2f} × as fast as {name}" for ratio, name in ratios))
    if len(ours) > 1 and best is not ours[0]:
        factor = ours[0]["spread"]["median"] / best["spread"]["median"]
        lines.append(f"{best['name']}: {factor:.2f} × as fast as {ours[0]['name']}")
    return lines


def _alone(result: dict[str, Any], images: int) -> list[str]:
    """Return what the steps took before the others were at work; the table and the ratios are of the turns."""
    medians = [(row["name"], row.get("spread_alone")) for row in result["rows"]]
    found = [f"{name} {1e3 * values['median'] / images:.1f} ms" for name, values in medians if values]
    return [f"alone, before the turns: {', '.join(found)}"] if found else []


def _parts(result: dict[str, Any], images: int) -> list[str]:
    return [
        f"{row['name']}: "
        + ", ".join(f"{name} {1e3 * values['median'] / images:.1f} ms" for name, values in row["parts"].items())
        for row in result["rows"]
        if row["parts"]
    ]


def _sameness(result: dict[str, Any]) -> list[str]:
    lines = []
    for name, values in result.get("same", {}).items():
        if "found" in values:
            lines.append(
                f"{name}: {values['found']:.1%} of the detections of {values['reference']} with IoU ≥ 0.999 and "
                f"score within 0.001; smallest IoU {values['iou']:.4f}, largest difference of scores "
                f"{values['score']:.1e}, {values['surplus']:+.1f} detections an image"
            )
        else:
            lines.append(
                f"{name}: largest difference from {result['rows'][0]['name']}: {values['score']:.1e} in scores, "
                f"{values['delta']:.1e} in deltas"
            )
    return lines


def _numbers(result: dict[str, Any]) -> list[str]:
    difference = result.get("largest_difference")
    return [] if difference is None else [f"largest difference between their numbers: {difference:.1e}"]


def _peak(result: dict[str, Any]) -> list[str]:
    return [
        f"{peak['name']}: {peak['reached']:.0f} GFLOP/s, {peak['share']:.0%} of the {peak['gflops']:.0f} that dense "
        f"convolutions reach in {peak['runtime']} ({peak['shape']})"
        for peak in result.get("peaks", [])
    ]
