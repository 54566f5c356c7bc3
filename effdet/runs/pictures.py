"""Pictures that a run leaves in its folder."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from effdet.images.reading import ImageError
from effdet.visualize import as_rgb, plot_curves, save_image, side_by_side

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset
    from effdet.detector.efficientdet import EfficientDet
    from effdet.detector.views import Views

PICTURED_IMAGES = 8


def draw_pictures(folder: Path, best: EfficientDet, val: Dataset, views: Views) -> None:
    """Write ``curves.png``, of the losses and AP, and ``predictions.png``, ground truth beside predictions.

    Args:
        folder: Run folder with ``metrics.csv``.
        best: The best model of the run.
        val: Validation images; eight of them, evenly spread, are drawn.
        views: How the model looks at each image.
    """
    plot_curves(folder / "metrics.csv", folder / "curves.png")
    count = min(PICTURED_IMAGES, len(val))
    indices = [round(i * (len(val) - 1) / max(1, count - 1)) for i in range(count)]
    pixels = best.letterbox.pixels
    pictures = {}
    for index in indices:
        with contextlib.suppress(OSError, ImageError):  # the evaluation has named and left out what it could not read
            pictures[index] = val.read_picture(index, pixels.read)
    if not pictures:
        return
    predicted = best.predict(list(pictures.values()), tiles=views.tiles, overlap=views.overlap)
    images = [as_rgb(picture.pixels) for picture in pictures.values()]
    picture = side_by_side(images, [val.annotations(index) for index in pictures], predicted)
    save_image(folder / "predictions.png", picture)
