"""The space of a search: which parts of an architecture are free, and what each may be."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from effdet.adaptation.search.blocks import BlockSpace
from effdet.config import ConfigError
from effdet.models.architecture import Architecture
from effdet.models.scaling import scale

Size: TypeAlias = tuple[int, int]
FitInput: TypeAlias = Callable[[int], Size]  # longer side → (height, width) that suits the images

PHI, LONG_SIDE, IMAGE_SIZE, BACKBONE, BLOCKS = "phi", "long_side", "image_size", "backbone", "blocks"
NOT_FREE = ("in_channels", "mean", "std", "backbone_blocks", "stem_channels", "aspect_ratios", "backbone_bn_eps")
DIMENSIONS = (PHI, LONG_SIDE, *(item.name for item in fields(Architecture) if item.name not in NOT_FREE))

SPACES: dict[str, dict[str, Any]] = {
    "detector": {
        "neck": ["bifpn", "pan", "fpn"],
        "fusion": ["fast", "sum"],
        "channels": [32, 48, 64, 88],
        "neck_repeats": [1, 2, 3],
        "head_repeats": [1, 2, 3],
        "long_side": [256, 320, 384, 448],
    },
    "mnasnet": {"blocks": {}, "channels": [32, 48, 64], "neck_repeats": [1, 2, 3], "long_side": [256, 320, 384]},
}


@dataclass(frozen=True, kw_only=True)
class Range:
    """All numbers from low to high, or those in steps."""

    low: float
    high: float
    step: float | None = None

    def suggest(self, name: str, trial: Any) -> Any:
        """Return the trial's choice."""
        if all(isinstance(value, int) for value in (self.low, self.high, self.step or 1)):
            return trial.suggest_int(name, self.low, self.high, step=self.step or 1)
        return trial.suggest_float(name, self.low, self.high, step=self.step)

    def ends(self) -> tuple[float, float]:
        """Return the smallest and the largest value."""
        return self.low, self.high


@dataclass(frozen=True)
class Choices:
    """Some values."""

    values: tuple[Any, ...]

    def suggest(self, name: str, trial: Any) -> Any:
        """Return the trial's choice."""
        names = [_as_text(value) for value in self.values]  # a list of Optuna may not hold pairs of sides
        return self.values[names.index(trial.suggest_categorical(name, names))]

    def ends(self) -> tuple[Any, ...]:
        """Return all values."""
        return self.values


@dataclass(frozen=True)
class SearchSpace:
    """Free dimensions of an architecture; all others stay as in the model that the search starts from.

    A dimension is a field of ``Architecture``, or one of these:

        phi         compound scaling of the whole model by φ, which may be negative; see ``effdet.models.scaling.scale``
        long_side   longer side of the input in pixels; its shape follows the images
        blocks      a ``BlockSpace``: the backbone is put together from blocks

    Where φ and a width, depth or size are both free, the latter is what counts. Where ``backbone`` and ``blocks`` are
    both free, "blocks" is one of the backbones.
    """

    dimensions: Mapping[str, Choices | Range] = field(default_factory=dict)
    blocks: BlockSpace | None = None

    def propose(
        self, trial: Any, base: Architecture, *, fit_input: FitInput = lambda side: (side, side)
    ) -> Architecture:
        """Return an architecture of this space.

        Args:
            trial: Chooses: Optuna's ``Trial``, or any object with its ``suggest_…`` methods.
            base: What is not free.
            fit_input: The network input for a longer side.

        Raises:
            ValueError: If the choices do not go together.
        """
        chosen = {name: dimension.suggest(name, trial) for name, dimension in self.dimensions.items()}
        architecture = base
        backbone = chosen.pop(BACKBONE, BLOCKS if self.blocks else None)
        if backbone == BLOCKS and self.blocks:
            architecture = self.blocks.propose(trial, architecture)
        elif backbone is not None:
            architecture = replace(architecture, backbone=backbone, backbone_blocks=None, stem_channels=None)
        phi = chosen.pop(PHI, None)
        if phi is not None:
            architecture = scale(architecture, depth=phi, width=phi, resolution=phi)
        if LONG_SIDE in chosen:
            chosen[IMAGE_SIZE] = fit_input(chosen.pop(LONG_SIDE))
        return replace(architecture, **chosen)

    @property
    def makes_backbones(self) -> bool:
        """Whether it has backbones that nobody has trained, so that all must start from random weights to be fair."""
        return self.blocks is not None or PHI in self.dimensions

    def to_dict(self) -> dict[str, Any]:
        """Return plain values that ``from_dict`` takes back."""
        values: dict[str, Any] = {
            name: [_plain(value) for value in dimension.values]
            if isinstance(dimension, Choices)
            else {key: value for key, value in asdict(dimension).items() if value is not None}
            for name, dimension in self.dimensions.items()
        }
        if self.blocks is not None:
            values[BLOCKS] = {key: _plain(value) for key, value in asdict(self.blocks).items()}
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> SearchSpace:
        """Return the space that plain values describe, as ``SPACES`` and YAML files have them.

        A list has the choices, and ``{low: 0, high: 2}`` with or without ``step`` is a range. A single value fixes the
        dimension.

        Raises:
            ConfigError: If a dimension is unknown, or no values are given for it.
        """
        if not isinstance(values, Mapping):
            raise ConfigError(f"a search space must be a section of dimensions, got {values!r}")
        dimensions: dict[str, Choices | Range] = {}
        for name, value in values.items():
            if name != BLOCKS:
                _check_name(str(name))
                dimensions[str(name)] = _dimension(str(name), value)
        if LONG_SIDE in dimensions and IMAGE_SIZE in dimensions:
            raise ConfigError("a search space must have one of long_side and image_size, got both; leave one out")
        blocks = _block_space(values[BLOCKS]) if BLOCKS in values else None
        backbones = dimensions.get(BACKBONE)
        if blocks is None and backbones is not None and BLOCKS in backbones.ends():
            blocks = BlockSpace()
        if not dimensions and blocks is None:
            raise ConfigError(f"a search space must have a free dimension; known: {', '.join(DIMENSIONS)}, {BLOCKS}")
        return cls(dimensions, blocks)

    def check(self, base: Architecture) -> None:
        """Check that each value can be that of its field.

        Raises:
            ConfigError: If a value has a wrong type or is out of its range.
        """
        for name, dimension in self.dimensions.items():
            for value in dimension.ends():
                try:
                    _check_value(name, value, base)
                except (TypeError, ValueError) as error:
                    raise ConfigError(f"search space: {error}") from error


