"""Print a config that comes with the package, as a start for one's own, or every key of a config.

effdet config custom > mine.yaml
effdet config custom model.phi=2 > mine.yaml
effdet config
effdet config --yaml > every_key.yaml
"""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from effdet.commands import program
from effdet.commands.overrides import OverridesParser
from effdet.packaged_configs import packaged_config, packaged_configs


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``config``."""
    result = OverridesParser(
        prog=program("config"),
        description="Print a config that comes with the package, as a start for your own: effdet config custom > "
        "mine.yaml. Without a name: print every key of a config with its default, unit and meaning, and the names.",
    )
    result.add_argument("name", metavar="NAME", nargs="?", help="custom, demo, d0_coco, …")
    result.add_overrides("the file, whose comments are then left out")
    form = result.add_mutually_exclusive_group()
    form.add_argument("--yaml", action="store_true", help="every key as a config file; with NAME: with its values")
    form.add_argument("--markdown", action="store_true", help="every key as a page; with NAME: with its values")
    form.add_argument("--json", action="store_true", help="every key as JSON; with NAME: with its values")
    return result


def run(args: argparse.Namespace) -> int:
    """Print the file, or the keys, and return the exit status."""
    if args.overrides and args.name is None:
        parser().error(f"{args.overrides[0]} needs the NAME of the config whose setting it replaces")
    if args.yaml or args.markdown or args.json:
        _print_keys(args)
    elif args.name is None:
        from effdet.runs.config_keys import keys_as_text

        names = "\n".join(packaged_configs())
        print(f"{keys_as_text()}\nConfigs that come with the package; effdet config NAME prints one:\n{names}")
    elif args.overrides:
        from effdet.config import with_overrides

        sys.stdout.write(with_overrides(packaged_config(args.name), args.overrides))
    else:
        sys.stdout.write(packaged_config(args.name).read_text(encoding="utf-8"))
    return 0


def _print_keys(args: argparse.Namespace) -> None:
    from effdet.config import load_config
    from effdet.runs.config_keys import config_keys, keys_as_markdown, keys_as_yaml

    config: Any = None if args.name is None else load_config(args.name, args.overrides)
    if args.json:
        json.dump([key.to_dict() for key in config_keys(config)], sys.stdout, ensure_ascii=False, indent=1)
        print()
    else:
        sys.stdout.write(keys_as_yaml(config) if args.yaml else keys_as_markdown(config))
