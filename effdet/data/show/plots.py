"""Plots of the boxes of a data set: how many of which class, how large, where and of which shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.dataset import Dataset, clip_boxes
from effdet.data.doctor.anchor_fit import Network, boxes_in_input
from effdet.fonts import drawable_text

Array = NDArray[Any]

MOST_CLASSES = 30  # that are drawn; the others are one bar
_CELLS = 64  # of the map of places, along each axis


def plot_boxes(datasets: Mapping[str, Dataset], network: Network) -> Any:
    """Return a figure of matplotlib with six plots; the splits have colours of their own.

    The plots: boxes of each class; boxes of an image; size √(width·height) in pixels of the network input, beside the
    sizes of its anchors; width against height there; width / height, beside the shapes of the anchors; and which part
    of the boxes covers each place of the image.

    Args:
        datasets: The splits by name.
        network: What they are shown to.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(18, 10), dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 3).ravel()
    boxes = {split: boxes_in_input(dataset, network)[1][:, 2:] for split, dataset in datasets.items()}
    _plot_classes(axes[0], datasets)
    _plot_boxes_of_images(axes[1], datasets)
    _plot_sizes(axes[2], boxes, network)
    _plot_sides(axes[3], boxes, network)
    _plot_shapes(axes[4], boxes, network)
    _plot_places(figure, axes[5], datasets)
    return figure


def _plot_classes(axes: Any, datasets: Mapping[str, Dataset]) -> None:
    counts: dict[str, dict[str, int]] = {}
    for split, dataset in datasets.items():
        numbers = np.bincount(dataset.labels, minlength=dataset.num_classes).tolist()
        for name, number in zip(dataset.class_names, numbers, strict=True):
            row = counts.setdefault(name, {})
            row[split] = row.get(split, 0) + number
    names = sorted(counts, key=lambda name: -sum(counts[name].values()))
    shown, rest = names[:MOST_CLASSES], names[MOST_CLASSES:]
    if rest:
        text = f"{len(rest)} others"
        counts[text] = {split: sum(counts[name].get(split, 0) for name in rest) for split in datasets}
        shown = [*shown, text]
    height = 0.8 / len(datasets)
    for place, split in enumerate(datasets):
        values = [counts[name].get(split, 0) for name in shown]
        axes.barh(np.arange(len(shown)) + place * height, values, height, label=split)
    labels = [drawable_text(name)[:24].replace("$", r"\$") for name in shown]
    axes.set_yticks(np.arange(len(shown)) + 0.4 - height / 2, labels, fontsize=8 if len(shown) > 15 else 10)
    axes.invert_yaxis()
    axes.set(title="boxes of each class", xlabel="boxes")
    axes.legend()


def _plot_boxes_of_images(axes: Any, datasets: Mapping[str, Dataset]) -> None:
    counts = {split: np.diff(dataset.offsets) for split, dataset in datasets.items()}
    most = max((int(count.max(initial=0)) for count in counts.values()), default=0)
    edges = np.unique(np.linspace(0, most + 1, min(most + 2, 40)).astype(int)) - 0.5
    _histogram(axes, counts, edges)
    axes.set(title="boxes of an image", xlabel="boxes", ylabel="part of the images")


def _plot_sizes(axes: Any, boxes: Mapping[str, Array], network: Network) -> None:
    sizes = {split: np.sqrt(sides.prod(axis=1)) for split, sides in boxes.items()}
    _histogram(axes, sizes, np.geomspace(1, max(network.image_size) * 1.1, 50))
    octaves = 2.0 ** (np.arange(network.scales_per_octave) / network.scales_per_octave)
    for level in range(network.min_level, network.max_level + 1):
        for size in network.anchor_scale * octaves * 2**level:
            if size < max(network.image_size) * 1.1:
                axes.axvline(size, color="gray", linewidth=0.7, linestyle=":")
    axes.set_xscale("log")
    height, width = network.image_size
    axes.set(
        title=f"size of a box in the network input {height}×{width} (dotted: anchors)", xlabel="√(width·height), pixels"
    )


def _plot_sides(axes: Any, boxes: Mapping[str, Array], network: Network) -> None:
    for split, sides in boxes.items():
        shown = sides[np.unique(np.linspace(0, max(0, len(sides) - 1), 5000).astype(int))] if len(sides) else sides
        axes.scatter(shown[:, 0], shown[:, 1], s=6, alpha=0.4, label=split, linewidths=0)
    axes.set(
        xscale="log",
        yscale="log",
        title="width and height in the network input",
        xlabel="width, pixels",
        ylabel="height, pixels",
    )
    axes.set(xlim=(1, network.image_size[1] * 1.1), ylim=(1, network.image_size[0] * 1.1))
    axes.grid(alpha=0.3)
    axes.legend()


def _plot_shapes(axes: Any, boxes: Mapping[str, Array], network: Network) -> None:
    ratios = {split: sides[:, 0] / sides[:, 1] for split, sides in boxes.items()}
    _histogram(axes, ratios, np.geomspace(1 / 16, 16, 49))
    for width, height in network.aspect_ratios:
        axes.axvline(width / height, color="gray", linewidth=1, linestyle=":")
    axes.set_xscale("log", base=2)
    axes.set(title="shape of a box (dotted: anchors)", xlabel="width / height")


def _histogram(axes: Any, values: Mapping[str, Array], edges: Array) -> None:
    for split, numbers in values.items():
        if len(numbers):
            weights = np.full(len(numbers), 1 / len(numbers))
            axes.hist(np.clip(numbers, edges[0], edges[-1]), edges, weights=weights, alpha=0.55, label=split)
    axes.grid(alpha=0.3)
    if any(len(numbers) for numbers in values.values()):
        axes.legend()


def _plot_places(figure: Any, axes: Any, datasets: Mapping[str, Dataset]) -> None:
    covered = sum((_coverage(dataset) for dataset in datasets.values()), np.zeros((_CELLS, _CELLS)))
    total = sum(len(dataset.labels) for dataset in datasets.values())
    picture = axes.imshow(100 * covered / max(1, total), extent=(0, 1, 1, 0), cmap="viridis", vmin=0)
    axes.set(title="where boxes lie", xlabel="part of the image's width", ylabel="part of the image's height")
    figure.colorbar(picture, ax=axes, label="% of the boxes that cover the place")


def _coverage(dataset: Dataset) -> Array:
    """Return for each of 64×64 places of an image how many boxes cover it."""
    sizes = dataset.sizes[dataset.image_of_box]
    clipped, has_area = clip_boxes(dataset.boxes_xywh, sizes)
    known = has_area & (sizes > 0).all(axis=1)
    parts = np.clip(clipped[known] / sizes[known][:, [1, 0, 1, 0]] * _CELLS, 0, _CELLS)
    first, last = np.floor(parts[:, :2]).astype(int), np.ceil(parts[:, 2:]).astype(int)
    steps = np.zeros((_CELLS + 1, _CELLS + 1))  # of a sum along both axes, which is 1 inside of a box
    for rows, columns, sign in ((first[:, 1], first[:, 0], 1), (last[:, 1], last[:, 0], 1)):
        np.add.at(steps, (rows, columns), sign)
    np.add.at(steps, (first[:, 1], last[:, 0]), -1)
    np.add.at(steps, (last[:, 1], first[:, 0]), -1)
    return steps.cumsum(axis=0).cumsum(axis=1)[:_CELLS, :_CELLS]
