"""Convert any weights to this project's format, or to that of PyPI's effdet.

effdet convert tf_efficientdet_d0_34-f153e0cf.pth d0.safetensors --check photo.jpg
effdet convert runs/blood/best.safetensors blood.pth --to effdet
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.commands import program
from effdet.commands.output import prepare_output, write_json

if TYPE_CHECKING:
    from effdet.detector.efficientdet import EfficientDet
    from effdet.structures import Detections
    from effdet.weights.loading import Loaded

_SOURCE = "file, folder, TensorFlow checkpoint, hf-hub:OWNER/NAME, or the name of a published file such as d0"
_DESTINATION = "a .safetensors file or a folder (config.json, model.safetensors); with --to effdet .pth or .safetensors"


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``convert``."""
    result = argparse.ArgumentParser(
        prog=program("convert"),
        description="Convert weights of any EfficientDet project to this project's format, or to that of PyPI's "
        "effdet. The written file is read again and compared, and the report lists every tensor.",
    )
    result.add_argument("source", metavar="SRC", help=_SOURCE)
    result.add_argument("destination", metavar="DST", type=Path, help=_DESTINATION)
    result.add_argument("--to", choices=("ours", "effdet"), default="ours", help="format to write (default: ours)")
    result.add_argument("--variant", metavar="NAME", help="name of the model, if the tensors fit several")
    result.add_argument("--class-names", nargs="+", metavar="NAME", help="names of the classes, in order of labels")
    result.add_argument("--list", action="store_true", help="print every tensor: name in SRC, name here, shape")
    result.add_argument("--json", metavar="FILE", help="write the whole report as JSON; - is stdout")
    result.add_argument("--check", metavar="IMAGE", help="print what the written model detects in an image")
    result.add_argument("--draw", metavar="FILE", type=Path, help="with --check: write the picture with the detections")
    result.add_argument(
        "--score-threshold",
        type=float,
        default=0.3,
        metavar="SCORE",
        help="smallest score that --check prints (default: 0.3)",
    )
    return result


def run(args: argparse.Namespace) -> int:
    """Convert, check, report, and return the exit status."""
    from effdet.detector.efficientdet import EfficientDet
    from effdet.weights.loading import load

    if args.draw and not args.check:
        parser().error("--draw needs --check IMAGE")
    found = load(args.source, variant=args.variant)
    model = EfficientDet.from_loaded(found)
    if args.class_names:
        model.name_classes(args.class_names)
    _write(model, args.destination, args.to)
    written = _read_back(model, args.destination, args.to)

    tensors = _account(found, model)
    _summarise(found, model, tensors, args)
    if args.list:
        for row in tensors:
            print(f"{row['source'] or '-'} -> {row['name'] or '-'} {tuple(row['shape'])}")
    report: dict[str, Any] = _report(found, model, tensors, args)
    if args.check:
        report["detections"] = _check(written, args).to_dict()
    if args.json:
        write_json(report, args.json)
    return 0


# -- writing -----------------------------------------------------------------------------------------------------------


def _write(model: EfficientDet, destination: Path, layout: str) -> None:
    if layout == "ours":
        model.save_pretrained(destination)
        return
    from effdet.weights.effdet import to_effdet
    from effdet.weights.own_format import save_tensors

    save_tensors(destination, to_effdet(model.network.state_dict(), model.name))


def _read_back(model: EfficientDet, destination: Path, layout: str) -> EfficientDet:
    """Return the model of the written file, with the classes and settings that another project's format cannot hold.

    Raises:
        RuntimeError: If the file differs from the model that was written.
    """
    import torch

    from effdet.detector.efficientdet import EfficientDet
    from effdet.weights.effdet import effdet_name

    variant = None if layout == "ours" else effdet_name(model.name)
    written = EfficientDet.from_pretrained(destination, variant=variant)
    expected, state = model.network.state_dict(), written.network.state_dict()
    different = [name for name in expected if name not in state or not torch.equal(expected[name], state[name])]
    if different or len(expected) != len(state):
        raise RuntimeError(f"{destination} does not hold what was written: {', '.join(different[:5])} differ")
    if layout != "ours":
        written.name_classes(model.class_names, model.category_ids)
    return written


