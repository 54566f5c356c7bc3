"""What is known of the image files of a large data set, kept from start to start, so that only new files are read."""

from __future__ import annotations

import hashlib
import logging
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.cache import cache_folder
from effdet.data.array_file import open_arrays, write_arrays
from effdet.data.dataset import Dataset
from effdet.data.text_column import TextColumn

UNKNOWN, WHOLE, DECODED = 0, 1, 2  # nothing; begins and ends as an image does; was decoded at the annotated size
_FRESH = 2_000_000_000  # ns: a file that is younger could change again without a new time

log = logging.getLogger(__name__)


class CheckedFiles:
    """How much is known of each image file; a file whose size or time has changed since is unknown.

    Args:
        dataset: The images.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        identity = repr((str(dataset.annotation_file.absolute()), str(dataset.folder.absolute())))
        key = hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
        self._file = cache_folder() / "datasets" / f"{key}.checked"
        self.levels = self._recall()  # (I,) uint8
        self._recalled = self.levels.copy()

    def _recall(self) -> NDArray[np.uint8]:
        levels = np.zeros(len(self._dataset), np.uint8)
        found = open_arrays(self._file)
        if found is None:
            return levels
        arrays = found[1]
        names = TextColumn(arrays["names"], arrays["names:at"])
        now = np.concatenate([self._dataset.file_stamps, self._dataset.sizes], axis=1)
        if names == self._dataset.names:
            places = np.arange(len(names))
        else:
            place_of = {name: place for place, name in enumerate(names)}
            places = np.array([place_of.get(name, -1) for name in self._dataset.names], dtype=np.int64)
        known = places >= 0
        known[known] = (arrays["stamps"][places[known]] == now[known]).all(axis=1)
        levels[known] = arrays["levels"][places[known]]
        return levels

    def remember(self) -> None:
        """Keep what is known now; without effect if nothing is new, or the cache cannot be written."""
        stamps = self._dataset.file_stamps
        levels = np.where(stamps[:, 1] < time.time_ns() - _FRESH, self.levels, UNKNOWN).astype(np.uint8)
        if np.array_equal(levels, self._recalled):
            return
        names = self._dataset.names
        columns: dict[str, NDArray[Any]] = {
            "names": names.blob,
            "names:at": names.offsets,
            "stamps": np.concatenate([stamps, self._dataset.sizes], axis=1),
            "levels": levels,
        }
        try:
            write_arrays(self._file, None, columns)
        except OSError as error:
            log.info("the check of %s is not remembered: %s", self._dataset.annotation_file, error)
