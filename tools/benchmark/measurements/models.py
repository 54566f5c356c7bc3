"""The measurements of a model (network, prediction, training step, throughput) and the runners of each."""

from __future__ import annotations

import argparse
import importlib.util
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmark.compare import agreement, same_outputs
from benchmark.exports import EXPORTS
from benchmark.measurements.evaluation import evaluate
from benchmark.measurements.loader import loader
from benchmark.measurements.quality import quality
from benchmark.measurements.startup import startup
from benchmark.measurements.throughput import throughput
from benchmark.race import Entry, Row, race
from benchmark.results import ask_once, make_result, race_options, threads_of

PHOTO_SIZES = {
    "predict": (1080, 1920),
    "startup": (1080, 1920),
    "throughput": (480, 640),
    "network": (480, 640),
    "train": (480, 640),
}
PHOTOS = {"predict": 4, "startup": 1, "throughput": 8, "network": 8, "train": 8}
BOXES_PER_IMAGE = 7
RUNTIME_OF = {".onnx": "onnxruntime", ".xml": "openvino"}  # by the suffix of an exported file
HUGE_PAGES = {"THP_MEM_ALLOC_ENABLE": "1"}  # as ``effdet train`` sets it, before the first tensor


def measure(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield the results of a measurement, each with its rows."""
    folder = getattr(args, "keep", None) or folder
    folder.mkdir(parents=True, exist_ok=True)
    if args.measurement in ("network", "predict", "train"):
        measurements = {"network": _network, "predict": _predict, "train": _train}
        for variant in args.variant:
            for batch in args.batch or [4 if args.measurement == "train" else 1]:
                place = _place(folder, variant, batch)
                facts = prepare(args, place, variant=variant, batch=batch)
                yield measurements[args.measurement](args, place, facts, batch)
    elif args.measurement == "throughput":
        yield from _throughput(args, folder)
    elif args.measurement == "startup":
        exported = prepare(args, folder, variant=args.variant[0], batch=1) if _can_export() else None
        yield startup(args, folder, exported)
    else:
        yield {"loader": loader, "evaluate": evaluate, "quality": quality}[args.measurement](args, folder)


def prepare(args: argparse.Namespace, folder: Path, *, variant: str | None, batch: int) -> dict[str, Any]:
    """Write weights, photos and inputs in another process; return its facts about them."""
    settings = {
        "folder": str(folder),
        "variant": variant,
        "num_classes": args.classes,
        "image_size": _image_size(args),
        "photo_size": list(args.photo_size or PHOTO_SIZES[args.measurement]),
        "num_photos": args.images or PHOTOS[args.measurement],
        "batch": batch,
        "photos": args.photos,
        "weights": args.weights,
        "peer": args.peer_python is not None and "effdet" in args.peer,
    }
    if getattr(args, "keep", None):
        check_kept(folder, settings)
    settings["exports"] = _exports(args)
    entry = Entry(name="preparation", module="prepare", task="prepare", settings=settings, environment=threads_of(args))
    return ask_once(entry)


def _place(folder: Path, variant: str, batch: int) -> Path:
    """Return the folder for the weights, photos and exports of one model; what lies there already is not made again."""
    place = folder / f"{variant}-{batch}"
    place.mkdir(parents=True, exist_ok=True)
    return place


def check_kept(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of what is prepared, or compare them with those that are there.

    Raises:
        ValueError: If they are others.
    """
    file, text = folder / "settings.json", json.dumps(settings, indent=1)
    if file.exists() and file.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"--keep must name a folder that was prepared with the same options, got other ones in {file}; "
            "name another folder"
        )
    file.write_text(text, encoding="utf-8")


def _image_size(args: argparse.Namespace) -> list[int] | None:
    return None if args.size is None else [args.size[0], args.size[-1]]


