"""From any source of images to detections, for PyTorch models and exported files alike."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import chain, islice
from numbers import Integral, Real
from queue import Full, Queue
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import Preprocessing
from effdet.images.reading import Picture
from effdet.images.sources import iterate_pictures
from effdet.ops.settings import PostprocessSettings
from effdet.structures import Batch, Detections

T = TypeVar("T")
Chunk = Sequence[tuple[str, np.ndarray]]  # (name, (H, W, 3) uint8 RGB) of images that share a batch
Size = tuple[int, int]  # (height, width)

READ_AHEAD = 2  # batches that wait, decoded and letterboxed, while the network works on another
_WAIT = 0.1  # seconds after which a waiting thread checks whether it is still needed


class Detector(Protocol):
    """What evaluation and prediction need of a detector, whichever runtime computes it."""

    name: str
    num_classes: int
    class_names: tuple[str, ...]
    category_ids: tuple[int, ...]
    image_size: tuple[int, int]  # (height, width) of the network input
    settings: PostprocessSettings
    preprocessing: Preprocessing

    @property
    def device(self) -> torch.device:
        """Device that batches are moved to."""

    @property
    def letterbox(self) -> Letterbox:
        """How an image is scaled and padded to the network input."""

    @property
    def fill(self) -> tuple[int, int, int]:
        """The uint8 RGB of the padding."""

    def detect(self, batch: Batch) -> list[Detections]:
        """Return the detections of a letterboxed batch, in pixels of the original images."""

    def predict(self, source: Any, *, score_threshold: float = 0.3, batch_size: int = 1) -> list[Detections]:
        """Detect objects in images of any kind."""

    def predict_iter(
        self, source: Any, *, score_threshold: float = 0.3, batch_size: int = 1
    ) -> Iterator[tuple[Detections, np.ndarray]]:
        """Yield detections with the image that they belong to."""


def predict_iter(
    detector: Detector, source: Any, *, score_threshold: float, batch_size: int
) -> Iterator[tuple[Detections, np.ndarray]]:
    """Yield detections with the RGB uint8 (H, W, 3) image that they belong to, in order.

    From the second batch on, a thread reads and letterboxes the next ones while the network works. At most
    ``READ_AHEAD`` + 2 batches are held, however many images or frames there are. Where the preprocessing decodes at a
    reduced size, the image has that size, the boxes are in pixels of the full one, and ``Detections.draw`` fits them.

    Args:
        detector: What detects.
        source: As ``effdet.images.reading.iterate_images`` takes it.
        score_threshold: Detections below it are left out.
        batch_size: Images that go through the network together.

    Raises:
        ValueError: If ``batch_size`` is below 1, or ``score_threshold`` is not in [0, 1].
        FileNotFoundError, ValueError: If there is no such source or an image cannot be read; images before it come
            first.
    """
    check_batch_size(batch_size)
    if not (isinstance(score_threshold, Real) and 0 <= score_threshold <= 1):
        raise ValueError(f"score_threshold must be a number in [0, 1], got {score_threshold!r}")
    letterbox = detector.letterbox
    with closing(_batches(source, letterbox, batch_size)) as batches:
        for chunk, batch in batches:
            for picture, found in zip(chunk, detector.detect(batch), strict=True):
                yield replace(found.above(score_threshold), source=picture.name), picture.pixels


def check_batch_size(batch_size: int) -> None:
    """Raise ``ValueError`` unless a batch holds an image."""
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of 1 or more, got {batch_size!r}")


class _Prepared(NamedTuple):
    chunk: Sequence[Picture]
    batch: Batch


def _batches(source: Any, letterbox: Letterbox, batch_size: int) -> Generator[_Prepared, None, None]:
    """Yield prepared batches; a thread starts only where there are more images than one batch holds."""
    images = iterate_pictures(source, letterbox.read)
    first = list(islice(images, batch_size))
    if not first:
        return
    yield _prepare(first, letterbox)
    if len(first) < batch_size or (following := next(images, None)) is None:
        return

    def prepare() -> Iterator[_Prepared]:
        rest = chain([following], images)
        while chunk := list(islice(rest, batch_size)):
            yield _prepare(chunk, letterbox)

    yield from read_ahead(prepare(), READ_AHEAD)


def _prepare(chunk: Sequence[Picture], letterbox: Letterbox) -> _Prepared:
    images = [(picture.name, picture.pixels) for picture in chunk]
    return _Prepared(chunk, make_batch(images, letterbox, [picture.original_size for picture in chunk]))


def make_batch(chunk: Chunk, letterbox: Letterbox, original_sizes: Sequence[Size] | None = None) -> Batch:
    """Return named RGB images as one letterboxed batch without targets.

    Args:
        chunk: The images.
        letterbox: What brings them into the frame of the network input.
        original_sizes: (height, width) of each at full size; None: they are held so.
    """
    sizes = [(image.shape[0], image.shape[1]) for _, image in chunk] if original_sizes is None else original_sizes
    boxed = [letterbox(image, size) for (_, image), size in zip(chunk, sizes, strict=True)]
    return Batch(
        images=torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image, _, _ in boxed]),
        content_sizes=torch.tensor([content for _, content, _ in boxed]),
        scales=torch.tensor([scales for _, _, scales in boxed], dtype=torch.float32),
        original_sizes=torch.tensor(sizes),
        image_ids=tuple(range(len(chunk))),
        targets=[],
    )


def to_detections(
    results: Sequence[tuple[Tensor, Tensor, Tensor]], batch: Batch, detector: Detector
) -> list[Detections]:
    """Return boxes, labels and scores of every image of a batch as ``Detections``, on the CPU."""
    counts = [len(boxes) for boxes, _, _ in results]
    columns = [torch.cat(column).cpu().split(counts) for column in zip(*results, strict=True)]  # one copy each
    return [
        Detections(boxes, labels, scores, detector.class_names, detector.category_ids, (height, width))
        for boxes, labels, scores, (height, width) in zip(*columns, batch.original_sizes.tolist(), strict=True)
    ]


def read_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """Yield the same items, made by a thread that is at most ``depth`` + 1 ahead.

    An exception of ``items`` is raised in its place in the order. The thread ends when the consumer does.
    """
    queue: Queue[tuple[bool, Any]] = Queue(depth)  # (True, item), or (False, exception or None at the end)
    stopped = threading.Event()

    def put(entry: tuple[bool, Any]) -> None:
        while not stopped.is_set():
            try:
                return queue.put(entry, timeout=_WAIT)
            except Full:
                continue

    def work() -> None:
        end = None
        try:
            for item in items:
                put((True, item))
                if stopped.is_set():
                    return
        except BaseException as error:  # handed to the consumer, who raises it
            end = error
        put((False, end))

    thread = threading.Thread(target=work, name="effdet-read-ahead", daemon=True)
    thread.start()
    try:
        while True:
            is_item, value = queue.get()
            if is_item:
                yield value
            elif value is None:
                return
            else:
                raise value
    finally:
        stopped.set()
        thread.join()
