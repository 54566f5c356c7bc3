"""How to install the optional parts of this package: the one place that knows the name of the distribution."""

from __future__ import annotations

from pathlib import Path

DISTRIBUTION = "efficientdet-toolkit"  # the name on a package index; the import name is effdet


def hint(extra: str) -> str:
    """Return the command that installs an extra of this package, such as ``deploy`` or ``video``.

    In a clone it is ``pip install -e '.[deploy]'``; elsewhere ``pip install 'efficientdet-toolkit[deploy]'``.
    """
    return f"pip install -e '.[{extra}]'" if in_clone() else f"pip install '{DISTRIBUTION}[{extra}]'"


def in_clone() -> bool:
    """Whether this package runs from a clone of the project, and not from an installed copy."""
    return (Path(__file__).resolve().parents[1] / "setup.cfg").is_file()
