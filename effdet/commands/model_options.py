"""What the commands that run a model share: its options and how it is loaded."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING

from effdet.deployment.formats import RUNTIMES, is_exported

if TYPE_CHECKING:
    from effdet.detector.prediction import Detector
    from effdet.detector.views import TileChoice, Views

PRESETS = ("default", "fast", "google", "effdet", "zylo")
SETTINGS = ("nms", "iou_threshold", "sigma", "score_threshold", "max_candidates", "max_detections")


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how a model runs and what it reports."""
    group = parser.add_argument_group("model", "What is not given here is as the weights were saved.")
    group.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    group.add_argument("--runtime", default="auto", choices=("auto", *RUNTIMES), help=_RUNTIME)
    group.add_argument("--precision", choices=("auto",), help=_PRECISION)
    group.add_argument("--trust", action="store_true", help="open a .pt2 file that can run code: you know who made it")
    group.add_argument("--image-size", type=int, nargs="+", metavar="PIXELS", help="network input: one side, or H W")
    group.add_argument("--resize", choices=("letterbox", "stretch"), help="keep the shape of photos, or fill the input")
    group.add_argument("--preset", choices=PRESETS, help="whose resizing and NMS: see docs/explanations/presets.md")
    group.add_argument("--nms", choices=("hard", "soft"), help="drop overlapping boxes, or decay their scores")
    group.add_argument("--iou-threshold", type=float, metavar="IOU", help="overlap at which hard NMS drops a box")
    group.add_argument("--sigma", type=float, help="width of the decay of soft NMS")
    group.add_argument("--max-candidates", type=int, metavar="N", help="best boxes of an image that NMS sees")
    group.add_argument("--max-detections", type=int, metavar="N", help="most detections of an image")


def add_view_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which views of an image go through the network."""
    group = parser.add_argument_group("large images and test-time augmentation", _VIEWS)
    group.add_argument("--tiles", nargs="+", metavar="PIXELS", help="cut images into tiles: one side, H W, or auto")
    group.add_argument("--overlap", type=float, metavar="SHARE", help="of a tile's side, with the next (default: 0.2)")
    group.add_argument("--flip", action="store_true", help="look at the mirror image too")
    group.add_argument("--scales", type=float, nargs="+", default=[1.0], metavar="S", help="factors of the input size")


_VIEWS = (
    "What tiles show is joined by NMS, what mirror image and scales show by weighted boxes fusion. --tiles auto takes "
    "tiles in which objects have the size that they had in training."
)


def views_of(args: argparse.Namespace) -> Views:
    """Return what the options of ``add_view_options`` ask for.

    Raises:
        ValueError: If they are not valid.
    """
    from effdet.detector.views import Views

    return Views(tiles=_tiles(args.tiles), overlap=args.overlap, flip=args.flip, scales=tuple(args.scales))


def _tiles(texts: list[str] | None) -> TileChoice:
    if texts is None:
        return None
    if texts == ["auto"]:
        return "auto"
    if len(texts) > 2 or not all(text.isdecimal() for text in texts):
        raise ValueError(f"--tiles must be one side in pixels, a height and a width, or auto, got {' '.join(texts)}")
    return int(texts[0]), int(texts[-1])


_RUNTIME = (
    "what computes the network; weights are converted for onnxruntime and openvino, which takes seconds (default: "
    "auto, which is torch for weights, and the first that is installed for an exported file)"
)


_PRECISION = (
    "auto, for onnxruntime and openvino: compute an fp32 file in bf16 where runtime and processor have it and a check "
    "on photos allowed it, by effdet export --precision auto --check DATA (default: that of the file)"
)


def load_model(args: argparse.Namespace, *, num_threads: int | None = None) -> Detector:
    """Return the detector of ``args.weights``, weights or an export, with the options that were given.

    Args:
        args: What ``add_model_options`` and the command's own ``weights`` hold.
        num_threads: Threads of one run; None: one per core.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it holds no model, or an option has a value that is not valid.
    """
    from effdet.deployment.load import deploy, load_exported

    if num_threads is not None and num_threads < 1:
        raise ValueError(f"--threads must be 1 or more, got {num_threads}")
    if is_exported(args.weights):
        if args.device not in ("auto", "cpu"):
            raise ValueError(f"--device of an exported file must be cpu, got {args.device}")
        exported = load_exported(
            args.weights,
            runtime=args.runtime,
            num_threads=_threads_of_a_runtime(args, num_threads),
            precision=args.precision,
            trust=args.trust,
        )
        _apply_options(exported, args)
        return exported
    from effdet.deployment.precision import check_auto, choose_precision
    from effdet.detector.efficientdet import EfficientDet
    from effdet.runs.device import choose_device

    check_auto(args.precision, "torch" if args.runtime == "auto" else args.runtime)
    _set_threads_of_torch(num_threads)
    device = choose_device(args.device, option="--device")
    model = EfficientDet.from_pretrained(args.weights)
    _apply_options(model, args)
    if args.runtime in ("auto", "torch"):
        return model.to(device)
    if args.device not in ("auto", "cpu"):
        raise ValueError(f"--device must be cpu for --runtime {args.runtime}, got {args.device}")
    detector = deploy(model, args.runtime, num_threads=num_threads)
    if args.precision is not None:
        choose_precision(detector.description, args.runtime, args.weights)
    return detector


def _threads_of_a_runtime(args: argparse.Namespace, num_threads: int | None) -> int | None:
    """Return the number for a runtime that takes one; torch takes it for the whole process."""
    if args.runtime == "torch" or (args.runtime == "auto" and str(args.weights).endswith(".pt2")):
        _set_threads_of_torch(num_threads)
        return None
    return num_threads


def _set_threads_of_torch(num_threads: int | None) -> None:
    if num_threads is not None:
        import torch

        torch.set_num_threads(num_threads)


def _apply_options(model: Detector, args: argparse.Namespace) -> None:
    from effdet.images.preprocessing import Preprocessing
    from effdet.ops.settings import PostprocessSettings

    if args.preset is not None:
        model.settings = PostprocessSettings.preset(args.preset)
        model.preprocessing = Preprocessing.preset(args.preset)
    if args.resize is not None:
        model.preprocessing = replace(model.preprocessing, fit=args.resize)
    given = {name: getattr(args, name) for name in SETTINGS if getattr(args, name) is not None}
    model.settings = replace(model.settings, **given)
    if args.image_size is not None:
        model.image_size = image_size(args.image_size)


def image_size(sides: list[int]) -> tuple[int, int]:
    """Return (height, width) from one side or two.

    Raises:
        ValueError: If there are not one or two sides of at least 32 pixels.
    """
    if len(sides) not in (1, 2) or min(sides) < 32:
        raise ValueError(
            f"--image-size must be one or two sides of at least 32 pixels, got {' '.join(map(str, sides))}"
        )
    return sides[0], sides[-1]
