"""The options of the measurements, in groups that measurements share."""

from __future__ import annotations

import argparse
from pathlib import Path

PEERS = ("effdet", "torchvision:NAME")
RUNTIMES = (
    "of ours: eager, channels_last, compile (torch.compile), onnxruntime, openvino, litert, executorch, torch-export, "
    "openvino-int8, litert-int8, executorch-int8, or an exported file; for predict also with a preset, as in "
    "openvino:effdet (default: eager, onnxruntime and openvino; for predict beside effdet also with its preset)"
)

SCORE_THRESHOLD = (
    "smallest score of a detection of ours and of effdet (default: 0, so that all are compared; `effdet predict` takes "
    "0.3 where the weights say nothing)"
)


def batches(parser: argparse.ArgumentParser) -> None:
    """Add input size, number of images and number of classes."""
    parser.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="network input: one side, or H W")
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="images at a time (default: 1; train: 4)")
    parser.add_argument("--classes", type=int, default=90, metavar="K", help="number of classes (default: 90)")


def model(parser: argparse.ArgumentParser) -> None:
    """Add the options for the models and their weights."""
    parser.add_argument("--variant", nargs="+", default=["d0"], metavar="NAME", help="models (default: d0)")
    parser.add_argument("--weights", metavar="W", help="a trained model (.safetensors) instead of random weights")
    batches(parser)


def images(parser: argparse.ArgumentParser) -> None:
    """Add the number of images."""
    parser.add_argument("--images", type=int, metavar="N", help="photos drawn; evaluate: images (default: 5000)")


def drawn(parser: argparse.ArgumentParser) -> None:
    """Add the options for drawn photos."""
    images(parser)
    parser.add_argument("--photo-size", type=int, nargs=2, metavar=("H", "W"), help="size of drawn photos")


def photos(parser: argparse.ArgumentParser) -> None:
    """Add the options for photos, drawn or from a folder."""
    drawn(parser)
    parser.add_argument("--photos", metavar="FOLDER", help="own JPEG files instead of drawn ones")


def runtime(parser: argparse.ArgumentParser) -> None:
    """Add the runtimes of our networks."""
    parser.add_argument("--runtime", nargs="+", metavar="NAME", help=RUNTIMES)
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep weights, photos and exports here, for the next call"
    )


def peer_python(parser: argparse.ArgumentParser) -> None:
    """Add the interpreter of the peer."""
    parser.add_argument("--peer-python", metavar="PYTHON", help="interpreter of an environment with the peer")


def peer(parser: argparse.ArgumentParser) -> None:
    """Add the peers and their modes."""
    peer_python(parser)
    parser.add_argument("--peer", nargs="+", default=["effdet"], metavar="PEER", help=f"{', '.join(PEERS)}")
    parser.add_argument(
        "--peer-modes",
        nargs="+",
        choices=("default", "channels_last", "bf16", "compile"),
        default=["default", "channels_last", "bf16"],
        help="rows of the peer (default: default channels_last bf16)",
    )


def threads(parser: argparse.ArgumentParser) -> None:
    """Add the number of threads, and where the results go."""
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads of each runner (default: cores of this process)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every result and the machine as JSON")


def turns(parser: argparse.ArgumentParser) -> None:
    """Add the numbers of measured and of warm-up steps."""
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of turns (default: by the measurement)")
    parser.add_argument("--warmup", type=int, metavar="N", help="steps before them (default: by the measurement)")
    parser.add_argument(
        "--steps", type=int, metavar="N", help="counted steps of a turn (default: 3 of a model, else 1)"
    )
    parser.add_argument(
        "--real-time", action="store_true", help="measured steps go before all other programs (Linux, as root)"
    )
    threads(parser)


def network(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``network`` only."""
    parser.add_argument("--no-peak", action="store_true", help="leave out the machine's peak")


def predict(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``predict`` only."""
    parser.add_argument("--score-threshold", type=float, default=0.0, metavar="S", help=SCORE_THRESHOLD)


def train(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``train`` only."""
    parser.add_argument(
        "--precision", nargs="+", default=["fp32"], choices=("fp32", "bf16"), help="precision of our rows"
    )
    parser.add_argument("--with-loader", action="store_true", help="one more row, with a loader process")


def loader(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``loader`` only."""
    parser.add_argument("--data", metavar="DATA", help="a data set in COCO format instead of drawn photos")


def throughput(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``throughput`` only."""
    parser.add_argument("--cores", type=int, nargs="+", metavar="N", help="threads (default: 1, 2, 4, … --threads)")
    parser.add_argument("--streams", type=int, nargs="+", metavar="N", help="runs at a time (default: as --cores)")
    parser.add_argument("--seconds", type=float, metavar="S", help="seconds for each pair of these (default: 5)")


def quality(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``quality`` only."""
    parser.add_argument("--data", required=True, metavar="DATA", help="a data set in COCO format")
    parser.add_argument("--side", choices=("ours", "peer"), default="ours", help="side that is trained (default: ours)")
    parser.add_argument("--minutes", type=float, default=35.0, help="stop after this time (default: 35)")
    parser.add_argument("--whole", action="store_true", help="do not stop earlier, at AP50 0.85 and AP 0.48")
    ours = parser.add_argument_group("ours")
    ours.add_argument("--config", type=Path, metavar="CONFIG", help="(default: configs/custom.yaml)")
    ours.add_argument("--set", nargs="+", default=[], metavar="key.sub=value", help="settings of the config")
    other = parser.add_argument_group("peer")
    other.add_argument("--size", type=int, nargs="+", metavar="PIXELS", help="network input (default: 512)")
    other.add_argument("--batch", type=int, nargs="+", metavar="N", help="images of a step (default: 8)")
    other.add_argument("--epochs", type=int, default=36, metavar="N", help="length of the cycle (default: 36)")
    other.add_argument("--lr", type=float, default=2e-3, help="its highest learning rate (default: 0.002)")
    other.add_argument("--every", type=int, default=2, metavar="N", help="epochs between evaluations (default: 2)")


def plot(parser: argparse.ArgumentParser) -> None:
    """Add the options of ``plot``."""
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE", help="JSON files of earlier runs")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the picture (.png)")
