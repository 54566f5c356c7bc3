"""The commands of a page with less work: what ``tests/site_pages/test_pages_run.py`` runs in their place.

A training has one epoch of a few small images, a search two trials, a measurement one run. Nothing else of a command
changes. As a program, ``shortened.py NAME ARGUMENT...`` stands for ``python``, ``effdet`` or ``torchrun``.
"""

from __future__ import annotations

import os
import sys

TRAINING = [
    *("train.epochs=1", "data.max_train_images=4", "data.max_val_images=2", "data.workers=0", "train.batch_size=2"),
    *("data.image_size=[64,96]", "data.long_side=null", "data.max_long_side=null"),
]
LESS = {
    "train": TRAINING,
    "search": ["--trials", "2", "--images", "4", *TRAINING],
    "scale search": ["--depth", "1.2", "--width", "1.1", "--neck-width", "1.2", "--images", "4", *TRAINING],
    "scale compare": ["--images", "4", "--phi", "0.5", "--runs", "2", *TRAINING],
    "scale budget": ["--runs", "2"],
    "compare_necks": ["--runs", "2", "--image-size", "128"],
    "data demo": ["--train", "104", "--val", "2"],
    "export": ["--tolerance", "0.02", "0"],  # after one epoch all scores are alike, so boxes of one rank differ
    "benchmark": ["--runs", "2"],
    "benchmark network": ["--repeats", "1", "--steps", "1", "--warmup", "0", "--no-peak"],
    "benchmark predict": ["--repeats", "1", "--steps", "1", "--warmup", "0"],
    "benchmark throughput": ["--seconds", "0.05", "--images", "4"],
}


def less_work(name: str, arguments: list[str]) -> list[str]:
    """Return the arguments of a command of ours, and those that make it short; the last value of an option counts."""
    if name == "train" and "--resume" in arguments:
        return [*(word for word in arguments if not word.startswith("train.epochs=")), "train.epochs=2"]
    if name == "train" and any("_coco" in word for word in arguments):
        arguments = [*arguments, "model.backbone_weights=null", "model.num_classes=null"]  # in place of the downloads
    with_action = f"{name} {arguments[0]}" if arguments else name
    more = LESS.get(with_action, LESS.get(name, []))
    if "=" not in "".join(more):
        return [*arguments, *more]
    keys = {word.partition("=")[0] for word in more if "=" in word}
    return [*(word for word in arguments if word.partition("=")[0] not in keys), *more]


def command_line(program: str, words: list[str]) -> list[str]:
    """Return what to start in place of ``program words…``."""
    if program == "torchrun":
        start = next(number for number, word in enumerate(words) if word.startswith("tools/"))
        script = [word.replace("batch_size=2", "batch_size=4") for word in command_line("python", words[start:])[1:]]
        return [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", *script]  # two images each
    if program == "effdet":
        return [sys.executable, "-m", "effdet", words[0], *less_work(words[0], words[1:])]
    if words[:1] and words[0].startswith("tools/"):
        name = os.path.basename(words[0]).removesuffix(".py")
        return [sys.executable, words[0], *less_work(name, words[1:])]
    return [sys.executable, *words]


if __name__ == "__main__":
    started = command_line(sys.argv[1], sys.argv[2:])
    os.execv(started[0], started)
