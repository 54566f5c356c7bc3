"""Read a config from a YAML file and overrides, and write it again; every mistake names its file and key."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from dataclasses import is_dataclass
from enum import Enum
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from effdet.config.errors import ConfigError
from effdet.config.sections import Config
from effdet.packaged_configs import find_config


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """Read a YAML config file and apply ``key.sub=value`` overrides to it.

    Args:
        path: The file, or the name of a packaged config such as ``custom``. ``run.name`` defaults to its name
            without the ending.
        overrides: Texts such as ``"train.lr=0.01"``; the value is read as YAML, with ``1e-3`` a number. A
            ``data.image_size`` takes the place of ``data.long_side`` and ``data.max_long_side`` in the file, a
            ``data.long_side`` that of ``data.image_size``; so do ``model.phi`` and ``model.name`` with each other.

    Raises:
        FileNotFoundError: If there is no such file and no packaged config of this name.
        ConfigError: If it is not YAML, a key is unknown or a value has a wrong type or range.
    """
    path = find_config(path)
    try:
        loaded = OmegaConf.load(path)
    except (yaml.YAMLError, OmegaConfBaseException, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {_one_line(error)}") from error
    if not OmegaConf.is_dict(loaded):
        raise ConfigError(f"{path}: must hold sections model, data, train, eval, run; got a list")

    config = _merge(OmegaConf.structured(Config), loaded, str(path))
    for override in _with_alternatives_null(overrides):
        if "=" not in override or override.startswith("="):
            raise ConfigError(f"command line: an override must read key.sub=value, got '{override}'")
        try:
            change = OmegaConf.from_dotlist([override])
        except (yaml.YAMLError, OmegaConfBaseException) as error:
            raise ConfigError(f"command line: cannot read '{override}': {_one_line(error)}") from error
        config = _merge(config, change, "command line")
    if config.run.name is None:
        config = OmegaConf.merge(config, {"run": {"name": path.stem}})
    return _to_dataclasses(config, " with ".join([str(path), *overrides]))


def with_overrides(path: str | Path, overrides: Sequence[str]) -> str:
    """Return the YAML text of a config file with its overrides applied: the keys that either sets, without comments.

    Raises:
        FileNotFoundError, ConfigError: As ``load_config``.
    """
    load_config(path, overrides)
    merged = OmegaConf.merge(
        OmegaConf.load(find_config(path)), OmegaConf.from_dotlist(_with_alternatives_null(overrides))
    )
    return OmegaConf.to_yaml(merged)


def config_to_yaml(config: Config) -> str:
    """Return the config as YAML text that ``load_config`` reads back to an equal config."""
    return OmegaConf.to_yaml(OmegaConf.structured(config))


# Keys that choose the same thing in different ways: at most one way is set.
_ALTERNATIVES = {
    "data.image_size": ("data.long_side", "data.max_long_side"),
    "data.long_side": ("data.image_size",),
    "model.phi": ("model.name",),
    "model.name": ("model.phi",),
}


def _with_alternatives_null(overrides: Sequence[str]) -> list[str]:
    """Return the overrides; before them, what they take the place of in the file becomes null."""
    last = {key: value.strip() for key, _, value in (text.partition("=") for text in overrides)}
    chosen = [key for key in _ALTERNATIVES if last.get(key, "null") not in ("", "null")]
    return [*(f"{replaced}=null" for key in chosen for replaced in _ALTERNATIVES[key]), *overrides]


def _merge(config: Any, change: Any, where: str) -> Any:
    values: Any = OmegaConf.to_container(change)
    _check_keys(Config, values, where, prefix="")
    for keys, kind, value in _leaves(Config, values, ()):  # one by one: OmegaConf does not always say which it refuses
        nested = value
        for key in reversed(keys):
            nested = {key: nested}
        try:
            config = OmegaConf.merge(config, nested)
        except OmegaConfBaseException as error:
            got = "null" if value is None else repr(value)
            raise ConfigError(f"{where}: {'.'.join(keys)} must be {type_in_words(kind)}, got {got}") from error
    return config


def _leaves(schema: type, values: dict[str, Any], above: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield key path, type and value of everything that is set; an empty section sets nothing."""
    for key, kind in get_type_hints(schema).items():
        if key in values and is_dataclass(kind):
            assert isinstance(kind, type)
            yield from _leaves(kind, values[key] or {}, (*above, key))
        elif key in values:
            yield (*above, key), kind, values[key]


def type_in_words(kind: Any) -> str:
    """Return what a type of the fields above takes."""
    if get_origin(kind) is UnionType:
        return " or ".join(type_in_words(part) for part in get_args(kind))
    if get_origin(kind) is tuple:
        return f"two {'whole ' if get_args(kind)[0] is int else ''}numbers [a, b]"
    if get_origin(kind) is list and get_args(kind)[0] is float:
        return "a list of numbers"
    if get_origin(kind) is list and isinstance(get_args(kind)[0], type) and issubclass(get_args(kind)[0], Enum):
        return f"a list of {', '.join(item.value for item in get_args(kind)[0])}"
    if get_origin(kind) is list and get_args(kind)[0] is Any:
        return "a list"
    if kind == list[list[str]]:
        return "a list of lists of texts"
    if get_origin(kind) is list:
        return "a list of sections such as {name: Blur, p: 0.1}"
    if isinstance(kind, type) and issubclass(kind, Enum):
        return f"one of {', '.join(item.value for item in kind)}"
    return {int: "a whole number", float: "a number", bool: "true or false", NoneType: "null"}.get(kind, "text")


def _to_dataclasses(config: Any, where: str) -> Config:
    try:
        result = OmegaConf.to_object(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ConfigError(f"{where}: {key + ': ' if key else ''}{_one_line(error)}") from error
    assert isinstance(result, Config)
    return result


def _check_keys(schema: type, values: Any, where: str, prefix: str) -> None:
    """Raise ConfigError for the first key that the dataclass does not have, with the nearest one that it has."""
    known = get_type_hints(schema)
    if not isinstance(values, dict):
        raise ConfigError(f"{where}: {prefix or 'the file'} must be a section with keys {', '.join(known)}")
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}: {prefix + ': ' if prefix else ''}unknown key '{key}'; {hint}")
        section = known[key]
        if isinstance(section, type) and is_dataclass(section) and value is not None:
            _check_keys(section, value, where, prefix=f"{prefix}.{key}" if prefix else str(key))


def _one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError) and error.problem and error.problem_mark:
        return f"line {error.problem_mark.line + 1}: {error.problem}"
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
