"""Draw a data set as people and as the network see it: a contact sheet, plots of its boxes, and a page of both."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from effdet.atomic_write import replace_file
from effdet.config import Config
from effdet.data.findings import DataError
from effdet.data.formats import read_source
from effdet.data.show.contact_sheet import Augmentation, contact_rows, draw_contact_sheet
from effdet.data.show.page import make_page
from effdet.data.show.plots import plot_boxes
from effdet.images.pixel_format import PixelFormat
from effdet.images.preprocessing import Preprocessing
from effdet.runs.architecture import architecture_of
from effdet.runs.check_data import config_for, find_sources, network_of
from effdet.runs.pixel_statistics import pixels_to_look_at
from effdet.visualize import save_image

_GRAY = 127.0  # level of the padding, of each channel whose mean is not known


@dataclass(frozen=True)
class ShownData:
    """The files that ``show_data`` wrote."""

    page: Path  # HTML, with all pictures inside
    contact_sheet: Path  # PNG
    plots: Path  # PNG


def show_data(
    data: str | Path,
    folder: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    images: int = 8,
) -> ShownData:
    """Write ``index.html``, ``contact_sheet.png`` and ``boxes.png`` about a data set.

    Each row of the contact sheet is an image of train (or of a set that is not divided): as annotated, augmented twice,
    in a mosaic and in a mixup, with the boxes that training learns. The plots compare all splits.

    Args:
        data: Folder or annotation file in any known format, or a config file.
        folder: Where the files are written; others in it stay.
        config: What is trained; as for ``check_data``.
        overrides: Texts such as ``"data.augment.color=0.5"``, laid over the config.
        images: Rows of the contact sheet.

    Raises:
        DataError: If there is nothing to show.
        ConfigError: If the config is wrong.
        ValueError: If ``images`` is below 1.
        OSError: If a file cannot be written.
    """
    if images < 1:
        raise ValueError(f"the number of images to show must be 1 or more, got {images}")
    settings = config_for(data, config, overrides)
    sources, _ = find_sources(settings.data)
    datasets = {split: read_source(source) for split, source in sources.items()}
    first = next(iter(datasets.values()))
    if not len(first):
        raise DataError(f"{first.annotation_file}: must have images to show, but there are none")
    network = network_of(settings, first)
    if network is None:
        raise DataError(f"{first.annotation_file}: must have images that can be read to show, but none of them can")
    pixels = pixels_to_look_at(settings, first)
    augmentation = _augmentation(settings, network.image_size, pixels)
    rows = contact_rows(replace(first, pixels=pixels), augmentation, images)
    figure = plot_boxes(datasets, network)
    picture = io.BytesIO()
    figure.savefig(picture, format="png")

    folder = Path(folder).expanduser()
    folder.mkdir(parents=True, exist_ok=True)
    shown = ShownData(folder / "index.html", folder / "contact_sheet.png", folder / "boxes.png")
    save_image(shown.contact_sheet, draw_contact_sheet(rows))
    page = make_page(
        Path(data).resolve().name, datasets, rows, picture.getvalue(), _about(settings, network.image_size)
    )
    for file, content in ((shown.plots, picture.getvalue()), (shown.page, page.encode())):
        with replace_file(file) as out:
            out.write(content)
    return shown


def _augmentation(config: Config, image_size: tuple[int, int], pixels: PixelFormat) -> Augmentation:
    resize, mean = config.data.resize, architecture_of(config.model).mean
    levels = mean if len(mean) == pixels.channels else (_GRAY,) * pixels.channels
    fill = Preprocessing(fit=resize.value).fill_colour(levels)
    return Augmentation(config.data.augment, image_size, fill, resize.value, config.run.seed, pixels)


def _about(config: Config, image_size: tuple[int, int]) -> str:
    augment, (height, width) = config.data.augment, image_size
    return (
        f"The network input is {height}×{width}. An image is flipped with probability {augment.horizontal_flip:g} "
        f"(and upside down {augment.vertical_flip:g}), scaled by {augment.scale[0]:g} to {augment.scale[1]:g}, and its "
        f"colours change by {augment.color:g}. With this config {augment.mosaic:.0%} of the images that the network is "
        f"shown are mosaics, and {augment.mixup:.0%} are mixed up with another one."
    )
