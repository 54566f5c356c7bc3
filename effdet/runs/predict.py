"""Detect objects in many images and write what is found to a folder: ``predict_to_folder``."""

from __future__ import annotations

import contextlib
import functools
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any, NamedTuple, TextIO

import numpy as np

from effdet.detector.prediction import Detector, check_batch_size, choose_threshold, labels_of, predict_iter
from effdet.detector.views import PLAIN, Views
from effdet.evaluation.categories import match_categories, to_categories
from effdet.images.addresses import Address, as_address
from effdet.images.file_types import is_video
from effdet.images.reading import ImageError, Picture
from effdet.images.sources import check_source, find_files, iterate_pictures
from effdet.images.video import Video, VideoWriter
from effdet.runs.image_ids import ListedImages
from effdet.runs.prediction_files import PredictionFiles
from effdet.structures import Detections
from effdet.visualize import save_image

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PredictedFolder:
    """What ``predict_to_folder`` has done."""

    folder: Path
    num_images: int  # and frames of videos, that were predicted
    num_detections: int
    failures: tuple[str, ...]  # one sentence for each source that could not be read


def predict_to_folder(
    model: Detector,
    sources: Any,
    folder: str | Path,
    *,
    score_threshold: float | None = None,
    batch_size: int = 1,
    views: Views = PLAIN,
    classes: Sequence[str] | None = None,
    draw: bool = True,
    annotations: str | Path | None = None,
    details: Path | TextIO | None = None,
    report: Callable[[str], None] = log.info,
    complain: Callable[[str], None] = log.warning,
) -> PredictedFolder:
    r"""Detect objects, and write drawn pictures and the detections to a folder.

    ``results.json`` has COCO's results format. ``images.json`` has the ``images`` and ``categories`` of a COCO file: it
    tells which ``image_id`` is which file, and as ``drawn`` which picture. Both are written image by image and get
    their names at the end, also when the prediction is interrupted. A picture has the name of its source, with a number
    where that is taken; neither sources nor files that are not of an earlier prediction are overwritten. In JSON, bytes
    of a file name that are not UTF-8 are ``\udc80`` … ``\udcff``, which ``json.loads`` and ``os.fsencode`` turn back.

    Args:
        model: A model, or what ``effdet.load`` returns.
        sources: As ``effdet.images.sources.iterate_images`` takes them; each file is predicted once.
        folder: Is made if it does not exist.
        score_threshold: Detections below it are left out; None: as ``model.predict`` does.
        batch_size: Images, or views of an image, that go through the network together.
        views: Which views of each image are looked at: tiles, mirror image, scales.
        classes: Names of the classes that are reported; None: all.
        draw: Write pictures and videos; False: only the JSON files.
        annotations: COCO JSON that lists the images: results.json gets its image and category ids.
        details: File, or open text file, for all detections as a JSON list, boxes as xyxy.
        report: Is called with one line for each image or video.
        complain: Is called with one sentence for each source that cannot be read. The others go on.

    Raises:
        TypeError: If a source is of a type that is none; nothing is written then.
        ValueError: If ``batch_size`` is below 1, a class is unknown, or views or annotations do not suit the model.
        FileNotFoundError: If there are no such annotations.
        OSError: If a file cannot be written.
    """
    check_batch_size(batch_size)
    score_threshold = choose_threshold(model, score_threshold)
    check_source(sources)
    views.check(model)
    if classes is not None:
        labels_of(classes, model.class_names)
    failures: list[str] = []

    def fail(sentence: str) -> None:
        failures.append(sentence)
        complain(one_line(sentence))

    listed = None if annotations is None else ListedImages(Path(annotations))
    items = list(enumerate(_expand(sources, fail)))
    naming = Naming.of(model, listed)
    sources_of_items = [item.source if isinstance(item, _Video) else item for _, item in items]
    originals = [source for source in sources_of_items if isinstance(source, Path)]
    with PredictionFiles(Path(folder), originals, naming.names_of_ids, details) as files:
        predict = functools.partial(
            predict_iter, model, score_threshold=score_threshold, batch_size=batch_size, views=views, classes=classes
        )
        pixels = model.letterbox.pixels
        read = model.letterbox.read if views.is_plain else pixels.read
        job = _Job(predict, read, pixels.convert, files, listed, naming.categories, batch_size, draw, report, fail)
        for videos, group in groupby(items, key=lambda item: isinstance(item[1], _Video)):
            if videos:
                for _, item in group:
                    job.predict_video(item.source)
            else:
                job.predict_images(group)
    return PredictedFolder(Path(folder), files.num_images, files.num_detections, tuple(failures))


