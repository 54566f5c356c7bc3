"""Check a data set for the training that a config describes: in full, or in short as every training begins."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from effdet.config import Config, load_config
from effdet.data.doctor.anchor_fit import Network
from effdet.data.doctor.cleaning import Cleaning, clean
from effdet.data.doctor.examination import Examination, check_columns, examine
from effdet.data.findings import DataError, Finding
from effdet.data.formats import Source, find_source, read_source
from effdet.data.formats.finding import find_data, split_command
from effdet.data.formats.interface import SPLITS
from effdet.progress import Report, report_nothing
from effdet.runs.data import at_most, is_config_file
from effdet.runs.input_size import network_of as network_for
from effdet.runs.pixel_statistics import channels_of, pixels_to_look_at, with_pixels
from effdet.runs.resolve import resolve

if TYPE_CHECKING:
    from effdet.config import DataConfig
    from effdet.data.dataset import Dataset

logger = logging.getLogger(__name__)

MOST_BOXES = 1_000_000  # that are checked before a training
DEFAULT_CONFIG = "custom"  # for a data set that is named without a config


def check_data(
    data: str | Path,
    config: str | Path | None = None,
    overrides: Sequence[str] = (),
    *,
    quick: bool = False,
    estimate: bool = True,
    report: Report = report_nothing,
) -> Examination:
    """Look for everything that is wrong with a data set, and with training on it as a config says.

    Args:
        data: Folder or annotation file in any known format, or a config file, whose section ``data`` names the data.
        config: What will be trained; None: ``data`` where that is a config, else the packaged config ``custom``.
        overrides: Texts such as ``"data.long_side=640"``, laid over the config.
        quick: Do not open the images, only see whether they exist; and estimate nothing.
        estimate: Measure a few training steps, and say what a training on this machine will need.
        report: Called often while images are opened.

    Raises:
        DataError: If there is nothing to check.
        ConfigError: If the config is wrong.
        FileNotFoundError: If there is no such config.
    """
    settings = config_for(data, config, overrides)
    sources, notes = find_sources(settings.data)
    result = examine(
        sources,
        decode_images=not quick,
        network_for=lambda train: network_of(settings, train),
        pixels_for=lambda train: pixels_to_look_at(settings, train),
        report=report,
    )
    for split, finding in notes:
        result.add(split, [finding])
    if estimate and not quick and not result.has_errors:
        _estimate(result, settings, sources)
    return result


def _estimate(result: Examination, config: Config, sources: dict[str, Source]) -> None:
    import torch

    from effdet.runs.estimate import LESS_MEMORY, estimate_training

    train = next((sources[split] for split in ("train", "data") if split in sources), None)
    if train is None:
        return
    num_val = next((split["images"] for split in result.splits if split["split"] == "val"), 0)
    dataset = read_source(train)
    pixels = pixels_to_look_at(config, dataset)
    if pixels.channels != channels_of(config):
        advice = f"model.architecture.in_channels={pixels.channels} trains a network that takes them"
        result.add("", [Finding("note", f"images have {pixels.channels} channels", advice)])
        return
    dataset = replace(at_most(config.data.max_train_images, dataset), pixels=pixels)
    most = config.data.max_val_images
    try:
        found = estimate_training(
            with_pixels(config, dataset), dataset, num_val if most is None else min(num_val, most)
        )
    except torch.OutOfMemoryError:
        result.add("", [Finding("warning", "the device has too little memory to train with two images", LESS_MEMORY)])
        return
    result.estimate = found.to_dict()
    result.add("", [*found.findings(), Finding("note", str(found), _FASTER)])


_FASTER = "train.epochs, data.image_size and model.name change it most"


def clean_data(data: str | Path, folder: str | Path, report: Report = report_nothing) -> Cleaning:
    """Write a cleaned copy of a data set; see ``effdet.data.doctor.cleaning.clean``.

    Args:
        data: As for ``check_data``.
        folder: New, or empty.
        report: Called often while images are opened.

    Raises:
        DataError, OSError: As ``clean``.
        ConfigError: If the config is wrong.
    """
    settings = config_for(data, None, [])
    sources, _ = find_sources(settings.data)
    return clean(sources, folder, report, pixels_for=lambda train: pixels_to_look_at(settings, train))


def check_before_training(config: Config, train: Dataset, val: Dataset) -> None:
    """Log what the checks that need no image find, beyond what reading has logged.

    Of more than a million boxes a sample is looked at, so that the start stays short; ``check_data`` looks at all.

    Raises:
        DataError: If a finding is an error.
        ConfigError: If the config does not go together with the data.
    """
    sources, _ = find_sources(config.data)
    formats = {split: sources[split].format for split in ("train", "val")}
    for dataset in (train, val):
        if len(dataset.labels) > MOST_BOXES:
            text = "data: of the %s boxes of %s a sample of about %s is checked; effdet data check looks at all"
            logger.info(text, f"{len(dataset.labels):,}", dataset.annotation_file, f"{MOST_BOXES:,}")
    network = network_of(config, train)
    findings, _ = check_columns({"train": train, "val": val}, formats, network, most_boxes=MOST_BOXES)
    for finding in findings:
        if finding.severity == "warning":
            logger.warning("data: %s%s", f"{finding.split}: " if finding.split else "", finding)
    errors = [finding for finding in findings if finding.severity == "error"]
    if errors:
        raise DataError(f"{(val if errors[0].split == 'val' else train).annotation_file}: {errors[0]}")


def config_for(data: str | Path, config: str | Path | None, overrides: Sequence[str]) -> Config:
    """Return the config of a check, with ``data`` in it; arguments as for ``check_data``."""
    is_config = is_config_file(data)
    if is_config and config is None:
        return load_config(data, overrides)
    settings = load_config(DEFAULT_CONFIG if config is None else config, overrides)
    if is_config:
        return replace(settings, data=replace(settings.data, **_places(load_config(data).data)))
    # The files that a config names lie below its own root.
    return replace(settings, data=replace(settings.data, **{**_NO_PLACES, "root": str(data)}))


_NO_PLACES: dict[str, Any] = {
    "train_annotations": None,
    "train_images": None,
    "val_annotations": None,
    "val_images": None,
}


def _places(data: DataConfig) -> dict[str, Any]:
    return {name: getattr(data, name) for name in ("root", *_NO_PLACES)}


def network_of(config: Config, train: Dataset) -> Network | None:
    """Return what the doctor has to know of the network that a config trains on these images.

    The size of its input may follow from those of the images; None if no image has a known one, or there
    are no classes.

    Raises:
        ConfigError: If the config does not go together, or not with the data.
    """
    of_known_size = train.without(np.flatnonzero((train.sizes == 0).any(axis=1)))
    if not len(of_known_size) or not train.num_classes:
        return None
    resolved = resolve(replace(config, model=replace(config.model, num_classes=None)), of_known_size)
    assert resolved.data.image_size is not None
    return network_for(config, resolved.data.image_size)


def find_sources(config: DataConfig) -> tuple[dict[str, Source], list[tuple[str, Finding]]]:
    """Return where each split is, and findings, with the split's name, about how they were found.

    Raises:
        DataError: If there is nothing to check.
    """
    named = {
        "train": (config.train_annotations, config.train_images),
        "val": (config.val_annotations, config.val_images),
    }
    found = find_data(config.root)
    if "all" in found.parts and config.train_annotations is config.val_annotations is None:
        advice = f"before training, divide it with: {split_command(Path(config.root))}"
        note = Finding("note", "there are no parts for training and validation", advice)
        source = replace(found.parts["all"], keep_parent=config.keep_parent)
        return {"data": source}, [*[("", finding) for finding in found.findings], ("", note)]
    sources: dict[str, Source] = {}
    faults: dict[str, DataError] = {}
    for split in SPLITS:
        annotations, images = named.get(split, (None, None))
        try:
            source, _ = find_source(config.root, split, annotations=annotations, images=images)
            sources[split] = replace(source, keep_parent=config.keep_parent)
        except DataError as error:
            faults[split] = error
    if not sources:
        raise faults["train"]
    faults.pop("test", None)
    notes = [(split, Finding("note", str(fault), _GET_SPLIT)) for split, fault in faults.items()]
    return sources, [*[("", finding) for finding in found.findings], *notes]


_GET_SPLIT = "training needs train and val"
