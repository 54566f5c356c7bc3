"""Train EfficientDet from a config file.

effdet train configs/demo.yaml
effdet train configs/d0_coco.yaml train.epochs=12 run.name=short
effdet train configs/d0_coco.yaml --resume
effdet train configs/custom.yaml data.root=photos --find-lr

A run folder holds config.yaml, metrics.csv, TensorBoard events, log.txt, last.ckpt (everything to resume),
best.safetensors (the model to use), curves.png, predictions.png and first_batch.png.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.commands import program

if TYPE_CHECKING:
    from effdet.config import Config

logger = logging.getLogger(__name__)

NEWEST = "newest"  # what a bare --resume means


class _Parser(argparse.ArgumentParser):
    """Takes overrides on either side of ``--resume``."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return self.parse_intermixed_args(args, namespace)


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``train``."""
    result = _Parser(
        prog=program("train"),
        description="Train EfficientDet from a config file.",
        epilog="torchrun --nproc_per_node=N tools/train.py ... is the same run on N processes.",
    )
    result.add_argument(
        "config", metavar="CONFIG", type=Path, help="YAML file, or the name of a packaged config such as custom"
    )
    result.add_argument("overrides", metavar="key.sub=value", nargs="*", help="settings that replace those of the file")
    result.add_argument(
        "--resume",
        metavar="RUN",
        nargs="?",
        const=NEWEST,
        help="continue a run: its folder or last.ckpt; alone: the newest run of this config's name",
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
    if args.resume is not None and "=" in args.resume:  # --resume key.sub=value
        args.overrides, args.resume = [args.resume, *args.overrides], NEWEST
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


def find_run(path: Path, overrides: Sequence[str], resume: str | None) -> tuple[Config, Path | None]:
    """Return the config of the run, and its folder if it is to be continued.

    A continued run keeps the config of its folder; only overrides change it.
    """
    from effdet.config import load_config
    from effdet.runs.folder import find_run_folder, newest_run

    config = load_config(path, overrides)
    if resume is None:
        return config, None
    assert config.run.name is not None
    folder = newest_run(Path(config.run.dir), config.run.name) if resume == NEWEST else find_run_folder(Path(resume))
    logger.info("resuming %s with its own config.yaml", folder)
    return load_config(folder / "config.yaml", overrides), folder