# -- reporting ---------------------------------------------------------------------------------------------------------


def _account(found: Loaded, model: EfficientDet) -> list[dict[str, Any]]:
    """Return a row for every tensor of the network and of the source: both names (None: not there) and the shape."""
    state = model.network.state_dict()
    if found.checkpoint is None:
        sources: dict[str, str] = {name: f"network.{name}" for name in state}
        skipped: tuple[str, ...] = ()
    else:
        sources, skipped = found.checkpoint.sources, found.checkpoint.skipped
    rows = [
        {"source": sources.get(name), "name": name, "shape": list(tensor.shape), "dtype": str(tensor.dtype)}
        for name, tensor in state.items()
    ]
    return rows + [{"source": name, "name": None, "shape": [], "dtype": None} for name in skipped]


def _report(
    found: Loaded, model: EfficientDet, tensors: list[dict[str, Any]], args: argparse.Namespace
) -> dict[str, Any]:
    return {
        "source": found.where,
        "destination": str(args.destination),
        "format": args.to,
        "family": found.checkpoint.family if found.checkpoint else "ours",
        "variant": model.name,
        "alternatives": list(found.checkpoint.alternatives) if found.checkpoint else [],
        "num_classes": model.num_classes,
        "class_names": list(model.class_names),
        "category_ids": list(model.category_ids),
        "tensors": tensors,
    }


def _summarise(found: Loaded, model: EfficientDet, tensors: list[dict[str, Any]], args: argparse.Namespace) -> None:
    """Print to stderr what the source holds and how it was converted."""

    def say(text: str) -> None:
        print(text, file=sys.stderr)

    mapped = [row for row in tensors if row["source"] and row["name"]]
    parts = Counter(str(row["name"]).partition(".")[0] for row in mapped)
    made = [str(row["name"]) for row in tensors if row["source"] is None]
    unused = [str(row["source"]) for row in tensors if row["name"] is None]
    say(f"{found.where}: {model.name}, {model.num_classes} classes")
    say(f"{len(mapped)} tensors mapped: " + ", ".join(f"{part} {count}" for part, count in parts.items()))
    if made:
        counters = sum(name.endswith("num_batches_tracked") for name in made)
        others = [name for name in made if not name.endswith("num_batches_tracked")]
        say(f"{len(made)} not in the source: {counters} counters of BN batches{''.join(f', {n}' for n in others[:5])}")
    if unused:
        say(f"{len(unused)} of the source not used: {', '.join(unused[:5])}{', …' if len(unused) > 5 else ''}")
    say(f"wrote {args.destination}; read it again, and all {len(mapped) + len(made)} tensors are equal")
    if args.to == "effdet":
        _say_how_to_load(model, say)


def _say_how_to_load(model: EfficientDet, say: Any) -> None:
    from effdet.weights.effdet import effdet_name

    say(f"in that project it is effdet.create_model('{effdet_name(model.name)}', num_classes={model.num_classes})")
    if model.architecture.downsampling == "max_zeros":
        say("its max-pool pads with zeros, which no model of that project does: outputs at the borders will differ")


def _check(model: EfficientDet, args: argparse.Namespace) -> Detections:
    """Print the detections of an image, best first, and draw them if asked to."""
    from effdet.images.reading import read_image
    from effdet.visualize import save_image

    image = read_image(args.check)
    detections = model.predict([image], score_threshold=args.score_threshold)[0]
    out = sys.stderr if args.json == "-" else sys.stdout
    width = max([len("class"), *(len(found.class_name) for found in detections)])
    print(f"{args.check}: {len(detections)} detections above {args.score_threshold}", file=out)
    print(f"{'class':<{width}}  score        x1        y1        x2        y2", file=out)
    for found in detections:
        print(f"{found.class_name:<{width}}  {found.score:.3f}" + "".join(f"{x:10.1f}" for x in found.box), file=out)
    if args.draw:
        prepare_output(args.draw)
        save_image(args.draw, detections.draw(image))
        print(f"drawn: {args.draw}", file=sys.stderr)
    return detections
