"""Search the bases of compound scaling on one's own data, as the papers did."""

from __future__ import annotations

import itertools
import logging
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from effdet.adaptation.scaling_budget import Fit, config_of_fit
from effdet.adaptation.trials import TrialBase, open_plan, prepare_trials, run_trial, write_results
from effdet.atomic_write import replace_file
from effdet.config import Config
from effdet.models.architecture import Architecture
from effdet.models.cost import network_cost
from effdet.models.scaling import ScalingRule, scale
from effdet.runs.lock import lock_run

logger = logging.getLogger(__name__)

GROWTH = 2.0  # α·β²·γ² of the papers: twice the multiply-adds for each φ
TOLERANCE = 0.1  # by how much a rule of the grid may differ from it


@dataclass(frozen=True, kw_only=True)
class Grid:
    """The bases that are tried. The defaults have the papers' rule, 1.2, 1.1, 1.15 and 1.35, among them.

    Raises:
        ValueError: If a list is empty or holds a number below 1.
    """

    depth: tuple[float, ...] = (1.0, 1.1, 1.2, 1.3, 1.4)  # α
    width: tuple[float, ...] = (1.0, 1.1, 1.2)  # β
    resolution: tuple[float, ...] = (1.0, 1.15, 1.3)  # γ
    neck_width: tuple[float, ...] = (1.2, 1.25, 1.3, 1.35, 1.4, 1.45)

    def __post_init__(self) -> None:
        for name, values in asdict(self).items():
            if not values or min(values) < 1:
                raise ValueError(f"{name} of a grid must be numbers, 1 or more, got {list(values)}")

    def rules(self, neck_width: float) -> list[ScalingRule]:
        """Return the rules whose α·β²·γ² is 2 within 0.1.

        Raises:
            ValueError: If there is none.
        """
        rules = [
            ScalingRule(depth=depth, width=width, resolution=resolution, neck_width=neck_width)
            for depth, width, resolution in itertools.product(self.depth, self.width, self.resolution)
        ]
        found = [rule for rule in rules if abs(rule.growth - GROWTH) <= TOLERANCE]
        if not found:
            nearest = min(rules, key=lambda rule: abs(rule.growth - GROWTH))
            raise ValueError(
                f"depth·width²·resolution² of some rule of the grid must lie within {TOLERANCE} of {GROWTH:g}, but the "
                f"nearest is {nearest.growth:.2f}; give more values"
            )
        return found


@dataclass(frozen=True, kw_only=True)
class SearchRow:
    """One rule, with what the base scaled by it to φ = 1 reached."""

    stage: str  # "backbone and input", then "neck"
    depth: float
    width: float
    resolution: float
    neck_width: float
    image_size: tuple[int, int]
    macs: int
    ap: float
    ap50: float


@dataclass(frozen=True, kw_only=True)
class SearchResult:
    """All rows of a search, and the best rule."""

    rows: list[SearchRow]
    best: ScalingRule


PAPER_GRID = Grid()


def search_scaling(
    config: Config, folder: str | Path, *, images: int, grid: Grid = PAPER_GRID, phi: float = 1.0, stride: int = 32
) -> SearchResult:
    """Search α, β, γ and then the base of the neck's width, by short trainings of the base scaled to one φ.

    The first stage tries all α, β, γ of the grid with α·β²·γ² ≈ 2 (EfficientNet §3.3) under the neck's base that is
    nearest to 1.35; the second tries the neck's bases with the best of these (EfficientDet §4.2). The neck's base is
    not tied to the multiply-adds, so the JSON and CSV say what each network costs.

    Called again with the same arguments, it goes on where it was killed.

    Args:
        config: The data, the recipe and the base model. All trainings start from random weights.
        folder: Gets the runs, ``search.json``, ``search.csv`` and ``best.yaml``, a config of the base scaled by the
            best rule.
        images: Training images that each network sees; rounded to whole epochs.
        grid: What is tried.
        phi: Coefficient at which the rules are compared, over 0.
        stride: Inputs are multiples of it.

    Raises:
        ConfigError, DataError: If the config does not fit the data, or weights of a detector are given.
        ValueError: If a number is out of its range, no rule of the grid doubles the multiply-adds, the backbone cannot
            be scaled, or the folder holds another search.
        RunInUseError: If another process uses the folder.
    """
    if not 0 < phi <= 10:
        raise ValueError(f"phi of a search must lie over 0 and up to 10, got {phi}")
    folder = Path(folder)
    usual = min(grid.neck_width, key=lambda value: abs(value - ScalingRule().neck_width))
    first = grid.rules(usual)
    base = prepare_trials(config, images)
    folder.mkdir(parents=True, exist_ok=True)
    with lock_run(folder):
        open_plan(folder, base, {"grid": asdict(grid), "phi": phi, "stride": stride, "images": base.images_seen})
        trials = _Trials(folder, base, phi, stride)
        logger.info("first stage: %d rules for backbone and input", len(first))
        rows = [trials.row("backbone and input", rule) for rule in first]
        best = _rule(max(rows, key=lambda row: row.ap))
        second = [replace(best, neck_width=value) for value in grid.neck_width]
        logger.info("second stage: %d widths of the neck", len(second))
        rows += [trials.row("neck", rule) for rule in second]
        result = SearchResult(rows=rows, best=_rule(max(rows, key=lambda row: row.ap)))
        _write(folder, result, trials, config)
    return result


@dataclass(frozen=True)
class _Trials:
    folder: Path
    base: TrialBase
    phi: float
    stride: int

    def network(self, rule: ScalingRule) -> Architecture:
        phi = self.phi
        return scale(self.base.base, depth=phi, width=phi, resolution=phi, rule=rule, stride=self.stride)

    def row(self, stage: str, rule: ScalingRule) -> SearchRow:
        network = self.network(rule)
        name = "-".join(f"{value:g}" for value in asdict(rule).values())
        result = run_trial(self.folder, name, self.base, network)
        logger.info("depth %g, width %g, resolution %g, neck %g: AP %.4f", *asdict(rule).values(), result["ap"])
        return SearchRow(
            stage=stage,
            **asdict(rule),
            image_size=network.image_size,
            macs=network_cost(network, num_classes=self.base.num_classes).macs,
            ap=result["ap"],
            ap50=result["ap50"],
        )


def _rule(row: SearchRow) -> ScalingRule:
    return ScalingRule(depth=row.depth, width=row.width, resolution=row.resolution, neck_width=row.neck_width)


def _write(folder: Path, result: SearchResult, trials: _Trials, config: Config) -> None:
    document = {"phi": trials.phi, "best": asdict(result.best)}
    write_results(folder, "search", document, [asdict(row) for row in result.rows])
    network = trials.network(result.best)
    fit = Fit(
        architecture=network,
        cost=network_cost(network, num_classes=trials.base.num_classes),
        milliseconds=None,
        phi=trials.phi,
        coefficients=(trials.phi,) * 3,
    )
    with replace_file(folder / "best.yaml") as file:
        file.write(config_of_fit(fit, config).encode())
