"""Put the images of a data set into a folder: linked to the originals or copied, under names that stay below it."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from effdet.data.dataset import Dataset
from effdet.images.stored import StoredImage

How = Literal["link", "copy"]


class ImageCopies:
    """The images of a data set that is being written.

    Args:
        folder: Of the new data set.
        how: "link": a hard link where the file system allows it, a copy elsewhere; "copy": always a copy.
    """

    def __init__(self, folder: Path, how: How = "link") -> None:
        self.folder = folder
        self.how = how
        self.counts: Counter[str] = Counter()  # "linked", "copied", "missing", "renamed"
        self._taken: set[str] = set()  # names without suffix, folded

    def place(self, dataset: Dataset, below: str) -> list[str]:
        """Put the images of a data set below ``folder / below``.

        A name keeps its folders. What would lead out of the folder is left out of it, and a second image whose name
        differs only in its suffix or in capitals gets a number, as both would have the same label file. So does the
        second entry of an image that is listed twice.

        Args:
            dataset: The images.
            below: A folder inside the new data set, with slashes.

        Returns:
            The name of each image, relative to ``folder``, with slashes. Images without a file have a name too.

        Raises:
            OSError: If a file cannot be written.
        """
        names: list[str] = []
        for index, name in enumerate(dataset.names):
            target = self._free_name(f"{below}/{safe_name(name)}")
            self._put(dataset.stored(index), self.folder / target)
            names.append(target)
        return names

    def _free_name(self, name: str) -> str:
        path = PurePosixPath(name)
        number, candidate = 1, path
        while (key := str(candidate.with_suffix("")).casefold()) in self._taken:
            number += 1
            candidate = path.with_name(f"{path.stem}_{number}{path.suffix}")
        self._taken.add(key)
        self.counts["renamed"] += candidate != path
        return str(candidate)

    def _put(self, source: StoredImage, target: Path) -> None:
        if not source.exists():
            self.counts["missing"] += 1
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if self.how == "link" and source.length is None and source.address is None:
            try:
                os.link(source.path.resolve(), target)
                self.counts["linked"] += 1
                return
            except OSError:  # another file system, or one without links
                pass
        source.read().tofile(target)
        self.counts["copied"] += 1


def safe_name(name: str) -> str:
    """Return a relative name with slashes that stays below its folder and may be written anywhere.

    The name of an archive loses its suffix where it becomes a folder, as a reader would open the folder as an archive.
    """
    parts = re.sub(r"^[A-Za-z]:", "", name.replace("\\", "/")).split("/")
    kept = [part for part in parts if part not in ("", ".", "..")]
    kept[:-1] = [part.removesuffix(".tar") or "archive" for part in kept[:-1]]
    return "/".join(re.sub(r'[\x00-\x1f\x7f<>:"|?*]', "_", part) for part in kept) or "image"


def write_json_file(file: Path, content: Mapping[str, Any]) -> None:
    """Write JSON; folders are made.

    Raises:
        OSError: If it cannot be written.
    """
    write_text_file(file, json.dumps(content, ensure_ascii=False) + "\n")


def write_text_file(file: Path, text: str) -> None:
    """Write UTF-8 text with line feeds; folders are made.

    Raises:
        OSError: If it cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode())
