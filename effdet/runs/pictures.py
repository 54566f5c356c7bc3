"""Pictures that a run leaves in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

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
    pictures = [val.read_picture(index, pixels.read) for index in indices]
    predicted = best.predict(pictures, tiles=views.tiles, overlap=views.overlap)
    images = [as_rgb(picture.pixels) for picture in pictures]
    picture = side_by_side(images, [val.annotations(index) for index in indices], predicted)
    save_image(folder / "predictions.png", picture)
