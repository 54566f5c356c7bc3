"""The config of a run, filled in from the data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from effdet.config import Config, DataConfig
    from effdet.data.dataset import Dataset

IMAGES_IN_A_RUN = 10_000  # training images that a run of unset length sees, within the limits below
IMAGE_PIXELS = 320 * 416  # network input up to which it sees that many
FEWEST_IMAGES = 5_000
FEWEST_EPOCHS, MOST_EPOCHS = 12, 300
EVALUATIONS_IN_A_RUN = 10
SMALL_OBJECT = 16  # pixels of the network input


def resolve(config: Config, train: Dataset) -> Config:
    """Return the config with everything filled in that follows from the data.

    Epochs that are null become as many as show about 10,000 images, at least 12 and at most 300; for inputs of more
    than 320×416 pixels fewer images, in the same time, but no less than 5,000. With ``data.tiles`` an image is a tile.
    Evaluations that are null come about ten times in a run. Tiles that are "auto" become numbers, or null where all
    images fit into one tile.

    Raises:
        ConfigError: If model.num_classes is not the data's number of classes.
    """
    from effdet.config import ConfigError
    from effdet.data.tiles import TileTable
    from effdet.runs.training_tiles import tiles_of

    given, found = config.model.num_classes, train.num_classes
    if given not in (None, found):
        raise ConfigError(
            f"model.num_classes must be that of the data, {found} in {train.annotation_file}, got {given}; "
            "leave it out to take the data's"
        )
    image_size = _input_size(config, train)
    data = _with_tiles(config.data, image_size, train)
    items = len(train) if data.tiles is None else len(TileTable.of(train, tiles_of(data)))
    shown = max(FEWEST_IMAGES, IMAGES_IN_A_RUN * min(1.0, IMAGE_PIXELS / math.prod(image_size)))
    epochs = config.train.epochs or min(MOST_EPOCHS, max(FEWEST_EPOCHS, round(shown / items)))
    return replace(
        config,
        model=replace(config.model, num_classes=found),
        data=replace(data, image_size=image_size, long_side=None, max_long_side=None),
        train=replace(config.train, epochs=epochs),
        eval=replace(config.eval, every=config.eval.every or max(1, round(epochs / EVALUATIONS_IN_A_RUN))),
    )


def _with_tiles(data: DataConfig, image_size: tuple[int, int], train: Dataset) -> DataConfig:
    """Return the section with numbers in place of ``tiles: auto``."""
    from effdet.config import AUTO_TILES
    from effdet.runs.training_tiles import auto_tiles

    if data.tiles != AUTO_TILES:
        return data
    found = auto_tiles(image_size, train)
    if found is None:
        return replace(data, tiles=None, tile_overlap=None)
    overlap = found.overlap if data.tile_overlap is None else data.tile_overlap
    return replace(data, tiles=list(found.size), tile_overlap=overlap)


def _input_size(config: Config, train: Dataset) -> tuple[int, int]:
    import numpy as np

    from effdet.config import AUTO_TILES
    from effdet.runs.architecture import architecture_of
    from effdet.runs.training_tiles import tiles_of

    long_side, limit, tiles = config.data.long_side, config.data.max_long_side, config.data.tiles
    if long_side is not None:
        is_auto = tiles == AUTO_TILES  # then the tiles make objects large enough
        shown = None if is_auto else tiles_of(config.data)
        if limit and not is_auto:
            long_side = grow_long_side(long_side, limit, train, None if shown is None else shown.size)
        return fit_input(long_side, train.sizes if shown is None else np.minimum(train.sizes, shown.size))
    return config.data.image_size or architecture_of(config.model).image_size


def grow_long_side(long_side: int, limit: int, train: Dataset, tile: tuple[int, int] | None = None) -> int:
    """Return the long side of the input, grown where objects are small.

    It grows in steps of 32, up to the limit, until nine boxes in ten are at least 16 pixels large (the root of their
    area) in the network input. Below that an object is smaller than two cells of the finest level.

    Args:
        long_side: Pixels.
        limit: Pixels.
        train: Training images.
        tile: (height, width) of tiles into which images are cut; None: they are shown as a whole.
    """
    import numpy as np

    from effdet.runs.training_tiles import object_sides

    sides, images = object_sides(train)
    sizes = train.sizes[images] if tile is None else np.minimum(train.sizes[images], tile)
    shares = np.sqrt(sides.prod(axis=1)) / sizes.max(axis=1)
    if len(shares) == 0:
        return long_side
    needed = SMALL_OBJECT / float(np.quantile(shares, 0.1))
    return min(limit, max(long_side, 32 * math.ceil(needed / 32)))


def fit_input(long_side: int, sizes: Any) -> tuple[int, int]:
    """Return the network input (height, width) of a long side that wastes little of itself on padding.

    Where nine images in ten are wider than high, the input has the median of their shapes; likewise where they are
    higher than wide; a mixture gets a square. The short side is rounded up to a multiple of 32.

    Args:
        long_side: Longer side of the input, pixels.
        sizes: (I, 2) heights and widths of the images.
    """
    import numpy as np

    shapes = np.asarray(sizes, dtype=float)
    for axis in (0, 1):  # the axis that may be shorter
        ratios = shapes[:, axis] / shapes[:, 1 - axis]
        if (ratios < 1).mean() >= 0.9:
            short_side = min(long_side, 32 * math.ceil(long_side * float(np.median(ratios)) / 32))
            return (short_side, long_side) if axis == 0 else (long_side, short_side)
    return long_side, long_side
