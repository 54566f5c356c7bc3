"""What a detector finds in the images of a data set, batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from effdet.data.loader import EvalLoader
from effdet.data.picture_loader import PictureLoader
from effdet.detector.views import Views, detect_views
from effdet.progress import track
from effdet.runs.workers import choose_workers
from effdet.structures import Detections
from effdet.training.distributed import World

if TYPE_CHECKING:
    from effdet.data.dataset import Dataset
    from effdet.detector.prediction import Detector


class DetectedBatch(NamedTuple):
    """The detections of some images."""

    image_ids: Sequence[int | str]
    detections: Sequence[Detections]
    unreadable: Sequence[str]  # file and reason of each image that could not be read


def detect_batches(
    model: Detector,
    dataset: Dataset,
    *,
    views: Views,
    batch_size: int,
    workers: int | None,
    world: World,
    progress: bool,
) -> Iterator[DetectedBatch]:
    """Yield what is found in the images that are this process's.

    Args:
        model: What detects.
        dataset: The images.
        views: Which views of each image are looked at.
        batch_size: Images, or views of an image, that go through the network together.
        workers: Processes that read images; None: chosen from the machine.
        world: The processes that share the images.
        progress: Show a bar on a terminal.

    Raises:
        ValueError: If the views do not suit the model.
    """
    views.check(model)
    workers = choose_workers(workers, model.device, local_size=world.local_size)
    if not views.is_plain:
        dataset = replace(dataset, pixels=model.letterbox.pixels)
        pictures = PictureLoader(dataset, workers=workers, rank=world.rank, world_size=world.size)
        for picture in track(pictures, "evaluating") if progress else pictures:
            if picture.unreadable:
                yield DetectedBatch([], [], [picture.unreadable])
            else:
                found = detect_views(model, picture.pixels.numpy(), views, batch_size)
                yield DetectedBatch([picture.image_id], [found], [])
        return
    loader = EvalLoader(
        dataset,
        letterbox=model.letterbox,
        batch_size=batch_size,
        workers=workers,
        rank=world.rank,
        world_size=world.size,
    )
    for batch in track(loader, "evaluating") if progress else loader:
        yield DetectedBatch(batch.image_ids, model.detect(batch) if batch.image_ids else [], batch.unreadable)
