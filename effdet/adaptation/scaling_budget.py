"""The largest network that a budget of multiply-adds or of milliseconds allows."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import yaml

from effdet.adaptation.measurement import IN_TORCH, Stopwatch
from effdet.config import ArchitectureConfig, Config, Freeze, ModelConfig, config_to_yaml
from effdet.models.architecture import Architecture
from effdet.models.cost import Cost, network_cost
from effdet.models.scaling import PAPER_RULE, ScalingRule, scale
from effdet.runs.architecture import with_architecture

logger = logging.getLogger(__name__)

STEP = 0.05  # of φ
LEAP = 10  # steps from one network to the next until one is too large
SMALLEST, LARGEST = -4.0, 12.0  # φ; below 0 only from a base of one's own
ALONE = 0.25  # step of one coefficient alone


_Triple: TypeAlias = tuple[float, float, float]  # coefficients of depth, width and resolution


@dataclass(frozen=True, kw_only=True)
class Budget:
    """What a network may cost: multiply-adds, or milliseconds of one image; exactly one of the two.

    Raises:
        ValueError: If both or none are given, or a limit is not positive.
    """

    macs: float | None = None
    milliseconds: float | None = None
    stopwatch: Stopwatch = IN_TORCH  # how the milliseconds are measured

    def __post_init__(self) -> None:
        if (self.macs is None) == (self.milliseconds is None):
            raise ValueError(
                f"a budget must be macs or milliseconds, got macs={self.macs} and milliseconds={self.milliseconds}"
            )
        if not 0 < self.limit < math.inf:
            raise ValueError(f"a budget must be a positive number, got {self.limit}")

    @property
    def limit(self) -> float:
        """The number that was given."""
        limit = self.macs if self.macs is not None else self.milliseconds
        assert limit is not None
        return limit

    def describe(self, value: float) -> str:
        """Return a cost in words, such as "5.90 GMACs" or "29.3 ms in onnxruntime"."""
        if self.macs is not None:
            return f"{value / 1e9:.3g} GMACs"
        return f"{value:.1f} ms in {self.stopwatch.runtime}"


@dataclass(frozen=True, kw_only=True)
class Fit:
    """A network that fits a budget."""

    architecture: Architecture
    cost: Cost
    milliseconds: float | None  # measured, where the budget is one of time
    phi: float | None  # None where depth, width and resolution are free
    coefficients: _Triple | None  # of depth, width and resolution; None for the D models


@dataclass
class _Costs:
    """Costs of networks, each computed or measured once."""

    budget: Budget
    num_classes: int
    _known: dict[Architecture, float] = field(default_factory=dict)

    def of(self, architecture: Architecture) -> float:
        if architecture not in self._known:
            self._known[architecture] = self._find(architecture)
        return self._known[architecture]

    def _find(self, architecture: Architecture) -> float:
        if self.budget.macs is not None:
            return self.macs(architecture)
        milliseconds = self.budget.stopwatch.measure(architecture, self.num_classes).median
        logger.info("%.2f GMACs take %s", self.macs(architecture) / 1e9, self.budget.describe(milliseconds))
        return milliseconds

    def fits(self, architecture: Architecture) -> bool:
        return self.of(architecture) <= self.budget.limit

    def macs(self, architecture: Architecture) -> int:
        return network_cost(architecture, num_classes=self.num_classes).macs

    def fit(
        self, architecture: Architecture, *, phi: float | None, coefficients: tuple[float, float, float] | None
    ) -> Fit:
        return Fit(
            architecture=architecture,
            cost=network_cost(architecture, num_classes=self.num_classes),
            milliseconds=self.of(architecture) if self.budget.macs is None else None,
            phi=phi,
            coefficients=coefficients,
        )


def fit_phi(
    budget: Budget,
    *,
    base: Architecture | None = None,
    num_classes: int = 90,
    rule: ScalingRule = PAPER_RULE,
    stride: int | None = None,
) -> Fit:
    """Return the network of the largest φ, in steps of 0.05, that fits the budget.

        fit_phi(Budget(macs=6e9)).architecture
        fit_phi(Budget(milliseconds=30, stopwatch=Stopwatch(runtime="onnxruntime")))

    Latencies are measured with random weights, on about ten networks. They vary by a few per cent from one measurement
    to the next, so run this while nothing else uses the machine.

    Args:
        budget: What the network may cost.
        base: None: the detectors of ``Architecture.from_phi``; else this one, made larger or, with a negative φ,
            smaller by ``scale``.
        num_classes: K.
        rule: How a base is scaled.
        stride: Inputs are multiples of it. None: 128, or 32 with a base.

    Raises:
        ImportError: If the runtime is not installed.
        ValueError: If no network is small enough, or the base cannot be scaled.
    """
    costs = _Costs(budget, num_classes)

    def network(phi: float) -> Architecture:
        if base is None:
            return Architecture.from_phi(phi, stride=stride or 128)
        return scale(base, depth=phi, width=phi, resolution=phi, rule=rule, stride=stride or 32)

    lowest = 0 if base is None else round(SMALLEST / STEP)
    number = _largest(lambda number: costs.fits(network(_phi(number))), lowest, round(LARGEST / STEP))
    if number is None:
        raise _too_small(costs, network(_phi(lowest)))
    phi = _phi(number)
    return costs.fit(network(phi), phi=phi, coefficients=None if base is None else (phi, phi, phi))


def _phi(number: int) -> float:
    return round(number * STEP, 2)


def _largest(fits: Callable[[int], bool], lowest: int, highest: int) -> int | None:
    """Return the largest number that fits, where all below do too; None if none does.

    It goes up from 0, or down, in leaps, as large networks take long to measure; then by bisection. The published
    models do not lie exactly on the formulas, so at whole φ a number below may fail: what is returned has been tried.
    """
    low, high = (0, highest + 1) if fits(0) else (lowest - 1, 0)
    if low == 0:
        while low + LEAP < high and fits(low + LEAP):
            low += LEAP
        high = min(high, low + LEAP)
    else:
        while high - LEAP > low and not fits(high - LEAP):
            high -= LEAP
        low = max(low, high - LEAP)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low if low >= lowest else None


def fit_free(
    budget: Budget,
    *,
    base: Architecture,
    num_classes: int = 90,
    rule: ScalingRule = PAPER_RULE,
    stride: int = 32,
    depth: float | None = None,
    width: float | None = None,
    resolution: float | None = None,
) -> Fit:
    """Return the network that fits the budget with a coefficient of its own for depth, width and resolution.

    First the free coefficients grow together, as in compound scaling. Rounding leaves a part of the budget unused, so
    then each of them grows alone, the smallest first, until no step fits. A coefficient that is given stays:
    ``resolution=0`` keeps the input of the base and finds depth and width for it.

    Args:
        budget: What the network may cost.
        base: What is scaled.
        num_classes: K.
        rule: The base of each dimension.
        stride: Inputs are multiples of it.
        depth: Fixed coefficient as ``scale`` takes it; None: free.
        width: The same of the width.
        resolution: The same of the input.

    Raises:
        ImportError: If the runtime is not installed.
        ValueError: If all three are given, no network is small enough, or the base cannot be scaled.
    """
    fixed = {"depth": depth, "width": width, "resolution": resolution}
    free = [name for name, value in fixed.items() if value is None]
    if not free:
        raise ValueError(f"one of depth, width and resolution must be free, got {fixed}; leave one out")
    costs = _Costs(budget, num_classes)
    given = {name: value for name, value in fixed.items() if value is not None}

    def network(coefficients: Mapping[str, float]) -> Architecture:
        return scale(base, **coefficients, rule=rule, stride=stride)

    def together(number: int) -> dict[str, float]:
        return given | dict.fromkeys(free, _phi(number))

    lowest = round(SMALLEST / STEP)
    number = _largest(lambda number: costs.fits(network(together(number))), lowest, round(LARGEST / STEP))
    if number is None:
        raise _too_small(costs, network(together(lowest)))
    found = _fill(together(number), free, lambda coefficients: costs.fits(network(coefficients)))
    triple = (found["depth"], found["width"], found["resolution"])
    return costs.fit(network(found), phi=None, coefficients=triple)


def _fill(
    coefficients: dict[str, float], free: Iterable[str], fits: Callable[[dict[str, float]], bool]
) -> dict[str, float]:
    """Let each free coefficient grow by steps of 0.25, the smallest first, as long as the network fits."""
    growing = set(free)
    while growing:
        name = min(sorted(growing), key=lambda name: coefficients[name])
        larger = coefficients | {name: round(coefficients[name] + ALONE, 2)}
        if larger[name] <= LARGEST and fits(larger):
            coefficients = larger
        else:
            growing.remove(name)
    return coefficients


def _too_small(costs: _Costs, smallest: Architecture) -> ValueError:
    budget = costs.budget
    return ValueError(
        f"the budget must allow the smallest network, {budget.describe(costs.of(smallest))}, got "
        f"{budget.describe(budget.limit)}; give a smaller base"
    )


def config_of_fit(fit: Fit, config: Config) -> str:
    """Return the text of a config that trains the network of a fit with the data and the recipe of another config.

    The input size is that of the network. A backbone that timm has no weights for starts from random weights, and then
    no layer is frozen.
    """
    by_name = fit.architecture.backbone_blocks is None
    config = replace(
        config,
        model=_model_of(fit, config.model, by_name),
        data=replace(config.data, image_size=None, long_side=None, max_long_side=None),
        run=replace(config.run, name=None),  # that of the new file
    )
    if not by_name:
        config = replace(config, train=replace(config.train, freeze=Freeze.none, freeze_bn=False))
    values = _other_than(yaml.safe_load(config_to_yaml(Config())), yaml.safe_load(config_to_yaml(config)))
    lines = [f"# {line}\n" for line in describe(fit)]
    return "".join(lines) + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)


def _other_than(defaults: Any, values: Any) -> Any:
    """Return the values that are not the defaults, in their sections."""
    if not isinstance(values, dict) or not defaults:
        return values
    return {key: _other_than(defaults[key], value) for key, value in values.items() if value != defaults[key]}


def _model_of(fit: Fit, model: ModelConfig, by_name: bool) -> ModelConfig:
    first = model.backbone_weights if by_name else None
    model = replace(model, weights=None, backbone_weights=first)
    if fit.coefficients is None and fit.phi is not None and fit.architecture == Architecture.from_phi(fit.phi):
        return replace(model, name=None, phi=fit.phi, architecture=ArchitectureConfig())
    return with_architecture(model, fit.architecture)


def describe(fit: Fit) -> list[str]:
    """Return lines for people that say what a fit is and costs."""
    architecture = fit.architecture
    height, width = architecture.image_size
    lines = []
    if fit.phi is not None:
        lines.append(f"phi {fit.phi:g}")
    if fit.coefficients is not None and fit.phi is None:
        lines.append("coefficients: depth {:g}, width {:g}, resolution {:g}".format(*fit.coefficients))
    lines.append(
        f"input {height}×{width}, neck {architecture.channels} channels × {architecture.neck_repeats} layers, heads "
        f"{architecture.head_repeats} convolutions"
    )
    time = "" if fit.milliseconds is None else f", {fit.milliseconds:.1f} ms"
    lines.append(f"{fit.cost.macs / 1e9:.3g} GMACs, {fit.cost.parameters / 1e6:.3g} M parameters{time}")
    return lines
