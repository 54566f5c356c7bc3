"""The measurement ``throughput``: images a second of exported files, by cores and streams."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

from benchmark.race import Entry
from benchmark.results import ask_once

SECONDS = 5.0  # time of each pair of cores and streams


def throughput(args: argparse.Namespace, file: str, photos: Sequence[str], batch: int) -> dict[str, Any]:
    """Return the result of an exported file: the rate of every pair, and its ratio to the rate of one core × cores."""
    cores = sorted(set(args.cores or doublings(args.threads)))
    settings = {
        "cores": cores,
        "streams": sorted(set(args.streams or cores)),
        "seconds": args.seconds or SECONDS,
        "batch": batch,
    }
    entry = Entry(
        name="throughput",
        module="ours_throughput",
        task="throughput",
        settings={"file": file, "photos": list(photos), **settings},
    )
    facts = ask_once(entry)
    rates = facts.pop("rates")
    size = "×".join(str(side) for side in facts["image_size"])
    title = f"network of {facts['variant']} at {size}, {facts['precision']}, batch {rates[0]['batch']}, in OpenVINO"
    return {
        "measurement": args.measurement,
        "title": title,
        "settings": settings,
        "rows": [],
        "model": facts,
        "rates": rates,
    }


def doublings(limit: int) -> list[int]:
    """Return 1, 2, 4, … up to the limit; the last number is the limit."""
    return [*(1 << power for power in range(limit.bit_length()) if 1 << power < limit), limit]
