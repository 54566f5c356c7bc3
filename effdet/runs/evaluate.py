"""Evaluate a model on a data set: detect the objects of all images, and score them by the COCO protocol."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from torch import nn

from effdet.config import Config
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.formats import Split
from effdet.detector.views import PLAIN, TileChoice, Views
from effdet.evaluation.backends import Backend, choose_backend
from effdet.evaluation.categories import match_categories, to_categories
from effdet.evaluation.coco import CocoMetrics, evaluate_coco
from effdet.evaluation.result_columns import Results, join_results, to_results
from effdet.runs.data import MAX_UNREADABLE, dataset_of, leave_out_unreadable, select_images
from effdet.runs.detecting import detect_batches
from effdet.training.distributed import World

if TYPE_CHECKING:
    from effdet.detector.prediction import Detector

logger = logging.getLogger(__name__)

Model = TypeVar("Model", bound="Detector")


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The COCO numbers of a model, with what they were computed from."""

    metrics: CocoMetrics
    results: Results  # all detections
    dataset: Dataset  # the images that count
    unreadable: tuple[str, ...]  # file and reason of each image that was left out
    seconds: float  # to read all images and detect their objects


def evaluate(
    model: Detector,
    data: Dataset | Config | str | Path,
    *,
    split: Split = "val",
    batch_size: int = 8,
    workers: int | None = None,
    backend: Backend = "auto",
    score_threshold: float | None = None,
    image_ids: Collection[Any] | None = None,
    tiles: TileChoice = None,
    overlap: float | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    progress: bool = True,
) -> CocoMetrics:
    """Return the COCO numbers of a model on a data set.

        metrics = evaluate(model, "photos", split="val")
        metrics.ap, metrics.per_class["red cell"]

    Images that cannot be read are left out, with a warning for each. The model stays as it is; if it is in training
    mode, a copy in evaluation mode is evaluated.

    Args:
        model: An ``EfficientDet``, or an export that ``effdet.load`` has loaded.
        data: A data set; a folder in a known layout; an annotation file; a config file (.yaml) or a config, whose
            section ``data`` is used.
        split: The part of ``data``: "train", "val" or "test". A ``Dataset`` has no parts.
        batch_size: Images that go through the network together.
        workers: Processes that read images; None: chosen from the machine.
        backend: "auto" is hotcoco when it is installed, else pycocotools. The numbers are the same.
        score_threshold: Detections below it do not count; None: as the model's settings say.
        image_ids: Only these images are read and count; None: all.
        tiles: Cut images into tiles, as ``EfficientDet.predict`` does.
        overlap: Of the tiles.
        flip: Look at the mirror image too.
        scales: Factors of the network input.
        progress: Show a bar if stderr is a terminal.

    Raises:
        DataError: If the data is not there, has errors, or too many of its images cannot be read.
        ValueError: If no box counts, the model lacks a category of the data set, or an argument is out of range.
        ImportError: If the backend that was asked for is not installed.
    """
    return evaluate_with_results(
        model,
        data,
        split=split,
        batch_size=batch_size,
        workers=workers,
        backend=backend,
        score_threshold=score_threshold,
        image_ids=image_ids,
        tiles=tiles,
        overlap=overlap,
        flip=flip,
        scales=scales,
        progress=progress,
    ).metrics


def evaluate_with_results(
    model: Detector,
    data: Dataset | Config | str | Path,
    *,
    split: Split = "val",
    batch_size: int = 8,
    workers: int | None = None,
    backend: Backend = "auto",
    score_threshold: float | None = None,
    image_ids: Collection[Any] | None = None,
    tiles: TileChoice = None,
    overlap: float | None = None,
    flip: bool = False,
    scales: Sequence[float] = (1.0,),
    progress: bool = True,
) -> Evaluation:
    """Return the numbers of ``evaluate`` with the detections; arguments and errors are the same."""
    choose_backend(backend)
    views = Views(tiles=tiles, overlap=overlap, flip=flip, scales=tuple(scales))
    views.check(model)
    model = _for_evaluation(model, score_threshold)
    dataset = dataset_of(data, split)
    if image_ids is not None:
        dataset = select_images(dataset, image_ids)
    check_measurable(model, dataset)
    dataset = replace(dataset, pixels=model.letterbox.pixels)
    dataset, unreadable = leave_out_unreadable(dataset)

    started = time.perf_counter()
    found = _detect(model, dataset, views=views, batch_size=batch_size, workers=workers, progress=progress)
    seconds = time.perf_counter() - started
    if found.unreadable:
        dataset = select_images(dataset, found.image_ids)
    return Evaluation(
        metrics=evaluate_coco(dataset, found.results, backend=backend),
        results=found.results,
        dataset=dataset,
        unreadable=(*unreadable, *found.unreadable),
        seconds=seconds,
    )


