"""The files of a prediction: names of pictures that overwrite nothing, and JSON that is written image by image."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from PIL import Image

from effdet.atomic_write import remove_temporary_files, replace_file
from effdet.structures import Detections

RESULTS, IMAGES = "results.json", "images.json"


class PredictionFiles:
    """Detections of many images in one folder; the JSON files get their names when the ``with`` block ends.

    Args:
        folder: Is made if it does not exist.
        originals: Files that no picture may replace.
        categories: Name of each category id.
        details: File, or open text file, for all detections.
    """

    def __init__(
        self, folder: Path, originals: Iterable[Path], categories: dict[Any, str], details: Path | TextIO | None = None
    ) -> None:
        self.num_images = self.num_detections = 0
        self._folder, self._details = folder, details
        self._categories = [{"id": number, "name": name} for number, name in categories.items()]
        self._taken = {original.resolve() for original in originals}
        self._stack = ExitStack()

    def __enter__(self) -> PredictionFiles:
        self._folder.mkdir(parents=True, exist_ok=True)
        remove_temporary_files(self._folder, (RESULTS, IMAGES))
        self._replaceable = _pictures_of_last_time(self._folder / IMAGES)
        categories = json.dumps(self._categories, ensure_ascii=False)
        self._results = self._open(self._folder / RESULTS, "[", "]\n")
        self._images = self._open(self._folder / IMAGES, '{"images": [', f'], "categories": {categories}}}\n')
        self._rows = None if self._details is None else self._open(self._details, "[", "]\n")
        return self

    def _open(self, target: Path | TextIO, before: str, after: str) -> _JsonList:
        if isinstance(target, Path):
            target.parent.mkdir(parents=True, exist_ok=True)
            file = self._stack.enter_context(replace_file(target))
            return _JsonList(lambda text: file.write(text.encode("utf-8", "backslashreplace")), before, after)
        return _JsonList(target.write, before, after, ascii_only=(target.encoding or "").lower() != "utf-8")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Keep what was found, also after an interruption; after a failed write no half file takes a name."""
        try:
            for rows in (self._results, self._images, self._rows):
                if rows is not None:
                    rows.close()
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        self._stack.close()

    def path_for(self, source: Path, suffix: str | None = None) -> Path:
        """Return the file for the picture of a source: its own name, with a number where that is taken.

        Pictures of an earlier prediction into the same folder are replaced; no other file is.

        Args:
            source: A file, or the name of an image in memory.
            suffix: Of the picture; None: that of the source if pictures can be written so, else .png.
        """
        stem = source.stem if source.suffix else source.name.strip("<>").replace(" ", "-")
        writable = Image.registered_extensions().get(source.suffix.lower()) in Image.SAVE
        suffix = suffix or (source.suffix if writable else ".png")
        number = 1
        while True:
            path = self._folder / f"{stem}{'' if number == 1 else f'_{number}'}{suffix}"
            if path.resolve() not in self._taken and (path.name in self._replaceable or not path.exists()):
                self._taken.add(path.resolve())
                return path
            number += 1

    def add(self, detections: Detections, image_id: Any, drawn: Path | None) -> None:
        """Write the detections of one image; ``image_id`` None: the next number, from 1; ``drawn``: its picture."""
        number = self.num_images + 1 if image_id is None else image_id
        height, width = detections.image_size or (0, 0)
        image = {"id": number, "file_name": detections.source, "width": width, "height": height}
        self._images.add(image if drawn is None else {**image, "drawn": drawn.name})
        for row in detections.to_coco(number):
            self._results.add(row)
        if self._rows is not None:
            picture = {} if drawn is None else {"drawn": str(drawn)}
            self._rows.add({"image_id": number, **picture, **detections.to_dict()})
        self.num_images += 1
        self.num_detections += len(detections)


class _JsonList:
    """A JSON list that is written row by row."""

    def __init__(self, write: Callable[[str], Any], before: str, after: str, *, ascii_only: bool = False) -> None:
        self._write, self._after, self._ascii_only = write, after, ascii_only
        self._separator = before

    def add(self, row: dict[str, Any]) -> None:
        self._write(self._separator + json.dumps(row, ensure_ascii=self._ascii_only))
        self._separator = ", "

    def close(self) -> None:
        self._write(("" if self._separator == ", " else self._separator) + self._after)


def _pictures_of_last_time(images: Path) -> set[str]:
    try:
        return {image["drawn"] for image in json.loads(images.read_bytes())["images"] if "drawn" in image}
    except (OSError, ValueError, KeyError, TypeError):
        return set()  # no such file, or not one of ours: then nothing here is ours to replace
