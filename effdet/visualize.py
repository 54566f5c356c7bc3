"""Pictures for people: boxes with names and scores, ground truth beside predictions, curves of a run.

    picture = draw_detections(image, detections.above(0.3))
    save_image("picture.jpg", picture)

Images are RGB uint8 (H, W, 3). Nothing here opens a window or keeps global state.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from effdet.fonts import drawable_text, font_for
from effdet.metrics_table import read_metrics
from effdet.structures import Detections

Color = tuple[int, int, int]
Mark = tuple[tuple[float, float, float, float], Color, str]  # box xyxy, colour, text

# The usual level of PNG, 6, takes three times as long as 3, for a file that is an eighth smaller.
_SAVE_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "PNG": {"compress_level": 3}}

LOSSES = ("loss", "class_loss", "box_loss", "val_loss")
SCORES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


class GroundTruth(Protocol):
    """Ground truth of one image in pixels of that image, arrays or tensors."""

    @property
    def boxes(self) -> Any:
        """(M, 4) xyxy."""

    @property
    def labels(self) -> Any:
        """(M,) integers."""

    @property
    def is_crowd(self) -> Any:
        """(M,) bool."""


def as_rgb(levels: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return an image of any number of channels as RGB, to look at: its first three channels, or the first one as gray.

    Args:
        levels: (H, W, C) levels in 0…255, uint8 or float.
    """
    if levels.ndim == 3 and levels.shape[2] != 3:
        levels = levels[..., :3] if levels.shape[2] > 3 else np.repeat(levels[..., :1], 3, axis=2)
    if np.issubdtype(levels.dtype, np.floating):
        levels = np.rint(levels.clip(0, 255)).astype(np.uint8)
    return np.ascontiguousarray(levels)


def draw_detections(image: npt.NDArray[np.uint8], detections: Detections) -> npt.NDArray[np.uint8]:
    """Return a copy of the image with each box, its class name and its score in per cent.

    The best detection is drawn last, so that no other hides it. Letters that no font of this machine has are drawn as
    their codes, and the log says so once.

    Args:
        image: (H, W, 3) uint8 RGB.
        detections: In pixels of their ``image_size``; without one, of this image.

    Raises:
        ValueError: If the image is not (H, W, 3) uint8.
    """
    detections = _fitted(detections, image)
    return _draw(
        image,
        [
            (
                found.box,
                class_color(found.label),
                f"{drawable_text(found.class_name)} {100 * found.score:.0f}",
            )
            for found in sorted(detections, key=lambda detection: detection.score)
        ],
    )


def draw_targets(
    image: npt.NDArray[np.uint8],
    boxes: Any,
    labels: Any,
    *,
    class_names: Sequence[str] = (),
    is_crowd: Any = None,
) -> npt.NDArray[np.uint8]:
    """Return a copy of the image with its ground truth; crowd regions say so in their label.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (M, 4) xyxy pixels of this image, array or tensor.
        labels: (M,) integers.
        class_names: Name of each label; empty: the numbers.
        is_crowd: (M,) bool; None: no box is.

    Raises:
        ValueError: If the image is not (H, W, 3) uint8.
    """
    marks = []
    crowd = [False] * len(boxes) if is_crowd is None else is_crowd
    for box, label, many in zip(boxes, labels, crowd, strict=True):
        index = int(label)
        name = drawable_text(class_names[index]) if len(class_names) else str(index)
        left, top, right, bottom = (float(value) for value in box)
        marks.append(((left, top, right, bottom), class_color(index), f"{name} (crowd)" if many else name))
    return _draw(image, marks)


def side_by_side(
    images: Sequence[npt.NDArray[np.uint8]],
    ground_truth: Sequence[GroundTruth],
    detections: Sequence[Detections],
    *,
    width: int = 640,
) -> npt.NDArray[np.uint8]:
    """Return one picture with a row per image: ground truth on the left, predictions on the right.

    Args:
        images: Each (H, W, 3) uint8 RGB.
        ground_truth: Of each image, in its pixels.
        detections: Of each image, in its pixels.
        width: Pixels of each column; larger images are reduced to it, smaller ones enlarged.

    Raises:
        ValueError: If there are no images, or not one ground truth and one ``Detections`` per image.
    """
    if not len(images) == len(ground_truth) == len(detections) >= 1:
        raise ValueError(
            "there must be at least one image, and ground truth and detections for each; "
            f"got {len(images)}, {len(ground_truth)}, {len(detections)}"
        )
    rows = [_heading(width)]
    for image, truth, found in zip(images, ground_truth, detections, strict=True):
        scale = width / image.shape[1]
        resized = _resize(image, (max(1, round(image.shape[0] * scale)), width))
        boxes = np.asarray(truth.boxes, dtype=np.float32).reshape(-1, 4) * scale
        left = draw_targets(resized, boxes, truth.labels, class_names=found.class_names, is_crowd=truth.is_crowd)
        right = draw_detections(resized, _scaled(found, (scale, scale)))
        gap = np.full((left.shape[0], _GAP, 3), 255, np.uint8)
        rows += [np.concatenate([left, gap, right], axis=1), np.full((_GAP, 2 * width + _GAP, 3), 255, np.uint8)]
    return np.concatenate(rows)


