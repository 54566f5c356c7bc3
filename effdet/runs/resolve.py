"""The config of a run, filled in from the data."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from effdet.config import Config, DataConfig
    from effdet.data.dataset import Dataset

IMAGES_IN_A_RUN = 10_000  # training images that a run of unset length sees, within the limits below
IMAGE_PIXELS = 320 * 416  # network input up to which it sees that many
FEWEST_IMAGES = 5_000
FEWEST_EPOCHS, MOST_EPOCHS = 12, 300
EVALUATIONS_IN_A_RUN = 10


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
    from effdet.runs.training_tiles import num_items

    given, found = config.model.num_classes, train.num_classes
    if given not in (None, found):
        raise ConfigError(
            f"model.num_classes must be that of the data, {found} in {train.annotation_file}, got {given}; "
            "leave it out to take the data's"
        )
    image_size = _input_size(config, train)
    data = _with_tiles(config.data, image_size, train)
    items = num_items(data, train)
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
    from effdet.config import AUTO_TILES
    from effdet.runs.architecture import architecture_of
    from effdet.runs.input_size import Objects, choose_input, network_of
    from effdet.runs.training_tiles import tiles_of

    long_side = config.data.long_side
    if long_side is None:
        return config.data.image_size or architecture_of(config.model).image_size
    network = network_of(config, (long_side, long_side))
    if config.data.tiles == AUTO_TILES:  # the tiles make objects large enough
        return choose_input(long_side, None, Objects.of_photos(train.sizes), network)
    tiles = tiles_of(config.data)
    objects = Objects.of(train, None if tiles is None else tiles.size)
    return choose_input(long_side, config.data.max_long_side, objects, network)
