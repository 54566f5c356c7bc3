"""What ``predict`` leaves behind: names of pictures that overwrite nothing, results.json and images.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from effdet.commands.output import write_json

if TYPE_CHECKING:
    from effdet.structures import Detections


class Record:
    """Detections of many images in one folder.

    ``results.json`` has COCO's results format. ``images.json`` has the ``images`` and ``categories`` of a COCO file, so
    that it tells which ``image_id`` is which file, and its ``drawn`` which picture.

    Args:
        folder: Is made if it does not exist.
        sources: Files that no picture may replace.
        categories: Name of each category id.
        report: Where the line of each image goes.
    """

    def __init__(
        self, folder: Path, sources: Iterable[Path], categories: dict[int, str], *, report: TextIO | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.num_failures = 0
        self._folder, self._report = folder, report
        self._categories = [{"id": number, "name": name} for number, name in categories.items()]
        self._forbidden = {source.resolve() for source in sources}
        self._replaceable = _pictures_of_last_time(folder / "images.json")
        self._images: list[dict[str, Any]] = []
        self._results: list[dict[str, Any]] = []
        self._details: list[dict[str, Any]] = []

    def path_for(self, source: Path, ending: str | None = None) -> Path:
        """Return the file for the picture of a source: its own name, with a number where that is taken.

        Pictures of an earlier ``predict`` into the same folder are replaced; no other file is.
        """
        from PIL import Image

        writable = Image.registered_extensions().get(source.suffix.lower()) in Image.SAVE
        ending = ending or (source.suffix if writable else ".png")
        number = 1
        while True:
            path = self._folder / f"{source.stem}{'' if number == 1 else f'_{number}'}{ending}"
            if path.resolve() not in self._forbidden and (path.name in self._replaceable or not path.exists()):
                self._forbidden.add(path.resolve())
                return path
            number += 1

    def add(self, detections: Detections, image_id: Any, drawn: Path) -> None:
        """Note the detections of one image; ``image_id`` None: the next number, from 1."""
        number = len(self._images) + 1 if image_id is None else image_id
        height, width = detections.image_size or (0, 0)
        self._images.append(
            {"id": number, "file_name": detections.source, "width": width, "height": height, "drawn": drawn.name}
        )
        self._results += detections.to_coco(number)
        self._details.append({"image_id": number, "drawn": str(drawn), **detections.to_dict()})

    def say(self, line: str) -> None:
        """Print a line about an image."""
        print(line, file=self._report or sys.stdout, flush=True)

    def fail(self, problem: str) -> None:
        """Print what is wrong with a source, and count it."""
        self.num_failures += 1
        print(problem, file=sys.stderr, flush=True)

    def write(self, details: str | None = None) -> None:
        """Write results.json and images.json, and all detections to the file ``details`` ("-": stdout)."""
        images = {"images": self._images, "categories": self._categories}
        for name, content in (("results.json", self._results), ("images.json", images)):
            write_json(content, self._folder / name)
        if details:
            write_json(self._details, details)


class ListedImages:
    """Image and category ids of a COCO file, found by file name.

    Args:
        file: COCO JSON with ``images`` and ``categories``.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it does not have these.
    """

    def __init__(self, file: Path) -> None:
        from effdet.evaluation.results_file import read_json

        content, self._name = read_json(file, "annotations")
        try:
            listed = [(Path(image["file_name"]).parts, image["id"]) for image in content["images"]]
            categories = sorted((item["id"], str(item.get("name", item["id"]))) for item in content["categories"])
        except (KeyError, TypeError, AttributeError):
            raise ValueError(
                f"{file}: must be COCO JSON whose images have id and file_name, and categories id"
            ) from None
        self.category_ids = tuple(category_id for category_id, _ in categories)
        self.class_names = tuple(name for _, name in categories)
        self._ids: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
        for parts, image_id in listed:
            self._ids.setdefault(parts[-1] if parts else "", []).append((parts, image_id))

    def id_of(self, file: Path) -> Any:
        """Return the id of the image whose ``file_name`` the path ends with.

        Raises:
            ValueError: If there is none, or more than one that fits equally well.
        """
        parts = file.resolve().parts
        fitting = [(len(own), image_id) for own, image_id in self._ids.get(file.name, []) if parts[-len(own) :] == own]
        if not fitting:
            raise ValueError(f"{file}: is not among the images of {self._name}")
        longest = [image_id for length, image_id in fitting if length == max(fitting)[0]]
        if len(longest) > 1:
            raise ValueError(f"{file}: stands in {self._name} under several ids: {', '.join(map(str, longest))}")
        return longest[0]


def _pictures_of_last_time(images: Path) -> set[str]:
    try:
        return {image["drawn"] for image in json.loads(images.read_bytes())["images"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # no such file, or not one of ours: then nothing here is ours to replace
