"""The configs that come with the package: ``configs/`` in a clone, ``effdet/configs/`` in an installed copy."""

from __future__ import annotations

from pathlib import Path

from effdet.install import in_clone

_PACKAGE = Path(__file__).resolve().parent


def packaged_configs() -> dict[str, Path]:
    """Return the file of every config that comes with the package, by its name without the ending."""
    folder = _PACKAGE.parent / "configs" if in_clone() else _PACKAGE / "configs"
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def find_config(config: str | Path) -> Path:
    """Return the file of a config: a path, or the name of a packaged config such as ``custom``.

    A file of this path comes first; only a name without folder and ending is looked up in the package.

    Raises:
        FileNotFoundError: If there is no such file, and no packaged config of this name.
    """
    path = Path(config)
    if path.is_file():
        return path
    if path.suffix or len(path.parts) > 1:
        raise FileNotFoundError(f"config file {path} does not exist")
    return packaged_config(str(path))


def packaged_config(name: str) -> Path:
    """Return the file of a packaged config.

    Raises:
        FileNotFoundError: If none has this name; the message lists all names.
    """
    known = packaged_configs()
    if name not in known:
        raise FileNotFoundError(
            f"a config must be a file or the name of a packaged config, got '{name}'; the names are {', '.join(known)}"
        )
    return known[name]
