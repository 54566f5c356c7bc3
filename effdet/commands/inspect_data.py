"""The old name of ``effdet data``."""

from __future__ import annotations

import argparse

from effdet.commands import data
from effdet.commands.data import run

__all__ = ["parser", "run"]


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``data`` under its old name."""
    return data.parser("inspect_data")