def check_measurable(model: Detector, dataset: Dataset) -> None:
    """Raise if an evaluation of this model on this data set cannot be done, before the time for it is spent.

    Raises:
        ValueError: If no box of the data set counts, a category of it is not among the model's classes, or the model
            has weights that are not finite.
    """
    if dataset.is_crowd.all():
        crowds = f"all {len(dataset.is_crowd)} boxes are crowds" if len(dataset.is_crowd) else "it has none"
        raise ValueError(
            f"{dataset.annotation_file} must have boxes that are not crowds to measure AP, but {crowds}; "
            "add boxes, or choose another split"
        )
    _match(model, dataset)
    if isinstance(model, nn.Module):
        broken = [name for name, value in model.state_dict().items() if not value.isfinite().all()]
        if broken:
            raise ValueError(
                f"all weights of {model.name} must be finite, got NaN or infinite numbers in {len(broken)} tensors, "
                f"the first {broken[0]}; use weights of an earlier epoch"
            )


def detect_dataset(
    model: Detector,
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int | None = None,
    views: Views = PLAIN,
    world: World | None = None,
    progress: bool = False,
) -> Results:
    """Return the model's detections on all images of a data set, with the data set's own ids.

    Args:
        model: An ``EfficientDet`` in evaluation mode, or a loaded export.
        dataset: The images. Those that cannot be read have no detections, and a warning names them.
        batch_size: Images that go through the network together, in each process.
        workers: Processes that read images for each process of ``world``; None: chosen from the machine.
        views: Which views of each image are looked at.
        world: The processes that share the images; None: this one alone.
        progress: Show a bar on a terminal.

    Returns:
        All detections on the main process; none on the others.

    Raises:
        DataError: If more than a tenth of the images cannot be read.
        ValueError: If a category of the data set is not among the model's classes, or a detection is not finite.
    """
    found = _detect(model, dataset, views=views, batch_size=batch_size, workers=workers, world=world, progress=progress)
    return found.results


def evaluate_dataset(
    model: Detector,
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int | None = None,
    backend: Backend = "auto",
    views: Views = PLAIN,
    world: World | None = None,
    progress: bool = False,
) -> CocoMetrics:
    """Return the COCO numbers of a model on all images of a data set, on every process of ``world``.

    Arguments and errors are those of ``detect_dataset`` and ``evaluate_coco``. Call ``check_measurable`` before: the
    numbers of a data set without boxes are -1.
    """
    world = world or World(model.device)
    found = _detect(
        model,
        dataset,
        views=views,
        batch_size=batch_size,
        workers=workers,
        world=world,
        progress=progress and world.is_main,
    )
    metrics: CocoMetrics | None = None
    if world.is_main:
        part = select_images(dataset, found.image_ids) if found.unreadable else dataset
        metrics = evaluate_coco(part, found.results, backend=backend)
    metrics = world.broadcast(metrics)
    assert metrics is not None
    return metrics


@dataclass(frozen=True)
class _Detected:
    """The detections of those images that could be read."""

    results: Results
    image_ids: list[Any]
    unreadable: list[str]


def _detect(
    model: Detector,
    dataset: Dataset,
    *,
    views: Views,
    batch_size: int,
    workers: int | None,
    world: World | None = None,
    progress: bool,
) -> _Detected:
    """Return what is found in all images, on the main process."""
    if batch_size < 1:
        raise ValueError(f"batch_size must be 1 or more, got {batch_size}")
    world = world or World(model.device)
    categories = _match(model, dataset)
    parts: list[Results] = []
    image_ids: list[Any] = []
    unreadable: list[str] = []
    for batch in detect_batches(
        model, dataset, views=views, batch_size=batch_size, workers=workers, world=world, progress=progress
    ):
        unreadable += batch.unreadable
        if batch.image_ids:
            found = [to_categories(detections, categories) for detections in batch.detections]
            parts.append(to_results(found, batch.image_ids))
            parts[-1].check(f"detections of {model.name}")
            image_ids += batch.image_ids
    detected = _Detected(join_results(world.gather(parts)), world.gather(image_ids), world.gather(unreadable))
    _check_unreadable(detected.unreadable, len(detected.image_ids), dataset)  # of all processes together
    return detected


def _check_unreadable(unreadable: Sequence[str], num_read: int, dataset: Dataset) -> None:
    """Name the images that could not be read; raise if these are more than a tenth."""
    for problem in unreadable:
        logger.warning("left out: %s", problem)
    if len(unreadable) > MAX_UNREADABLE * (num_read + len(unreadable)):
        raise DataError(
            f"at most {MAX_UNREADABLE:.0%} of the images of {dataset.annotation_file} may be unreadable, got "
            f"{len(unreadable)} of {num_read + len(unreadable)}; the first is {unreadable[0]}"
        )


def _for_evaluation(model: Model, score_threshold: float | None) -> Model:
    """Return the model in evaluation mode with this threshold; a copy where it is not so already."""
    if isinstance(model, nn.Module) and any(module.training for module in model.modules()):
        model = copy.deepcopy(model).eval()
    if score_threshold is not None:
        model = copy.copy(model)  # shares the weights
        model.settings = replace(model.settings, score_threshold=score_threshold)
    return model


def _match(model: Detector, dataset: Dataset) -> tuple[int | None, ...]:
    return match_categories(
        model.class_names, model.category_ids, dataset_names=dataset.class_names, dataset_ids=dataset.category_ids
    )
