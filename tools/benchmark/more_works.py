"""The works without a network of both sides: loader, evaluation, start-up."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from benchmark.cases import ask_once, make_case, race_options, threads_of
from benchmark.race import Entry, Row, race

ONE_CORE = {"OMP_NUM_THREADS": "1"}
PHOTO_SIZE, PHOTOS, BATCH = (480, 640), 64, 8
IMAGES, CLASSES = 5000, 80
COMMAND_LINE = "import sys; from effdet.commands import main; sys.exit(main())"  # what the script ``effdet`` does
FIRST_PREDICTION = "import sys, effdet; effdet.load(sys.argv[1]).predict(sys.argv[2])"


def loader(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Augmented batches on one core; the peer without its labeler, and with it, as its training script has it."""
    batch = (args.batch or [BATCH])[0]
    size = [512, 512] if args.size is None else [args.size[0], args.size[-1]]
    settings = {
        "folder": str(folder),
        "data": args.data,
        "num_photos": args.images or PHOTOS,
        "photo_size": list(args.photo_size or PHOTO_SIZE),
        "num_classes": args.classes,
    }
    facts = ask_once(Entry(name="preparation", module="ours_data", task="loader_data", settings=settings))
    own = {"root": facts["root"], "image_size": size, "batch": batch}
    entries = [Entry(name="ours", module="ours_data", task="loader", settings=own, environment=ONE_CORE)]
    if args.peer_python is not None:
        other = {**{key: facts[key] for key in ("annotations", "images")}, "image_size": size, "batch": batch}
        entries += [
            Entry(
                name=f"effdet, {'labels assigned' if labeler else 'images alone'}",
                module="peer_effdet",
                task="loader",
                settings={**other, "num_classes": args.classes, "labeler": labeler},
                python=args.peer_python,
                environment=ONE_CORE,
            )
            for labeler in (True, False)
        ]
    title = f"loader on one core: {facts['count']} photos to batches of {batch} at {size[0]}×{size[1]}"
    return make_case(args, title, race(entries, **race_options(args)), images_per_step=batch)


def evaluate(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """From two JSON files to COCO's numbers; ours also from columns, as evaluations of a model have them."""
    images, classes = args.images or IMAGES, CLASSES
    settings = {"folder": str(folder), "num_images": images, "num_classes": classes}
    facts = ask_once(Entry(name="preparation", module="evaluation", task="results_data", settings=settings))
    where, module = {"folder": str(folder)}, "evaluation"
    entries = [
        Entry(name="ours, from files", module=module, task="ours", settings={**where, "columns": False}),
        Entry(name="ours, from columns", module=module, task="ours", settings={**where, "columns": True}),
        Entry(name="pycocotools, from files", module=module, task="pycocotools", settings=where),
    ]
    rows = race(entries, **race_options(args))
    numbers = [row.result for row in rows if row.result]
    largest = max((abs(a - b) for other in numbers[:-1] for a, b in zip(other, numbers[-1], strict=True)), default=0.0)
    title = (
        f"COCO numbers of {images} images, {facts['detections']} detections, {facts['boxes']} boxes, {classes} classes"
    )
    return make_case(args, title, rows, images_per_step=1, largest_difference=largest)


def startup(args: argparse.Namespace, folder: Path, facts: dict[str, Any] | None) -> dict[str, Any]:
    """Imports and --help of fresh processes, and the first prediction of one from an exported file.

    Args:
        args: The options.
        folder: Where ``model.onnx`` is, if there are facts.
        facts: What ``Prepare`` said of it; None: nothing could be exported.
    """
    commands = {
        "import torch": ["-c", "import torch"],
        "ours: import effdet": ["-c", "import effdet"],
        "ours: from effdet import EfficientDet": ["-c", "from effdet import EfficientDet"],
        "ours: effdet --help": ["-c", COMMAND_LINE, "--help"],
        "ours: effdet train --help": ["-c", COMMAND_LINE, "train", "--help"],
    }
    if facts is not None:
        file, photo = str(folder / "model.onnx"), facts["photos"][0]
        name = f"of {facts['variant']}.onnx on a photo"
        commands |= {
            f"ours: first prediction {name}": ["-c", FIRST_PREDICTION, file, photo],
            f"ours: effdet predict {name}": [
                *("-c", COMMAND_LINE, "predict", "--weights", file, photo, "--out", str(folder / "found")),
            ],
        }
    entries = [
        Entry(
            name=name,
            module="commands",
            task="command",
            settings={"argv": [sys.executable, *argv], "isolated": False},
            environment=threads_of(args),
        )
        for name, argv in commands.items()
    ]
    if args.peer_python is not None:
        argv = [args.peer_python, "-I", "-W", "ignore", "-c", "import effdet"]
        settings = {"argv": argv, "isolated": True}
        entries.append(Entry(name="effdet: import effdet", module="commands", task="command", settings=settings))
    rows: list[Row] = race(entries, **race_options(args))
    for row in rows:
        row.peak_mb = 0.0  # of the process that started the commands
    return make_case(args, "a fresh process, from its start to its end", rows, images_per_step=1)
