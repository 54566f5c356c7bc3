"""Detect objects in images, folders or videos: drawn pictures, and the detections in COCO's format.

effdet predict --weights runs/demo/best.safetensors photo.jpg photos/ "more/*.png" clip.mp4 --out found
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from effdet.commands import program
from effdet.commands.model_options import add_model_options, load_model
from effdet.commands.output import prepare_output
from effdet.commands.record import ListedImages, Record

if TYPE_CHECKING:
    from effdet.images.reading import Picture
    from effdet.structures import Detections


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``predict``."""
    result = argparse.ArgumentParser(
        prog=program("predict"),
        description="Detect objects in images, folders, glob patterns or videos. DIR gets the drawn pictures, "
        "results.json (COCO's results format) and images.json (which image_id is which file).",
    )
    result.add_argument("sources", nargs="+", metavar="SOURCE", help="image, folder, glob pattern or video")
    result.add_argument("--weights", required=True, metavar="W", help="model: a .safetensors file of a run")
    result.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for what is found")
    result.add_argument("--score-threshold", type=float, default=0.3, metavar="SCORE", help=_THRESHOLD)
    result.add_argument("--batch-size", type=int, default=1, metavar="N", help="images at a time (default: 1)")
    result.add_argument("--json", metavar="FILE", help="write all detections, boxes as xyxy, as JSON; - is stdout")
    result.add_argument("--annotations", type=Path, metavar="FILE", help=_ANNOTATIONS)
    add_model_options(result)
    return result


_THRESHOLD = "smallest score that is reported (default: 0.3; to evaluate results.json afterwards take 0.001)"
_ANNOTATIONS = "COCO JSON that lists the images: results.json gets its image and category ids"


def run(args: argparse.Namespace) -> int:
    """Predict, draw, and return the exit status: 1 if a source could not be read."""
    if args.batch_size < 1:
        parser().error(f"--batch-size must be 1 or more, got {args.batch_size}")
    if not 0 <= args.score_threshold <= 1:
        parser().error(f"--score-threshold must lie in [0, 1], got {args.score_threshold}")

    files, problems = _expand(args.sources)
    job = _Job(args, files)
    for problem in problems:
        job.record.fail(problem)
    try:
        for is_video, group in groupby(files, key=_is_video):
            if is_video:
                for file in group:
                    job.predict_video(file)
            else:
                job.predict_images(list(group))
    finally:  # also after an interruption: what was found until then is not lost
        job.record.write(args.json)
    return 1 if job.record.num_failures else 0


def _expand(sources: list[str]) -> tuple[list[Path], list[str]]:
    """Return the files of all sources in order, each once, and a sentence for every source that has none."""
    from effdet.images.reading import ImageError
    from effdet.images.sources import find_files

    files: dict[Path, None] = {}
    problems = []
    for source in sources:
        try:
            files.update(dict.fromkeys(find_files(source)))
        except (FileNotFoundError, ImageError) as error:
            problems.append(str(error))
    return list(files), problems


def _is_video(file: Path) -> bool:
    from effdet.images.file_types import VIDEO_SUFFIXES

    return file.suffix.lower() in VIDEO_SUFFIXES


class _Job:
    """The model, what it is asked, and the record of what it finds."""

    def __init__(self, args: argparse.Namespace, files: list[Path]) -> None:
        from effdet.evaluation.categories import match_categories

        self.model = load_model(args)
        self.options = {"score_threshold": args.score_threshold, "batch_size": args.batch_size}

        names, ids = self.model.class_names, self.model.category_ids
        self.image_ids = None if args.annotations is None else ListedImages(args.annotations)
        self.categories: tuple[int | None, ...] = tuple(ids)
        if self.image_ids is not None:
            names, ids = self.image_ids.class_names, self.image_ids.category_ids
            self.categories = match_categories(
                self.model.class_names, self.model.category_ids, dataset_names=names, dataset_ids=ids
            )
        report = sys.stderr if args.json == "-" else sys.stdout
        self.record = Record(args.out, files, dict(zip(ids, names, strict=True)), report=report)
        if args.json:
            prepare_output(args.json)

    def predict_images(self, files: list[Path]) -> None:
        """Draw every image that can be read; name the others."""
        from effdet.visualize import save_image

        images = self._read(files)
        while chunk := list(islice(images, self.options["batch_size"])):
            found = self.model.predict([picture for _, _, picture in chunk], **self.options)
            for (file, image_id, picture), detections in zip(chunk, found, strict=True):
                detections = self._in_categories(replace(detections, source=str(file)))
                target = self.record.path_for(file)
                save_image(target, detections.draw(picture.pixels))
                self.record.add(detections, image_id, target)
                self.record.say(f"{file}: {_counted(detections)} -> {target}")

    def predict_video(self, file: Path) -> None:
        """Draw every frame into a video of the same rate; the frames before a damaged one are kept."""
        from effdet.images.video import VideoWriter, frame_rate

        target = self.record.path_for(file, ".mp4")
        frames = found = 0
        try:
            if self.image_ids is not None:
                raise ValueError(f"{file}: a video has no image ids; leave it out or leave out --annotations")
            with VideoWriter(target, frame_rate(file)) as video:
                for detections, image in self.model.predict_iter(str(file), **self.options):
                    video.write(detections.draw(image))
                    self.record.add(detections, None, target)
                    frames, found = frames + 1, found + len(detections)
        except (ValueError, OSError) as error:
            self.record.fail(str(error))
        if frames:
            self.record.say(f"{file}: {frames} frames, {found} detections -> {target}")

    def _read(self, files: list[Path]) -> Iterator[tuple[Path, Any, Picture]]:
        """Yield file, image id (None: the next number) and picture of what can be read."""
        letterbox = self.model.letterbox
        for file in files:
            try:
                image_id = None if self.image_ids is None else self.image_ids.id_of(file)
                yield file, image_id, letterbox.read(file)
            except (ValueError, OSError) as error:
                self.record.fail(str(error))

    def _in_categories(self, detections: Detections) -> Detections:
        from effdet.evaluation.categories import to_categories

        return to_categories(detections, self.categories)


def _counted(detections: Detections) -> str:
    counts = Counter(found.class_name for found in detections)
    classes = ", ".join(f"{count} {name}" for name, count in counts.most_common())
    return f"{len(detections)} detection{'' if len(detections) == 1 else 's'}" + (f" ({classes})" if classes else "")