def read_space(space: str | Path | None, free: Sequence[str] = ()) -> SearchSpace:
    """Return a space from its name or YAML file, with further dimensions laid over it.

    Args:
        space: A key of ``SPACES``, or a file. None: "detector" if nothing is given in ``free``, else nothing.
        free: Texts such as "channels=32,48,64", "phi=0..2" (a range) or "channels=32..96:8" (in steps).

    Raises:
        FileNotFoundError: If there is no such file.
        ConfigError: If the file or a text is no search space.
    """
    if space is None:
        values = {} if free else SPACES["detector"]
    else:
        values = SPACES[str(space)] if str(space) in SPACES else _read_yaml(Path(space))
    return SearchSpace.from_dict(values | dict(map(_read_text, free)))


def _read_yaml(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise FileNotFoundError(f"search space {file} must be a file or one of {', '.join(SPACES)}")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: must hold dimensions such as 'channels: [32, 48]', got {values!r}")
    return values


def _read_text(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not value:
        raise ConfigError(f"a free dimension must read NAME=VALUE,VALUE or NAME=LOW..HIGH, got '{text}'")
    low, dots, high = value.partition("..")
    if not dots:
        return name, [yaml.safe_load(item) for item in value.split(",")]
    high, colon, step = high.partition(":")
    numbers = {"low": low, "high": high} | ({"step": step} if colon else {})
    return name, {key: yaml.safe_load(number) for key, number in numbers.items()}


def _check_name(name: str) -> None:
    if name in DIMENSIONS:
        return
    near = difflib.get_close_matches(name, (*DIMENSIONS, BLOCKS), n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(DIMENSIONS)}, {BLOCKS}"
    raise ConfigError(f"search space: unknown dimension '{name}'; {hint}")


def _dimension(name: str, value: Any) -> Choices | Range:
    if isinstance(value, Mapping):
        return _range(name, value)
    values = tuple(tuple(item) if isinstance(item, list) else item for item in value) if _is_list(value) else (value,)
    if not values:
        raise ConfigError(f"search space: {name} must have at least one value, got an empty list")
    if len(set(map(_as_text, values))) < len(values):
        raise ConfigError(f"search space: {name} must have each value once, got {list(values)}")
    return Choices(values)


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _range(name: str, value: Mapping[Any, Any]) -> Range:
    low: Any
    high: Any
    low, high, step = (value.get(key) for key in ("low", "high", "step"))
    are_numbers = _is_finite(low) and _is_finite(high) and (step is None or _is_finite(step))
    if set(value) - {"low", "high", "step"} or not are_numbers or not low < high:
        raise ConfigError(
            f"search space: a range of {name} must have low < high, and may have a step, got {dict(value)}"
        )
    if step is not None and not 0 < step <= high - low:
        raise ConfigError(f"search space: the step of {name} must lie between 0 and high − low, got {step}")
    return Range(low=low, high=high, step=step)


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _block_space(values: Any) -> BlockSpace:
    known = [item.name for item in fields(BlockSpace)]
    if not isinstance(values, Mapping):
        raise ConfigError(f"search space: blocks must be a section with keys among {', '.join(known)}, got {values!r}")
    for key in values:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"search space: unknown key 'blocks.{key}'; {hint}")
    try:
        return BlockSpace(**values)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"search space: {error}") from error


def _check_value(name: str, value: Any, base: Architecture) -> None:
    if name == PHI:
        if not _is_finite(value):
            raise ValueError(f"phi must be a number, got {value!r}")
    elif name == LONG_SIDE:
        if type(value) is not int or value < 32:
            raise ValueError(f"long_side must be a whole number of 32 or more, got {value!r}")
    elif not (name == BACKBONE and value == BLOCKS):
        replace(base, **{name: value})


def _as_text(value: Any) -> Any:
    return "×".join(map(str, value)) if isinstance(value, tuple) else value


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
