"""Detect objects in very many images with many processes, which may be killed and go on where they were.

Each process takes every n-th image of the listing and adds one line for each to a file of its own in ``DIR/parts``: the
detections, or why the image cannot be read. Whatever is in these files is not done again, also by another number of
processes. Nothing else is shared, so the processes may be on many machines with a common folder. Who finishes last
joins the lines.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import queue
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock

from effdet.atomic_write import replace_file
from effdet.detector.prediction import Detector, check_batch_size, choose_threshold, labels_of, predict_iter
from effdet.detector.views import PLAIN, Views
from effdet.evaluation.categories import to_categories
from effdet.images.reading import Picture
from effdet.images.stored import StoredImage
from effdet.runs.image_ids import ListedImages
from effdet.runs.image_listing import ListedImage, list_sources
from effdet.runs.predict import Naming, one_line

log = logging.getLogger(__name__)

_EVERY = 1000  # images between two lines of the log


@dataclass(frozen=True)
class SharedPrediction:
    """What one process has done."""

    folder: Path
    num_images: int  # of all processes together
    num_new: int  # done by this process now
    failures: tuple[str, ...]  # of this process now, one sentence each
    is_complete: bool  # all images are done, and results.json is written


def predict_shared(
    model: Detector,
    sources: Sequence[str | Path],
    folder: str | Path,
    *,
    rank: int = 0,
    world_size: int = 1,
    score_threshold: float | None = None,
    batch_size: int = 1,
    views: Views = PLAIN,
    classes: Sequence[str] | None = None,
    annotations: str | Path | None = None,
    report: Callable[[str], None] = log.info,
    complain: Callable[[str], None] = log.warning,
) -> SharedPrediction:
    """Detect objects in this process's share of the images, and join all results when the last one is done.

    ``results.json`` has COCO's results format, ``images.json`` the ``images`` and ``categories`` of a COCO file, and
    ``failures.csv`` a row for each image that cannot be read. No pictures are drawn.

    Args:
        model: A model, or what ``effdet.load`` returns.
        sources: As ``effdet.runs.image_listing.list_sources`` takes them; the same in every process.
        folder: The same for every process; is made if it does not exist.
        rank: Number of this process among ``world_size`` ones.
        world_size: Number of processes.
        score_threshold: Detections below it are left out; None: as ``model.predict`` does.
        batch_size: Images, or views of an image, that go through the network together.
        views: Which views of each image are looked at.
        classes: Names of the classes that are reported; None: all.
        annotations: COCO JSON that lists the images, which gives image and category ids.
        report: Is called with one line now and then.
        complain: Is called with one sentence for each image that cannot be read.

    Raises:
        ValueError: If ``rank``, ``batch_size``, a class, views or annotations do not suit, or the folder holds results
            of other images or settings.
        OSError: If a file cannot be written.
    """
    if not 0 <= rank < world_size:
        raise ValueError(f"rank must lie in [0, {world_size}), got {rank}")
    check_batch_size(batch_size)
    score_threshold = choose_threshold(model, score_threshold)
    views.check(model)
    if classes is not None:
        labels_of(classes, model.class_names)
    failures: list[str] = []

    def fail(sentence: str) -> None:
        failures.append(sentence)
        complain(one_line(sentence))

    listed = None if annotations is None else ListedImages(Path(annotations))
    naming = Naming.of(model, listed)
    images = list_sources(sources, fail)
    parts = _Parts(Path(folder), len(images))
    settings = [score_threshold, repr(views), list(classes or ()), list(model.class_names), str(annotations or "")]
    parts.require_same([image.name for image in images], settings)
    done = parts.read()
    todo = [index for index in range(rank, len(images), world_size) if index not in done]
    report(f"process {rank} of {world_size}: {len(todo):,} of {len(images):,} images to do, {len(done):,} are done")
    with parts.open(rank, world_size) as out:
        read = model.letterbox.read if views.is_plain else model.letterbox.pixels.read
        share = _Share(images, read, listed)
        predict = predict_iter(
            model,
            share.pictures(todo),
            score_threshold=score_threshold,
            batch_size=batch_size,
            views=views,
            classes=classes,
        )
        for number, (detections, _) in enumerate(predict, start=1):
            share.write_failures(out, fail)
            index, image_id, picture = share.read_before.popleft()
            rows = to_categories(detections, naming.categories).to_coco(image_id)
            size = {"height": picture.original_size[0], "width": picture.original_size[1]}
            _write_line(out, {"n": index, "id": image_id, "name": picture.name, **size, "found": rows})
            if number % _EVERY == 0:
                report(f"process {rank} of {world_size}: {number:,} of {len(todo):,} images")
        share.write_failures(out, fail)
    is_complete = parts.join(naming.names_of_ids)
    report(f"process {rank} of {world_size}: done" + ("; joined all results" if is_complete else ""))
    return SharedPrediction(Path(folder), len(images), len(todo), tuple(failures), is_complete)


class _Share:
    """The images of one process; what cannot be read becomes a failure, and the others go on."""

    def __init__(
        self, images: Sequence[ListedImage], read: Callable[..., Picture], listed: ListedImages | None
    ) -> None:
        self.images, self._read, self._listed = images, read, listed
        self.read_before: deque[tuple[int, Any, Picture]] = deque()  # index, image id; whose detections will come next
        self._failures: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()

    def pictures(self, indices: Sequence[int]) -> Iterator[Picture]:
        """Yield the images that can be read; a thread of ``predict_iter`` runs this ahead."""
        for index in indices:
            image = self.images[index]
            try:
                image_id = index + 1 if self._listed is None else self._listed.id_of(_path_of(image))
                picture = self._read(image.source())
            except (ValueError, OSError) as error:
                self._failures.put((index, str(error)))
                continue
            self.read_before.append((index, image_id, picture._replace(name=image.name, pixels=picture.pixels[:0])))
            yield picture

    def write_failures(self, out: BinaryIO, fail: Callable[[str], None]) -> None:
        while not self._failures.empty():
            index, reason = self._failures.get()
            _write_line(out, {"n": index, "name": self.images[index].name, "error": one_line(reason)})
            fail(reason)


def _path_of(image: ListedImage) -> Path:
    return image.place.path if isinstance(image.place, StoredImage) and image.place.length is None else Path(image.name)


def _write_line(out: BinaryIO, content: dict[str, Any]) -> None:
    out.write(json.dumps(content).encode() + b"\n")  # at once: the file is not buffered


class _Parts:
    """The files of all processes, in ``folder / "parts"``."""

    def __init__(self, folder: Path, num_images: int) -> None:
        self.folder, self.parts, self.num_images = folder, folder / "parts", num_images
        self.parts.mkdir(parents=True, exist_ok=True)

    def require_same(self, names: Sequence[str], settings: Sequence[Any]) -> None:
        """Raise if the folder was begun with other images or settings."""
        digest = hashlib.blake2b(json.dumps([list(names), list(settings)]).encode(), digest_size=16).hexdigest()
        file = self.parts / "begun.json"
        with FileLock(self.parts / "lock"):
            if not file.exists():
                with replace_file(file) as out:
                    out.write(json.dumps({"images": len(names), "digest": digest}).encode())
        if json.loads(file.read_text())["digest"] != digest:
            raise ValueError(
                f"{self.folder} must be continued with the images and settings that it was begun with; take another "
                "folder, or remove it"
            )

    def open(self, rank: int, world_size: int) -> BinaryIO:
        """Open the file of a process to add to it; a line that was cut off by a kill is removed."""
        file = self.parts / f"{rank:05}-of-{world_size:05}.jsonl"
        out = file.open("ab", buffering=0)
        if out.tell():
            content = file.read_bytes()
            out.truncate(content.rfind(b"\n") + 1)
        return out

    def lines(self) -> Iterator[tuple[Path, int, dict[str, Any]]]:
        """Yield the file, the place and the content of every whole line."""
        for file in sorted(self.parts.glob("*.jsonl")):
            place = 0
            with file.open("rb") as opened:
                for line in opened:
                    if line.endswith(b"\n"):
                        yield file, place, json.loads(line)
                    place += len(line)

    def read(self) -> set[int]:
        """Return the numbers of the images that are done."""
        return {content["n"] for _, _, content in self.lines()}

    def join(self, names_of_ids: dict[Any, str]) -> bool:
        """Write the joined files if all images are done; return whether they are."""
        with FileLock(self.parts / "lock"):
            places: dict[int, tuple[Path, int]] = {}
            for file, place, content in self.lines():
                places.setdefault(content["n"], (file, place))
            if len(places) < self.num_images:
                return False
            ordered = [places[number] for number in sorted(places)]
            with replace_file(self.folder / "results.json") as out:
                _write_list(out, (row for content in _contents(ordered) for row in content.get("found", ())))
            with replace_file(self.folder / "images.json") as out:
                categories = [{"id": number, "name": name} for number, name in names_of_ids.items()]
                out.write(b'{"categories": ' + json.dumps(categories).encode() + b', "images": ')
                _write_list(out, (_image(content) for content in _contents(ordered) if "error" not in content))
                out.write(b"}\n")
            with replace_file(self.folder / "failures.csv") as out:
                rows = [(content["name"], content["error"]) for content in _contents(ordered) if "error" in content]
                text = io.StringIO()
                csv.writer(text, lineterminator="\n").writerows([("image", "reason"), *rows])
                out.write(text.getvalue().encode("utf-8", "backslashreplace"))
        return True


def _contents(places: Sequence[tuple[Path, int]]) -> Iterator[dict[str, Any]]:
    opened: dict[Path, BinaryIO] = {}
    try:
        for file, place in places:
            if file not in opened:
                opened[file] = file.open("rb")
            opened[file].seek(place)
            yield json.loads(opened[file].readline())
    finally:
        for handle in opened.values():
            handle.close()


def _image(content: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": content["id"],
        "file_name": content["name"],
        "width": content["width"],
        "height": content["height"],
    }


def _write_list(out: Any, rows: Iterator[dict[str, Any]]) -> None:
    out.write(b"[")
    for number, row in enumerate(rows):
        out.write((b",\n" if number else b"\n") + json.dumps(row).encode())
    out.write(b"\n]\n")
