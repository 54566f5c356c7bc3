"""The architecture that a config means, and the config that says an architecture in full."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effdet.config import ModelConfig
    from effdet.models.architecture import Architecture

CUSTOM = "custom"  # model.name of an architecture that is not published
DEFAULT = "d0"


def architecture_of(model: ModelConfig, *, of_weights: Architecture | None = None) -> Architecture:
    """Return the architecture of ``model.name`` or ``model.phi`` with the keys of ``model.architecture`` laid over it.

    Without both it is laid over the architecture of ``model.weights``, or over D0. With the name "custom",
    ``model.architecture`` says all.

    Args:
        model: The section of the config.
        of_weights: The architecture of ``model.weights`` where they have been read, so that they are not read again.

    Raises:
        ConfigError: If there is no such name, a value is wrong, or a whole architecture has the name of another.
    """
    from effdet.config import ConfigError
    from effdet.models.architecture import Architecture

    given = _with_placeholders(model.architecture.given())
    try:
        if model.name == CUSTOM:
            return Architecture.from_dict(given)
        base = _base(model, of_weights)
    except (TypeError, ValueError) as error:
        key = "architecture" if model.name == CUSTOM else "name" if model.phi is None else "phi"
        raise ConfigError(f"model.{key}: {error}") from error
    try:
        architecture = replace(base, **given)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model.architecture: {error}") from error
    is_whole = {field.name for field in fields(base) if field.default is not None} <= set(given)
    if model.name is not None and is_whole and architecture != base:
        raise ConfigError(
            f"model.architecture must be that of model.name={model.name} where it has all keys, got that of "
            f"{architecture.name}; leave model.name out, or say model.name={architecture.name}"
        )
    return architecture


def _with_placeholders(given: dict[str, Any]) -> dict[str, Any]:
    """Return the keys with a mean and std for each channel: a run measures them, but a network has its size without."""
    channels = given.get("in_channels")
    if not isinstance(channels, int) or channels in (3, 0) or ("mean" in given and "std" in given):
        return given
    return {"mean": [127.5] * channels, "std": [63.75] * channels, **given}


def _base(model: ModelConfig, of_weights: Architecture | None) -> Architecture:
    from effdet.models.architecture import Architecture

    if model.phi is not None:
        return Architecture.from_phi(model.phi)
    if model.name is None and model.weights is not None:
        from effdet.weights.loading import load

        return of_weights or load(model.weights).architecture
    return Architecture.named(DEFAULT if model.name is None else model.name)


def with_architecture(model: ModelConfig, architecture: Architecture) -> ModelConfig:
    """Return the config with all fields of an architecture written out, and its name in place of a phi."""
    from effdet.config import ArchitectureConfig

    values = architecture.to_dict() | {"image_size": architecture.image_size}
    return replace(model, name=architecture.name, phi=None, architecture=ArchitectureConfig(**values))
