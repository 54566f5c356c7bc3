"""Train EfficientDet from a config file.

effdet train configs/demo.yaml
effdet train configs/d0_coco.yaml train.epochs=12 run.name=short
effdet train configs/d0_coco.yaml --resume
effdet train --resume runs/d0_coco-2
effdet train configs/custom.yaml data.root=photos --find-lr

A run folder holds config.yaml, metrics.csv, TensorBoard events, log.txt, last.ckpt (everything to resume),
best.safetensors (the model to use), curves.png, predictions.png and first_batch.png.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.commands import program
from effdet.commands.overrides import OverridesParser

if TYPE_CHECKING:
    from effdet.config import Config

logger = logging.getLogger(__name__)

NEWEST = "newest"  # what a bare --resume means


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``train``."""
    result = OverridesParser(
        prog=program("train"),
        description="Train EfficientDet from a config file.",
        epilog="torchrun --nproc_per_node=N tools/train.py ... is the same run on N processes.",
    )
    result.add_argument(
        "config",
        metavar="CONFIG",
        type=Path,
        nargs="?",
        help="YAML file, or the name of a packaged config such as custom; not needed with --resume RUN",
    )
    result.add_overrides("the file")
    result.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const=NEWEST,
        help="continue a run, given its folder or last.ckpt; without RUN: the newest run of this config's name",
    )
    result.add_argument(
        "--find-lr",
        action="store_true",
        help="do not train, but test rising learning rates for 100 steps: print the best train.lr, and draw the losses "
        "to run.dir/NAME-lr.png",
    )
    return result


def run(args: argparse.Namespace) -> int:
    """Train, and return the exit status."""
    if args.config is None and args.resume in (None, NEWEST):
        parser().error("CONFIG is required; only --resume RUN goes without it")
    if args.find_lr:
        return _find_lr(args)
    config, folder = find_run(args.config, args.overrides, args.resume)
    from effdet.runs.train import train

    train(config, resume=folder)
    return 0


def _find_lr(args: argparse.Namespace) -> int:
    """Test learning rates, and print the suggested one as an override."""
    from effdet.config import ConfigError, load_config
    from effdet.progress import ProgressBar
    from effdet.runs.find_lr import find_lr

    if args.resume is not None:
        raise ConfigError("--find-lr starts anew: leave out --resume")
    config = load_config(args.config, args.overrides)
    with ProgressBar(seconds_between_lines=30) as report:
        found = find_lr(config, report=report)
    assert config.run.name is not None
    folder = Path(config.run.dir).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    picture = folder / f"{config.run.name}-lr.png"
    found.plot(picture)
    logger.info("losses of %d learning rates are drawn in %s", len(found.rates), picture)
    print(f"train.lr={found.suggested:.2g}")
    return 0


def find_run(path: Path | None, overrides: Sequence[str], resume: str | None) -> tuple[Config, Path | None]:
    """Return the config of the run, and its folder if it is to be continued.

    A continued run keeps the config of its folder; only overrides change it.

    Args:
        path: The config; None where ``resume`` names a run.
        overrides: ``key.sub=value`` each.
        resume: A run folder or its ``last.ckpt``, ``NEWEST`` for the newest run of the config's name, or None.

    Raises:
        ConfigError: If the config is wrong.
        FileNotFoundError: If there is no such run.
    """
    from effdet.config import load_config
    from effdet.runs.folder import find_run_folder, newest_run

    config = None if path is None else load_config(path, overrides)
    if resume is not None and resume != NEWEST:
        folder = find_run_folder(Path(resume))
    else:
        assert config is not None
        if resume is None:
            return config, None
        assert config.run.name is not None
        folder = newest_run(Path(config.run.dir), config.run.name)
    logger.info("resuming %s with its own config.yaml", folder)
    return load_config(folder / "config.yaml", overrides), folder
