"""Compound scaling against width, depth or resolution alone: the papers' figure, on one's own data."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from effdet.adaptation.measurement import IN_TORCH, Stopwatch
from effdet.adaptation.scaling_plot import plot_comparison
from effdet.adaptation.trials import TrialBase, open_plan, prepare_trials, run_trial, write_results
from effdet.config import Config
from effdet.models.architecture import Architecture
from effdet.models.cost import Cost, network_cost
from effdet.models.scaling import PAPER_RULE, ScalingRule, scale
from effdet.runs.lock import lock_run

logger = logging.getLogger(__name__)

BASE, COMPOUND = "base", "compound"
SINGLE = ("width", "depth", "resolution")
STEP = 0.1  # of the coefficients that are tried to meet the cost of compound scaling
MOST = 20.0  # largest coefficient that is tried


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """One network of the comparison."""

    name: str  # such as "width-2"
    method: str  # "base", "compound", "width", "depth" or "resolution"
    phi: float  # of the compound scaling whose cost it has
    coefficient: float  # of its own dimension; that of compound scaling is phi
    architecture: Architecture
    cost: Cost


@dataclass(frozen=True, kw_only=True)
class Row:
    """What was found out about one network."""

    name: str
    method: str
    phi: float
    coefficient: float
    image_size: tuple[int, int]
    macs: int
    parameters: int
    ap: float
    ap50: float
    images_seen: int
    milliseconds: float


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """The rows of a comparison and how its latencies were measured."""

    rows: list[Row]
    stopwatch: Stopwatch
    folder: Path = field(compare=False)  # with compare.json, compare.csv and compare.png


def compare_scaling(
    config: Config,
    folder: str | Path,
    *,
    images: int,
    phis: Sequence[float] = (1.0, 2.0),
    rule: ScalingRule = PAPER_RULE,
    stride: int = 32,
    stopwatch: Stopwatch = IN_TORCH,
) -> Comparison:
    """Train one base network, and for each φ four larger ones of equal cost: compound, wider, deeper, larger input.

    For each φ the coefficients of the three single dimensions are those whose multiply-adds are nearest to those of
    compound scaling. All networks start from random weights, and see the same images in the same order. AP is that at
    the end of each training.

    Called again with the same arguments, it goes on where it was killed; with more ``phis``, it adds them.

    Args:
        config: The data, the recipe and the base model.
        folder: Gets the runs, ``compare.json``, ``compare.csv`` and ``compare.png``.
        images: Training images that each network sees; rounded to whole epochs.
        phis: Coefficients of compound scaling, over 0.
        rule: The base of each dimension; the papers' by default.
        stride: Inputs are multiples of it.
        stopwatch: How latencies are measured, after the last training.

    Raises:
        ConfigError, DataError: If the config does not fit the data, or weights of a detector are given.
        ValueError: If a number is out of its range, the backbone cannot be scaled, or the folder holds another
            comparison.
        RunInUseError: If another process uses the folder.
    """
    folder = Path(folder)
    base = prepare_trials(config, images)
    networks = networks_to_compare(base.base, phis, rule=rule, stride=stride, num_classes=base.num_classes)
    plan = {"rule": asdict(rule), "stride": stride, "images": base.images_seen}
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        open_plan(folder, base, plan)
        for number, network in enumerate(networks, start=1):
            logger.info(
                "network %d of %d: %s, %.2f GMACs", number, len(networks), network.name, network.cost.macs / 1e9
            )
            run_trial(folder, network.name, base, network.architecture)
        rows = [_row(folder, base, network, stopwatch) for network in networks]
        result = Comparison(rows=rows, stopwatch=stopwatch, folder=folder)
        _write(result)
    return result


def networks_to_compare(
    base: Architecture,
    phis: Sequence[float],
    *,
    rule: ScalingRule = PAPER_RULE,
    stride: int = 32,
    num_classes: int = 90,
) -> list[Scaled]:
    """Return the base, and for each φ the four networks of about equal multiply-adds.

    Raises:
        ValueError: If there is no φ, one is not over 0, or the backbone cannot be scaled.
    """
    if not phis or not all(0 < phi <= MOST for phi in phis):
        raise ValueError(f"phis must be numbers over 0 and up to {MOST:g}, got {list(phis)}")

    def made(method: str, phi: float, coefficient: float) -> Scaled:
        dimensions = SINGLE if method == COMPOUND else () if method == BASE else (method,)
        architecture = scale(base, **dict.fromkeys(dimensions, coefficient), rule=rule, stride=stride)
        cost = network_cost(architecture, num_classes=num_classes)
        name = BASE if method == BASE else f"{method}-{phi:g}"
        return Scaled(name=name, method=method, phi=phi, coefficient=coefficient, architecture=architecture, cost=cost)

    found = [made(BASE, 0.0, 0.0)]
    for phi in phis:
        compound = made(COMPOUND, phi, phi)
        found.append(compound)
        found += [_of_equal_cost(made, method, compound) for method in SINGLE]
    return found


def _of_equal_cost(made: Any, method: str, compound: Scaled) -> Scaled:
    """Return the network of one dimension whose cost is nearest to that of compound scaling, by bisection."""
    target, phi = compound.cost.macs, compound.phi
    low, high = made(method, phi, 0.0), made(method, phi, phi)
    while high.cost.macs < target and high.coefficient < MOST:
        low, high = high, made(method, phi, min(MOST, 2 * high.coefficient))
    while high.coefficient - low.coefficient > STEP:
        middle = made(method, phi, (low.coefficient + high.coefficient) / 2)
        low, high = (middle, high) if middle.cost.macs < target else (low, middle)
    nearest: Scaled = min((low, high), key=lambda network: abs(network.cost.macs - target))
    return nearest


def _row(folder: Path, base: TrialBase, network: Scaled, stopwatch: Stopwatch) -> Row:
    result = run_trial(folder, network.name, base, network.architecture)  # has ended: read from its file
    return Row(
        name=network.name,
        method=network.method,
        phi=network.phi,
        coefficient=round(network.coefficient, 3),
        image_size=network.architecture.image_size,
        macs=network.cost.macs,
        parameters=network.cost.parameters,
        ap=result["ap"],
        ap50=result["ap50"],
        images_seen=result["images_seen"],
        milliseconds=stopwatch.measure(network.architecture, base.num_classes).median,
    )


def _write(result: Comparison) -> None:
    rows = [asdict(row) for row in result.rows]
    write_results(result.folder, "compare", {"stopwatch": asdict(result.stopwatch)}, rows)
    plot_comparison(rows, result.folder / "compare.png", clock=result.stopwatch.runtime)
