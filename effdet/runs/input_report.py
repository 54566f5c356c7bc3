"""Say which network input a training has, why, and what helps where most boxes match no anchor."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from effdet.config import AUTO_TILES
from effdet.data.doctor.anchor_fit import AnchorFit, Network, suggest_anchors
from effdet.runs.input_size import SMALL_OBJECT, InputFit, Objects, fit_of, network_of
from effdet.runs.training_tiles import SMALL_OBJECT as SIZE_IN_TILES
from effdet.runs.training_tiles import auto_tiles, tiles_of

if TYPE_CHECKING:
    from effdet.config import Config
    from effdet.data.dataset import Dataset

logger = logging.getLogger(__name__)

MOST = 0.5  # of the boxes
_BETTER = 0.1  # of the boxes: other anchors must reach that many more to be named


def log_input(asked: Config, resolved: Config, train: Dataset) -> None:
    """Log the network input of a run, and what becomes of the boxes in it.

    Args:
        asked: The config before ``resolve``.
        resolved: The config after it.
        train: Training images.
    """
    assert resolved.data.image_size is not None
    tiles = tiles_of(resolved.data)
    objects = Objects.of(train, None if tiles is None else tiles.size)
    network = network_of(asked, resolved.data.image_size)
    fit = fit_of(network.image_size, objects, network)
    logger.info("%s", input_line(fit, chosen=asked.data.long_side is not None, in_tiles=tiles is not None))
    if fit.num_boxes and fit.reached < MOST:
        advice = "; ".join(_advice(asked, objects, network, fit, train))
        logger.warning(
            "most boxes (%.0f%%) match no anchor with IoU 0.5, so AP will be low%s",
            100 * (1 - fit.reached),
            f": {advice}" if advice else "",
        )


def input_line(fit: InputFit, *, chosen: bool, in_tiles: bool = False) -> str:
    """Return one sentence about an input and what becomes of photos and boxes in it.

    Args:
        fit: Of the input.
        chosen: Whether the input follows from the photos; else from the config.
        in_tiles: Whether it shows tiles in place of whole photos.
    """
    shown = "tiles" if in_tiles else "photos"
    why = f"chosen for the {shown} and their boxes" if chosen else "as the config says"
    height, width = fit.image_size
    text = f"input {height}×{width} (height×width), {why}: {fit.padding:.0%} of it is padding"
    if not fit.num_boxes:
        return text
    return f"{text}, nine boxes in ten are at least {fit.small:.0f} pixels large, {fit.reached:.0%} match an anchor"


def _advice(config: Config, objects: Objects, network: Network, fit: InputFit, train: Dataset) -> Iterator[str]:
    """Yield what would let more boxes match an anchor."""
    boxes = objects.boxes * np.tile(objects.scales(network.image_size, network.fit)[:, ::-1], 2)
    suggestion, reached = suggest_anchors(boxes, network)
    if reached >= fit.reached + _BETTER:
        overrides = AnchorFit(fit.reached, fit.num_boxes, suggestion, reached).overrides()
        yield f"{overrides} matches {reached:.0%}"
    if config.data.tiles is None and fit.small < SMALL_OBJECT and auto_tiles(network.image_size, train) is not None:
        yield f"data.tiles={AUTO_TILES} shows nine boxes in ten at {SIZE_IN_TILES} pixels or more"