def _runtimes(args: argparse.Namespace) -> list[tuple[str, str]]:
    """Return runtime and preset of each of our rows."""
    if args.runtime:
        pairs = [name.partition(":") for name in args.runtime]
        return [(runtime, preset or "default") for runtime, _, preset in pairs]
    installed = [name for name in ("onnxruntime", "openvino") if importlib.util.find_spec(name) is not None]
    rows = [(name, "default") for name in ["eager", *installed]]
    if args.measurement == "predict" and args.peer_python is not None and "effdet" in args.peer:
        rows += [(name, "effdet") for name in ["eager", *installed]]  # the same detections as the peer's
    return rows


def _exports(args: argparse.Namespace) -> list[str]:
    """Return the runtimes that need an export, without repeats."""
    if args.measurement in ("startup", "throughput"):
        return ["onnxruntime"]
    if args.measurement == "train":
        return []
    return list(dict.fromkeys(runtime for runtime, _ in _runtimes(args) if runtime in EXPORTS))


def _can_export() -> bool:
    return all(importlib.util.find_spec(name) is not None for name in ("onnxruntime", "onnxscript"))


def _throughput(args: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Yield a result for every exported file that ``--runtime`` names, or for every variant and batch."""
    photos = prepare(args, folder, variant=None, batch=1)["photos"] if args.runtime else []
    for batch in args.batch or [1]:
        if args.runtime:
            for file in args.runtime:
                yield throughput(args, file, photos, batch)
        else:
            for variant in args.variant:
                place = _place(folder, variant, batch)
                facts = prepare(args, place, variant=variant, batch=batch)
                yield throughput(args, str(place / "model.onnx"), facts["photos"], batch)


def _own_name(runtime: str, preset: str) -> str:
    return f"ours, {Path(runtime).name}" + ("" if preset == "default" else f" as {preset}")


def _peers(
    args: argparse.Namespace, task: str, facts: dict[str, Any], own: dict[str, Any], other: dict[str, Any]
) -> list[Entry]:
    """Return the entries of all peers. ``own``: settings for effdet's tasks; ``other``: for torchvision's."""
    entries = []
    for peer in args.peer:
        kind, _, name = peer.partition(":")
        if kind == "effdet" and args.peer_python is None:
            continue
        for mode in args.peer_modes:
            model = {key: facts[key] for key in ("num_classes", "image_size", "mean", "std")}
            settings = {"variant": facts["peer"], **model, **own} if kind == "effdet" else {"variant": name, **other}
            if task == "network" and kind == "effdet":
                settings["name"] = f"peer_{mode}"
            entries.append(
                Entry(
                    name=f"{peer}, {mode}",
                    module=f"peer_{kind}",
                    task=task,
                    settings={**settings, "mode": mode},
                    python=args.peer_python,
                    environment=threads_of(args),
                )
            )
    return entries


def _network(args: argparse.Namespace, folder: Path, facts: dict[str, Any], batch: int) -> dict[str, Any]:
    base = {"folder": str(folder), "batch": batch}
    entries = [
        Entry(
            name=_own_name(runtime, "default"),
            module="ours_inference",
            task="network",
            settings={**base, "runtime": runtime, "threads": args.threads, "name": f"ours_{number}"},
            environment=threads_of(args),
        )
        for number, (runtime, _) in enumerate(_runtimes(args))
    ]
    other = {"num_classes": facts["num_classes"], "photos": facts["photos"], "batch": batch}
    rows = race(entries + _peers(args, "network", facts, base, other), **race_options(args))
    same = same_outputs([(row.name, row.result) for row in rows if row.result])
    peaks = [] if args.no_peak else _peaks(args, [row for row in rows if row.name.startswith("ours")], facts, batch)
    title = f"network of {facts['variant']} at {_by(facts)}, batch {batch}"
    return make_result(args, title, rows, images_per_step=batch, model=facts, same=same, peaks=peaks)


def _peaks(args: argparse.Namespace, rows: list[Row], facts: dict[str, Any], batch: int) -> list[dict[str, Any]]:
    """Return, for each of our runtimes, the peak of the machine in it, and the network's share of the peak."""
    found, known = [], {}
    for row in rows:
        if not row.seconds:
            continue
        name = row.name.removeprefix("ours, ")
        runtime = name if name in RUNTIME_OF.values() else RUNTIME_OF.get(Path(name).suffix, "torch")
        if runtime not in known:
            settings = {"runtime": runtime, "threads": args.threads}
            entry = Entry(name="peak", module="peak", task="peak", settings=settings, environment=threads_of(args))
            known[runtime] = ask_once(entry)
        speed = 2 * facts["macs"] * batch / row.median / 1e9
        share = speed / known[runtime]["gflops"]
        found.append({"name": row.name, "runtime": runtime, "reached": speed, "share": share, **known[runtime]})
    return found


def _predict(args: argparse.Namespace, folder: Path, facts: dict[str, Any], batch: int) -> dict[str, Any]:
    base = {"folder": str(folder), "photos": facts["photos"], "score_threshold": args.score_threshold}
    runtimes = _runtimes(args)
    entries = [
        Entry(
            name=_own_name(runtime, preset),
            module="ours_inference",
            task="predict",
            settings={**base, "runtime": runtime, "threads": args.threads, "preset": preset},
            environment=threads_of(args),
        )
        for runtime, preset in runtimes
    ]
    other = {"num_classes": facts["num_classes"], "photos": facts["photos"]}
    rows = race(entries + _peers(args, "predict", facts, base, other), **race_options(args))
    same = _compare_detections(rows, [preset for _, preset in runtimes])
    title = f"{facts['variant']} at {_by(facts)}, from a JPEG file to boxes"
    return make_result(args, title, rows, images_per_step=1, model=facts, same=same)


def _compare_detections(rows: list[Row], presets: list[str]) -> dict[str, dict[str, Any]]:
    """Compare the detections of every row with those of our first row of the same preset; remove them from the rows."""
    presets = presets + ["effdet"] * (len(rows) - len(presets))
    first: dict[str, Row] = {}
    same = {}
    for row, preset in zip(rows, presets, strict=True):
        if row.result is None:
            continue
        row.parts = row.parts or row.result["parts"]
        kind = "default" if preset == "fast" else preset
        reference = first.setdefault(kind, row)
        if reference is not row:
            found = agreement(reference.result["detections"], row.result["detections"])
            same[row.name] = {**found, "reference": reference.name}
    for row in rows:
        row.result = None
    return same


def _train(args: argparse.Namespace, folder: Path, facts: dict[str, Any], batch: int) -> dict[str, Any]:
    boxes, labels = _targets(batch, facts["image_size"], facts["num_classes"])
    base = {"folder": str(folder), "batch": batch, "boxes": boxes, "labels": labels}
    entries = [
        Entry(
            name=f"ours, {precision}",
            module="ours_training",
            task="train",
            settings={**base, "precision": precision},
            environment={**threads_of(args), **HUGE_PAGES},
        )
        for precision in args.precision
    ]
    if args.with_loader:
        settings = {**entries[0].settings, "with_loader": True}
        entries.append(replace(entries[0], name=f"{entries[0].name}, with its loader", settings=settings))
    names = ("num_classes", "photos", "image_size")
    other = {**{name: facts[name] for name in names}, "batch": batch, "boxes": boxes, "labels": labels}
    rows = race(entries + _peers(args, "train", facts, base, other), **race_options(args))
    title = f"training step of {facts['variant']} at {_by(facts)}, batch {batch}"
    return make_result(args, title, rows, images_per_step=batch, model=facts)


def _targets(batch: int, image_size: list[int], num_classes: int) -> tuple[list[Any], list[Any]]:
    """Return boxes xyxy and labels of every image, the same at every call."""
    rng = random.Random(0)
    height, width = image_size
    boxes, labels = [], []
    for _ in range(batch):
        rows = []
        for _ in range(BOXES_PER_IMAGE):
            w, h = (side * 0.04 * 15 ** rng.random() for side in (width, height))
            x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
            rows.append([x, y, x + w, y + h])
        boxes.append(rows)
        labels.append([rng.randrange(num_classes) for _ in rows])
    return boxes, labels


def _by(facts: dict[str, Any]) -> str:
    return "×".join(str(side) for side in facts["image_size"])