def one_line(text: str) -> str:
    """Return a text with escapes for what does not print: a new line in a file name, bytes that are not UTF-8."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


class _Video(NamedTuple):
    source: Path | Address


def _expand(sources: Any, fail: Callable[[str], None]) -> Iterator[Any]:
    """Yield each file once as a path, and everything else as it is."""
    seen: set[Path] = set()
    for source in sources if isinstance(sources, list | tuple) and not isinstance(sources, Picture) else [sources]:
        if not isinstance(source, str | Path | Address):
            yield source
            continue
        try:
            if isinstance(source, str):
                source = as_address(source) or source
            if isinstance(source, Address):
                yield _Video(source) if source.is_video() else source
                continue
            files = find_files(source)
        except (OSError, ImageError) as error:  # a folder may also be closed to this user
            fail(str(error))
            continue
        yield from (_Video(file) if is_video(file) else file for file in files if file not in seen)
        seen.update(files)


class Naming(NamedTuple):
    """The category ids that go into the files."""

    names_of_ids: dict[Any, str]
    categories: tuple[Any, ...]  # of each label of the model

    @classmethod
    def of(cls, model: Detector, listed: ListedImages | None) -> Naming:
        """Return the ids of the model, or those of the annotations."""
        names, ids = model.class_names, model.category_ids
        if listed is None:
            return cls(dict(zip(ids, names, strict=True)), tuple(ids))
        matched = match_categories(names, ids, dataset_names=listed.class_names, dataset_ids=listed.category_ids)
        return cls(dict(zip(listed.category_ids, listed.class_names, strict=True)), tuple(matched))


@dataclass(frozen=True)
class _Job:
    predict: Callable[[Any], Iterator[tuple[Detections, np.ndarray]]]
    read: Callable[..., Picture]
    convert: Callable[[Any], np.ndarray]
    files: PredictionFiles
    listed: ListedImages | None
    categories: tuple[Any, ...]
    batch_size: int
    draw: bool
    report: Callable[[str], None]
    fail: Callable[[str], None]

    def predict_images(self, items: Iterator[tuple[int, Any]]) -> None:
        """Draw every image that can be read; name the others."""
        read = self._read(items)
        while chunk := list(islice(read, self.batch_size)):
            found = self.predict([picture for _, picture in chunk])
            for (image_id, picture), (detections, pixels) in zip(chunk, found, strict=True):
                detections = to_categories(detections, self.categories)
                target = self.files.path_for(_file_name(picture.name)) if self.draw else None
                if target is not None:
                    save_image(target, detections.draw(pixels))
                self.files.add(detections, image_id, target)
                self.report(one_line(f"{picture.name}: {_counted(detections)}{_arrow(target)}"))

    def predict_video(self, source: Path | Address) -> None:
        """Draw every frame into a video of the same rate; the frames before a damaged one are kept."""
        name, file_name = (str(source), source) if isinstance(source, Path) else (source.url, Path(source.file_name))
        target = self.files.path_for(file_name, ".mp4") if self.draw else None
        frames = found = 0
        try:
            if self.listed is not None:
                raise ImageError(f"{name}: a video has no image ids; leave it out or leave out the annotations")
            with contextlib.ExitStack() as stack:
                video = stack.enter_context(Video(source))
                out = None if target is None else stack.enter_context(VideoWriter(target, video.rate))
                for detections, image in self.predict(_pictures_of(name, video, self.convert)):
                    if out is not None:
                        out.write(detections.draw(image))
                    self.files.add(detections, None, target)
                    frames, found = frames + 1, found + len(detections)
        except (ImageError, FileNotFoundError) as error:
            self.fail(str(error))
        if frames:
            self.report(one_line(f"{name}: {frames} frames, {found} detections{_arrow(target)}"))

    def _read(self, items: Iterator[tuple[int, Any]]) -> Iterator[tuple[Any, Picture]]:
        """Yield the image id (None: the next number) and picture of what can be read."""
        for number, item in items:
            try:
                image_id = None if self.listed is None else self.listed.id_of(_path_of(item, number))
                for picture in iterate_pictures(item, self.read, first_number=number, convert=self.convert):
                    yield image_id, picture
            except (ValueError, OSError) as error:
                self.fail(str(error))


def _path_of(item: Any, number: int) -> Path:
    if not isinstance(item, Path):
        raise ValueError(f"image {number}: only files have ids in the annotations, got {type(item).__name__}")
    return item


def _file_name(name: str) -> Path:
    return Path(Address(name).file_name) if "://" in name else Path(name)


def _pictures_of(name: str, video: Video, convert: Callable[[Any], np.ndarray]) -> Iterator[Picture]:
    for number, pixels in enumerate(map(convert, video)):
        yield Picture(f"{name}#{number}", pixels, (pixels.shape[0], pixels.shape[1]))


def _arrow(target: Path | None) -> str:
    return "" if target is None else f" -> {target}"


def _counted(detections: Detections) -> str:
    counts = Counter(found.class_name for found in detections)
    classes = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{len(detections)} detection{'' if len(detections) == 1 else 's'}" + (f" ({classes})" if classes else "")
