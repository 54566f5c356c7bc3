"""Compare our networks with PyPI effdet's on the same weights and input.

    EFFDET_PEER_PYTHON=.venv-peer/bin/python python tests/peer/parity.py [NAME …] [--table docs/measurements/parity.md]

Without names all 47 models are compared. Ends with an error if a difference is above 1e-3 standard deviations.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from torch import Tensor

from effdet import EfficientDet
from effdet.models.published import list_variants
from effdet.ops.anchors import level_sizes
from effdet.weights.effdet import convert, to_effdet

LIMIT = 1e-3  # of the standard deviation of the peer's output, for the largest difference over all anchors
SIZES = ((192, 192), (160, 288))  # every level but P3 and P4 has an odd side in one of them
SIZES_TO_P8 = ((288, 288), (288, 416))  # the peer needs two cells a side above the coarsest level
AT_ONCE = 6  # models for which the outputs of the peer lie on the disk
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Row:
    """One model's differences: the largest over its input sizes, in standard deviations of the peer's output."""

    name: str
    image_sizes: Sequence[tuple[int, int]]
    class_difference: float
    box_difference: float
    num_tensors: int


def compare(names: Sequence[str], python: str, folder: Path, seed: int = 0) -> list[Row]:
    """Let the peer run models, run ours on the same, and return how far apart they are.

    Args:
        names: Models of ``list_variants("effdet")``.
        python: Interpreter that has the peer.
        folder: Where its outputs may lie for a while, up to 300 MB for a model.
        seed: Of weights and images.

    Raises:
        AssertionError: If anchors differ, or the weights do not come back as they were.
    """
    rows = {}
    for sizes, to_p8 in ((SIZES, False), (SIZES_TO_P8, True)):
        members = [name for name in names if name.endswith("d7x") == to_p8]
        if members:
            _run_peer(members, python, folder, sizes, seed)
        rows |= {name: _compare_one(name, folder / f"{name}.pt", sizes) for name in members}
    return [rows[name] for name in names]


def _run_peer(names: Sequence[str], python: str, folder: Path, sizes: Sequence[tuple[int, int]], seed: int) -> None:
    command = [python, "-I", str(HERE / "make_outputs.py"), *names, "--out", str(folder), "--seed", str(seed)]
    for height, width in sizes:
        command += ["--size", str(height), str(width)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def _compare_one(name: str, path: Path, sizes: Sequence[tuple[int, int]]) -> Row:
    made = torch.load(path, weights_only=True)
    path.unlink()
    checkpoint = convert(made["state"], hint=name)
    assert checkpoint.variant == name, f"{name} was taken for {checkpoint.variant}"
    model = EfficientDet(name, num_classes=checkpoint.num_classes).eval()
    model.network.load_state_dict(checkpoint.state)

    class_differences, box_differences = [], []
    for run in made["runs"]:
        with torch.inference_mode():
            predictions = model.network(run["images"])
        cells = level_sizes(run["image_size"], model.architecture.min_level, model.architecture.max_level)
        lengths = [9 * height * width for height, width in cells]
        class_differences.append(_difference(predictions.class_logits, run["class_logits"], lengths))
        box_differences.append(_difference(predictions.box_deltas, run["box_deltas"][..., [1, 0, 3, 2]], lengths))
        anchors = model.anchors(run["image_size"], "cpu")
        torch.testing.assert_close(anchors, run["anchors"][:, [1, 0, 3, 2]], atol=1e-3, rtol=0)

    back = to_effdet(model.network.state_dict(), name)
    assert back.keys() == made["state"].keys()
    assert all(torch.equal(back[key], value) for key, value in made["state"].items())
    return Row(name, sizes, max(class_differences), max(box_differences), len(made["state"]))


def _difference(ours: Tensor, theirs: Tensor, level_lengths: Sequence[int]) -> float:
    """Return the largest difference in standard deviations of ``theirs``: of all, or of a level where that is more.

    Args:
        ours: (B, N, C).
        theirs: (B, N, C); every level must be alive.
        level_lengths: Anchors of each level, N together.
    """
    assert ours.shape == theirs.shape
    found = [_deviations(ours, theirs)]
    for one, other in zip(ours.split(level_lengths, 1), theirs.split(level_lengths, 1), strict=True):
        found.append(_deviations(one, other))
    return max(found)


def _deviations(ours: Tensor, theirs: Tensor) -> float:
    deviation = theirs.std()
    assert 1e-2 < deviation < 1e4, f"a standard deviation of {deviation:.3g} says that the signal died or exploded"
    return ((ours - theirs).abs().max() / deviation).item()


def _table(rows: Sequence[Row]) -> str:
    lines = [
        "# Parity with PyPI effdet 0.4.1",
        "",
        "Do the networks here compute the same as those of PyPI's effdet? For each of its 47 models both networks",
        "get the same images and the same random weights, with biases, fusion weights and BN statistics. The table",
        "has the largest difference between their outputs over all anchors, in standard deviations of effdet's",
        "output. It is computed over all levels and for each level by itself; the larger number counts. 0.0e+00",
        "means equal bit for bit. The limit is 0.001.",
        "",
        "Anchors agree within 0.001 pixel. Weights that are converted to ours and back (`effdet convert --to",
        "effdet`) are unchanged; the last column has the number of their tensors.",
        "",
        f"Made by `make parity` on a CPU, {_versions()}.",
        "",
        "| model | inputs (height × width) | class logits | box deltas | tensors |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        sizes = ", ".join(f"{height}×{width}" for height, width in row.image_sizes)
        lines.append(
            f"| {row.name} | {sizes} | {row.class_difference:.1e} | {row.box_difference:.1e} | {row.num_tensors} |"
        )
    return "\n".join(lines) + "\n"


def _versions() -> str:
    return f"with torch {torch.__version__.partition('+')[0]} and timm {timm.__version__}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=list_variants("effdet"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--table", type=Path, help="Markdown file to write the result to")
    arguments = parser.parse_args()
    python = os.environ.get("EFFDET_PEER_PYTHON")
    if not python:
        sys.exit("EFFDET_PEER_PYTHON must name an interpreter that has PyPI effdet 0.4.1; run: make peer-env")

    torch.set_num_threads(1)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for start in range(0, len(arguments.names), AT_ONCE):
            chunk = arguments.names[start : start + AT_ONCE]
            for row in compare(chunk, str(Path(python).absolute()), Path(folder), arguments.seed):
                print(f"{row.name:24} {row.class_difference:.1e} {row.box_difference:.1e}", flush=True)
                rows.append(row)
    if arguments.table:
        arguments.table.write_text(_table(rows), encoding="utf-8")
    far = [row.name for row in rows if max(row.class_difference, row.box_difference) > LIMIT]
    if far:
        sys.exit(f"above {LIMIT} standard deviations: {', '.join(far)}")


if __name__ == "__main__":
    main()
