"""Measure how fast augmented batches are made from JPEG files on one core."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from benchmark.race import Entry, race
from benchmark.results import ask_once, make_result, race_options

ONE_CORE = {"OMP_NUM_THREADS": "1"}
PHOTO_SIZE, PHOTOS, BATCH = (480, 640), 64, 8


def loader(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Time of an augmented batch on one core; for the peer without its labeler and, as its script does, with it."""
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
    return make_result(args, title, race(entries, **race_options(args)), images_per_step=batch)
