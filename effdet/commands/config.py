"""Print a config that comes with the package, as a start for one's own.

effdet config custom > mine.yaml
effdet config custom model.name=null model.phi=1.5 > mine.yaml
effdet config
"""

from __future__ import annotations

import argparse
import sys

from effdet.commands import program
from effdet.packaged_configs import packaged_config, packaged_configs


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``config``."""
    result = argparse.ArgumentParser(
        prog=program("config"),
        description="Print a config that comes with the package, as a start for your own: effdet config custom > "
        "mine.yaml. Without a name: list the names.",
    )
    result.add_argument("name", metavar="NAME", nargs="?", help="custom, demo, d0_coco, …")
    result.add_argument(
        "overrides",
        metavar="key.sub=value",
        nargs="*",
        help="settings that replace those of the file; its comments are then left out",
    )
    return result


def run(args: argparse.Namespace) -> int:
    """Print the file, or the names, and return the exit status."""
    if args.name is None:
        print("\n".join(packaged_configs()))
        return 0
    file = packaged_config(args.name)
    if args.overrides:
        from effdet.config import with_overrides

        sys.stdout.write(with_overrides(file, args.overrides))
    else:
        sys.stdout.write(file.read_text(encoding="utf-8"))
    return 0
