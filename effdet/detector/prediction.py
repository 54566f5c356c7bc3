"""From any source of images to detections, for PyTorch models and exported files alike."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from itertools import chain, islice
from numbers import Integral, Real
from queue import Full, Queue
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeVar, cast

import numpy as np

from effdet.detector.batches import ArrayBatch, stack_images
from effdet.detector.views import PLAIN, TileChoice, Views, detect_views
from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import Preprocessing
from effdet.images.reading import Picture
from effdet.images.sources import iterate_pictures
from effdet.ops.settings import PostprocessSettings
from effdet.ops.tiles import Tiles
from effdet.structures import Batch, Detections

if TYPE_CHECKING:
    import torch

    from effdet.models.architecture import Architecture

T = TypeVar("T")

READ_AHEAD = 2  # batches that wait, decoded and letterboxed, while the network works on another
_ROUNDING = 1e-6  # more than the last bit of a score in float32; the exact threshold is applied to the detections
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
    training_tiles: Tiles | None  # in which objects are as large in the network input as they were in training
    predict_threshold: float | None  # score threshold of predict where it is given none; None: 0.3

    @property
    def architecture(self) -> Architecture | None:
        """What the network is; None: of a file of another program, which does not say."""

    @property
    def takes_any_size(self) -> bool:
        """Whether the network input may have another size than ``image_size``."""

    @property
    def device(self) -> torch.device:
        """Device that batches are moved to."""

    @property
    def letterbox(self) -> Letterbox:
        """How an image is scaled and padded to the network input."""

    @property
    def fill(self) -> tuple[int, int, int]:
        """The uint8 RGB of the padding."""

    def detect(self, batch: Batch | ArrayBatch, *, least_score: float = 0.0) -> list[Detections]:
        """Return the detections of a letterboxed batch, in pixels of the original images.

        Those that score below ``least_score`` may be missing, so that less is to be done; the others are the same.
        """

    @property
    def predict(self) -> Callable[..., list[Detections]]:
        """Detect objects in images of any kind; see ``PredictsFiles``."""

    @property
    def predict_iter(self) -> Callable[..., Iterator[tuple[Detections, np.ndarray]]]:
        """Yield detections with the image that they belong to; see ``PredictsFiles``."""


class PredictsFiles:
    """What all detectors do alike: from files, arrays or streams to detections, by their ``detect``."""

    def predict(
        self,
        source: Any,
        *,
        score_threshold: float | None = None,
        batch_size: int = 1,
        tiles: TileChoice = None,
        overlap: float | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        classes: Sequence[str] | None = None,
    ) -> list[Detections]:
        """Detect objects in images of any kind, in evaluation mode whatever mode the model is in.

        Nothing in the model changes, and several threads may call it at once.

        Args:
            source: A file, folder, glob pattern or video; a PIL image, RGB array or tensor; or a list of them.
            score_threshold: Detections below it are left out. None: ``predict_threshold``, which the report of a run
                recommends; 0.3 where it is None.
            batch_size: Images, or views of an image, that go through the network together.
            tiles: Cut images into tiles with this side, or (height, width), in pixels; "auto": so that objects have the
                size that they had in training. None: images are scaled to the network input as a whole.
            overlap: Share of its side that a tile has in common with its neighbour. None: 0.2, or what goes with
                "auto".
            flip: Look at the mirror image too.
            scales: Factors of the network input. What mirror image and scales show is joined by weighted boxes fusion.
            classes: Names of the classes that are reported; None: all.

        Returns:
            One ``Detections`` per image or frame, in order, boxes in pixels of the original.

        Raises:
            FileNotFoundError, ValueError: If there is no such source or an image cannot be read.
            TypeError, ValueError: If an argument has a wrong type or value, such as an unknown class.
        """
        found = self.predict_iter(
            source,
            score_threshold=score_threshold,
            batch_size=batch_size,
            tiles=tiles,
            overlap=overlap,
            flip=flip,
            scales=scales,
            classes=classes,
        )
        return [detections for detections, _ in found]

    def predict_iter(
        self,
        source: Any,
        *,
        score_threshold: float | None = None,
        batch_size: int = 1,
        tiles: TileChoice = None,
        overlap: float | None = None,
        flip: bool = False,
        scales: Sequence[float] = (1.0,),
        classes: Sequence[str] | None = None,
    ) -> Iterator[tuple[Detections, np.ndarray]]:
        """Yield detections with the image that they belong to, one at a time: (H, W, C), RGB uint8 for most networks.

        Arguments as for ``predict``. Memory stays flat however many images or frames there are.
        """
        views = Views(tiles=tiles, overlap=overlap, flip=flip, scales=tuple(scales))
        return predict_iter(
            cast("Detector", self),
            source,
            score_threshold=choose_threshold(cast("Detector", self), score_threshold),
            batch_size=batch_size,
            views=views,
            classes=classes,
        )


DEFAULT_THRESHOLD = 0.3


def choose_threshold(detector: Detector, score_threshold: float | None) -> float:
    """Return the threshold that is given, else the detector's own, else 0.3."""
    if score_threshold is not None:
        return score_threshold
    return DEFAULT_THRESHOLD if detector.predict_threshold is None else detector.predict_threshold


