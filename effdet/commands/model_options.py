"""What the commands that run a model share: its options and how it is loaded."""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import TYPE_CHECKING, cast

from effdet.deployment.formats import RUNTIMES, format_of, is_exported

if TYPE_CHECKING:
    import torch

    from effdet.detector.efficientdet import EfficientDet
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
    "what computes the network; weights are converted for onnxruntime, openvino and litert, which takes seconds "
    "(default: auto, which is torch for weights, and the first that is installed for an exported file)"
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
    from effdet.deployment.load import load_and_change

    if num_threads is not None and num_threads < 1:
        raise ValueError(f"--threads must be 1 or more, got {num_threads}")
    of_torch = _is_of_torch(args)
    if of_torch or not is_exported(args.weights):
        _set_threads_of_torch(num_threads)
    device = _device(args)
    detector = load_and_change(
        args.weights,
        lambda loaded: _apply_options(loaded, args),
        runtime=args.runtime,
        num_threads=None if of_torch else num_threads,
        precision=args.precision,
        trust=args.trust,
    )
    return detector if device is None else cast("EfficientDet", detector).to(device)


def _is_of_torch(args: argparse.Namespace) -> bool:
    """Return whether PyTorch computes the network; its threads are those of the whole process."""
    is_default = not is_exported(args.weights) or "torch" in format_of(args.weights).runtimes
    return args.runtime == "torch" or (args.runtime == "auto" and is_default)


def _device(args: argparse.Namespace) -> torch.device | None:
    """Return the device of a PyTorch model; None where another runtime, or an exported file, leaves no choice.

    Raises:
        ValueError: If the device is not there, or there is no choice and it is not the CPU.
    """
    if not is_exported(args.weights) and args.runtime in ("auto", "torch"):
        from effdet.runs.device import choose_device

        return choose_device(args.device, option="--device")
    if args.device not in ("auto", "cpu"):
        whose = "of an exported file" if is_exported(args.weights) else f"of --runtime {args.runtime}"
        raise ValueError(f"--device {whose} must be cpu, got {args.device}")
    return None


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