def save_image(path: str | Path, image: npt.NDArray[np.uint8]) -> None:
    """Write an RGB image; the ending of the name decides the format.

    Raises:
        ValueError: If no image format has this ending.
    """
    file_format = Image.registered_extensions().get(Path(path).suffix.lower())
    if file_format not in Image.SAVE:
        raise ValueError(f"{path}: must end in an image format such as .jpg or .png")
    Image.fromarray(image).save(path, **_SAVE_OPTIONS.get(file_format, {}))


def plot_curves(metrics: str | Path, picture: str | Path) -> None:
    """Draw the losses and the AP of a run against its epochs.

    Args:
        metrics: A run's ``metrics.csv``: one row an epoch, evaluation columns empty where there was no evaluation.
        picture: The PNG to write.

    Raises:
        FileNotFoundError: If there is no metrics file.
        ValueError: If it has no epoch column, or a cell is not a number.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = read_metrics(metrics)
    figure = Figure(figsize=(12, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = ("Loss", LOSSES), ("COCO AP", SCORES)
    for axes, (title, names) in zip(figure.subplots(1, 2), panels, strict=True):
        for name in names:
            points = [point for row in rows if None not in (point := (row["epoch"], row.get(name)))]
            if points:
                axes.plot(*zip(*points, strict=True), label=name, marker=".")
        axes.set(title=title, xlabel="epoch")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
        else:
            axes.text(0.5, 0.5, "nothing measured yet", ha="center", va="center", transform=axes.transAxes)
    figure.savefig(picture)


def class_color(label: int) -> Color:
    """Return the RGB colour of a label: always the same, and far from those of its neighbours."""
    hue = (0.58 + label * 0.618034) % 1.0  # steps of the golden ratio never come close to where they were
    lightness = (0.50, 0.38, 0.62)[label // 8 % 3]
    red, green, blue = colorsys.hls_to_rgb(hue, lightness, 0.85)
    return round(255 * red), round(255 * green), round(255 * blue)


_GAP = 8  # pixels between the pictures of a grid


def _draw(image: npt.NDArray[np.uint8], marks: Sequence[Mark]) -> npt.NDArray[np.uint8]:
    """Return a copy with all boxes, and over them all names; lines and text are in proportion to the image."""
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image must be (height, width, 3) uint8 RGB, got {image.shape} {image.dtype}")
    marks = [mark for mark in marks if all(map(math.isfinite, mark[0]))]
    side = math.sqrt(image.shape[0] * image.shape[1])
    line = max(1, round(side / 300))
    sides = [math.sqrt(max(0.0, right - left) * max(0.0, bottom - top)) for (left, top, right, bottom), _, _ in marks]
    text_size = min(side / 40, float(np.median(sides)) / 3) if sides else side / 40  # tiny objects: less ink on them

    picture = Image.fromarray(image).copy()
    draw, font_size = ImageDraw.Draw(picture), max(10, round(text_size))
    for (left, top, right, bottom), color, _ in marks:
        x, y = round(left), round(top)
        corner = max(x, round(right) - 1), max(y, round(bottom) - 1)  # xyxy ends behind the last pixel
        draw.rectangle((x, y, *corner), outline=color, width=line)
    for (left, top, _, _), color, text in marks:
        _draw_plate(draw, (round(left), round(top)), color, text, font_for(text, font_size))
    return np.array(picture)


def _draw_plate(
    draw: ImageDraw.ImageDraw, corner: tuple[int, int], color: Color, text: str, font: ImageFont.FreeTypeFont
) -> None:
    """Write the text on a plate above the corner of its box, or below that where there is no room above."""
    image_width, image_height = draw.im.size
    x1, y1, x2, y2 = draw.textbbox((0, 0), text, font=font)
    pad = max(1, round(font.size / 8))
    width, height = x2 - x1 + 2 * pad, y2 - y1 + 2 * pad
    left, top = corner
    x = min(max(0, left), max(0, image_width - width))
    y = top - height + 1 if top >= height else top
    y = min(max(0, y), max(0, image_height - height))
    draw.rectangle((x, y, x + width - 1, y + height - 1), fill=color)
    draw.text((x + pad - x1, y + pad - y1), text, fill=_text_color_on(color), font=font)


def _text_color_on(color: Color) -> Color:
    red, green, blue = color
    return (0, 0, 0) if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else (255, 255, 255)


def _heading(width: int) -> npt.NDArray[np.uint8]:
    font = font_for("", 22)
    strip = Image.new("RGB", (2 * width + _GAP, 36), "white")
    draw = ImageDraw.Draw(strip)
    for column, text in enumerate(("ground truth", "predictions")):
        draw.text((column * (width + _GAP) + width / 2, 18), text, fill="black", font=font, anchor="mm")
    return np.array(strip)


def _resize(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    height, width = size
    return np.array(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))


def _fitted(detections: Detections, image: npt.NDArray[np.uint8]) -> Detections:
    """Return the detections in pixels of a picture that may be a reduced one."""
    if detections.image_size is None or detections.image_size == image.shape[:2]:
        return detections
    height, width = (drawn / full for drawn, full in zip(image.shape, detections.image_size, strict=False))
    return _scaled(detections, (width, height))


def _scaled(detections: Detections, factors: tuple[float, float]) -> Detections:
    """Return the detections with x and y of their boxes times these factors, in pixels of the picture at hand."""
    boxes, labels, scores = detections.numpy()
    scaled = boxes * np.tile(np.array(factors, boxes.dtype), 2)
    return Detections(scaled, labels, scores, detections.class_names, detections.category_ids)
