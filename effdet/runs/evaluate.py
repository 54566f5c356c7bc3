"""Evaluate a model on a data set: detect the objects of all images, and score them by the COCO protocol."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from effdet.data.loader import EvalLoader
from effdet.evaluation.categories import match_categories, to_categories
from effdet.evaluation.coco import Backend, CocoMetrics, evaluate_coco, to_results
from effdet.evaluation.results import Results, join_results
from effdet.progress import track
from effdet.runs.workers import choose_workers
from effdet.training.distributed import World

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset
    from effdet.detector.prediction import Detector

logger = logging.getLogger(__name__)


def check_measurable(model: Detector, dataset: Dataset) -> None:
    """Raise if an evaluation of this model on this data set cannot be done, before the time for it is spent.

    Raises:
        ValueError: If no box of the data set counts, or one of its categories is not among the model's classes.
    """
    if dataset.is_crowd.all():
        crowds = f"all {len(dataset.is_crowd)} boxes are crowds" if len(dataset.is_crowd) else "it has none"
        raise ValueError(
            f"{dataset.annotation_file} must have boxes that are not crowds to measure AP, but {crowds}; "
            "add boxes, or choose another split"
        )
    _match(model, dataset)


def detect_dataset(
    model: Detector,
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int | None = None,
    world: World | None = None,
    progress: bool = False,
) -> Results:
    """Return the model's detections on all images of a data set, with the data set's own ids.

    Args:
        model: An ``EfficientDet`` in evaluation mode, or a loaded export.
        dataset: The images. They must be readable.
        batch_size: Images that go through the network together, in each process.
        workers: Processes that read images for each process of ``world``; None: chosen from the machine.
        world: The processes that share the images; None: this one alone.
        progress: Show a bar on a terminal.

    Returns:
        All detections on the main process; none on the others.

    Raises:
        ValueError: If a category of the data set is not among the model's classes.
        FileNotFoundError, ImageError: If an image cannot be read.
    """
    world = world or World(model.device)
    categories = _match(model, dataset)
    loader = EvalLoader(
        dataset,
        letterbox=model.letterbox,
        batch_size=batch_size,
        workers=choose_workers(workers, model.device, local_size=world.local_size),
        rank=world.rank,
        world_size=world.size,
    )
    parts: list[Results] = []
    for batch in track(loader, "evaluating") if progress else loader:
        found = [to_categories(detections, categories) for detections in model.detect(batch)]
        parts.append(to_results(found, batch.image_ids))
    return join_results(world.gather(parts))


def evaluate_dataset(
    model: Detector,
    dataset: Dataset,
    *,
    batch_size: int,
    workers: int | None = None,
    backend: Backend = "auto",
    world: World | None = None,
    progress: bool = False,
) -> CocoMetrics:
    """Return the COCO numbers of a model on all images of a data set, on every process of ``world``.

    Arguments and errors are those of ``detect_dataset`` and ``evaluate_coco``. Call ``check_measurable`` before: the
    numbers of a data set without boxes are -1.
    """
    world = world or World(model.device)
    results = detect_dataset(
        model, dataset, batch_size=batch_size, workers=workers, world=world, progress=progress and world.is_main
    )
    metrics: CocoMetrics | None = None
    if world.is_main:
        image_ids = dataset.image_ids.tolist()
        metrics = evaluate_coco(dataset.annotation_file, results, backend=backend, image_ids=image_ids)
    metrics = world.broadcast(metrics)
    assert metrics is not None
    return metrics


def _match(model: Detector, dataset: Dataset) -> tuple[int | None, ...]:
    return match_categories(
        model.class_names, model.category_ids, dataset_names=dataset.class_names, dataset_ids=dataset.category_ids
    )
