"""The folder of a run: its name, its config, and which one is to be continued."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.atomic_write import replace_file

if TYPE_CHECKING:
    from effdet.config import Config


def create_run_folder(parent: Path, name: str) -> Path:
    """Create and return ``parent/name``; a name in use gets -2, -3 and so on.

    Two runs that start at the same moment never share a folder.
    """
    parent.mkdir(parents=True, exist_ok=True)
    number = 1
    while True:
        folder = parent / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir()
        except FileExistsError:
            number += 1
        else:
            return folder


def new_run_folder(config: Config) -> Path:
    """Create the folder of a run and write its config there."""
    assert config.run.name is not None
    folder = create_run_folder(Path(config.run.dir).expanduser(), config.run.name)
    write_config(folder, config)
    return folder


def write_config(folder: Path, config: Config) -> None:
    """Write ``config.yaml`` of a run folder, whole or not at all."""
    from effdet.config import config_to_yaml

    with replace_file(folder / "config.yaml") as file:
        file.write(config_to_yaml(config).encode())


def config_of(folder: Path) -> Config:
    """Return the config of a run folder; the defaults where it has none."""
    from effdet.config import Config, load_config

    file = folder / "config.yaml"
    return load_config(file) if file.is_file() else Config()


def changed_settings(folder: Path, config: Config) -> list[str]:
    """Return what in a config is not as in the ``config.yaml`` of a run folder, as "key: before → now"."""
    import yaml

    from effdet.config import config_to_yaml

    file = folder / "config.yaml"
    before = leaves(yaml.safe_load(file.read_text(encoding="utf-8"))) if file.is_file() else {}
    now = leaves(yaml.safe_load(config_to_yaml(config)))
    return [f"{key}: {before[key]} → {now[key]}" for key in now if key in before and before[key] != now[key]]


def leaves(values: Any, above: str = "") -> dict[str, Any]:
    """Return the values of nested mappings by their whole keys, such as ``train.lr``."""
    if not isinstance(values, dict):
        return {above: values}
    prefix = f"{above}." if above else ""
    return {leaf: value for key in values for leaf, value in leaves(values[key], f"{prefix}{key}").items()}


def find_run_folder(path: Path) -> Path:
    """Return the folder of a run that is to be continued, given the folder or its ``last.ckpt``.

    Raises:
        FileNotFoundError: If there is no checkpoint.
    """
    folder = path.parent if path.name == "last.ckpt" else path
    if not (folder / "last.ckpt").is_file():
        raise FileNotFoundError(f"--resume must name a run folder with a last.ckpt, got {path}")
    return folder


def newest_run(parent: Path, name: str) -> Path:
    """Return the folder of that name, with or without a number, whose checkpoint was written last.

    Raises:
        FileNotFoundError: If no such folder holds a checkpoint.
    """
    parent = parent.expanduser()
    pattern = re.compile(re.escape(name) + r"(-\d+)?")
    checkpoints = [path for path in parent.glob("*/last.ckpt") if pattern.fullmatch(path.parent.name)]
    if not checkpoints:
        raise FileNotFoundError(f"there is no run named '{name}' to resume in {parent}; start it without --resume")
    return max(checkpoints, key=lambda path: path.stat().st_mtime_ns).parent