def predict_iter(
    detector: Detector,
    source: Any,
    *,
    score_threshold: float,
    batch_size: int,
    views: Views = PLAIN,
    classes: Sequence[str] | None = None,
) -> Iterator[tuple[Detections, np.ndarray]]:
    """Yield detections with the image (H, W, C) that they belong to, in order.

    From the second batch on, a thread reads and letterboxes the next ones while the network works. At most
    ``READ_AHEAD`` + 2 batches are held, however many images or frames there are. Where the preprocessing decodes at a
    reduced size, the image has that size, the boxes are in pixels of the full one, and ``Detections.draw`` fits them.
    Images of which several views are looked at are decoded at full size.

    Args:
        detector: What detects.
        source: As ``effdet.images.reading.iterate_images`` takes it.
        score_threshold: Detections below it are left out.
        batch_size: Images, or views of an image, that go through the network together.
        views: Which views of each image are looked at.
        classes: Names of the classes that are reported; None: all.

    Raises:
        ValueError: If ``batch_size`` is below 1, ``score_threshold`` is not in [0, 1], a class is unknown, or the views
            do not suit the detector.
        FileNotFoundError, ValueError: If there is no such source or an image cannot be read; images before it come
            first.
    """
    check_batch_size(batch_size)
    if not (isinstance(score_threshold, Real) and 0 <= score_threshold <= 1):
        raise ValueError(f"score_threshold must be a number in [0, 1], got {score_threshold!r}")
    labels = None if classes is None else labels_of(classes, detector.class_names)
    found = _whole_images(detector, source, batch_size, score_threshold)
    if not views.is_plain:
        views.check(detector)
        found = _all_views(detector, source, batch_size, views)
    with closing(found):
        for picture, detections in found:
            kept = detections.above(score_threshold).of_source(picture.name)
            yield (kept if labels is None else kept.of_labels(labels)), picture.pixels


def labels_of(classes: Sequence[str], class_names: Sequence[str]) -> list[int]:
    """Return the labels of classes by their names.

    Raises:
        TypeError: If the classes are one text and not a list.
        ValueError: If there is none, or no class has one of the names.
    """
    if isinstance(classes, str) or not isinstance(classes, Sequence):
        raise TypeError(f"classes must be a list of class names, got {classes!r}")
    if not classes:
        raise ValueError("classes must name one class or more, got an empty list; leave it out to report all")
    for name in classes:
        if name not in class_names:
            near = difflib.get_close_matches(str(name), class_names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(class_names)}"
            raise ValueError(f"classes must be names of the model's classes, got {name!r}; {hint}")
    return [class_names.index(name) for name in classes]


def _whole_images(
    detector: Detector, source: Any, batch_size: int, score_threshold: float
) -> Generator[tuple[Picture, Detections], None, None]:
    least_score = float(score_threshold) * (1 - _ROUNDING)
    with closing(_batches(source, detector.letterbox, batch_size)) as batches:
        for chunk, batch in batches:
            yield from zip(chunk, detector.detect(batch, least_score=least_score), strict=True)


def _all_views(
    detector: Detector, source: Any, batch_size: int, views: Views
) -> Generator[tuple[Picture, Detections], None, None]:
    pixels = detector.letterbox.pixels
    with closing(read_ahead(iterate_pictures(source, pixels.read, convert=pixels.convert), 1)) as pictures:
        for picture in pictures:
            if picture.pixels.shape[:2] != picture.original_size:
                raise ValueError(
                    f"{picture.name}: must have its full size to be looked at in several views, got "
                    f"{picture.pixels.shape[:2]} of {picture.original_size}; read it with "
                    "effdet.images.reading.read_picture"
                )
            yield picture, detect_views(detector, picture.pixels, views, batch_size)


def check_batch_size(batch_size: int) -> None:
    """Raise ``ValueError`` unless a batch holds an image."""
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ValueError(f"batch_size must be a whole number of 1 or more, got {batch_size!r}")


class _Prepared(NamedTuple):
    chunk: Sequence[Picture]
    batch: ArrayBatch


def _batches(source: Any, letterbox: Letterbox, batch_size: int) -> Generator[_Prepared, None, None]:
    """Yield prepared batches; a thread starts only where there are more images than one batch holds."""
    images = iterate_pictures(source, letterbox.read, convert=letterbox.pixels.convert)
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
    return _Prepared(chunk, stack_images(images, letterbox, [picture.original_size for picture in chunk]))


def read_ahead(items: Iterator[T], depth: int) -> Generator[T, None, None]:
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
