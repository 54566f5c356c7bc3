"""Refuse options that have no effect beside others, so that nobody waits for what will not happen."""

from __future__ import annotations

import argparse
from collections.abc import Collection, Mapping


def refuse_unused(
    parser: argparse.ArgumentParser,
    args: argparse.Namespace,
    *,
    used: Collection[str],
    reason: str,
    options: Mapping[str, str] | None = None,
) -> None:
    """End with a usage error if an option that is not used has another value than its default.

    Args:
        parser: Of the command.
        args: What it has parsed.
        used: Names in ``args`` that have an effect.
        reason: What the message says behind the option: "goes with --weights, not with --predictions".
        options: By their names in ``args``, those options that are called otherwise.
    """
    for name, value in vars(args).items():
        if name not in used and value != parser.get_default(name):
            option = (options or {}).get(name, f"--{name.replace('_', '-')}")
            parser.error(f"{option} {reason}")
