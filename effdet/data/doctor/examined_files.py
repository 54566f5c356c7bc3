"""What the doctor learned of each image file, kept from check to check, so that only files that are new are decoded."""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.cache import cache_folder
from effdet.data.array_file import open_arrays, write_arrays
from effdet.data.dataset import Dataset
from effdet.data.doctor.image_files import ImageFile
from effdet.data.text_column import TextColumn

_FRESH = 2_000_000_000  # ns: a file that is younger could change again without a new time
_DIGEST, _HASH = 16, 8  # bytes

log = logging.getLogger(__name__)


class ExaminedFiles:
    """The good image files of a split as an earlier check saw them, if their size and time are still the same.

    Args:
        dataset: The images, with the format that they are read in.
        split: Name of the split; several may have one annotation file and one folder.
    """

    def __init__(self, dataset: Dataset, split: str) -> None:
        self._dataset = dataset
        places = str(dataset.annotation_file.absolute()), str(dataset.folder.absolute())
        identity = repr((*places, split, dataset.pixels))
        key = hashlib.blake2b(identity.encode(), digest_size=12).hexdigest()
        self._path = cache_folder() / "datasets" / f"{key}.examined"
        self.files: dict[str, ImageFile] = {}  # by name
        self.hashes: dict[str, bytes] = {}  # perceptual ones, by name
        # Bytes and time of each file, and its annotated size, (I, 4), before any file is opened: one that is written
        # meanwhile is then not taken for what was seen.
        self._stamps = np.concatenate([dataset.file_stamps, dataset.sizes], axis=1)
        self._recall()

    def _recall(self) -> None:
        found = open_arrays(self._path)
        if found is None:
            return
        content, arrays = found
        names, formats = TextColumn(arrays["names"], arrays["names:at"]), content["formats"]
        columns = (arrays[name] for name in ("stamps", "digests", "hashes", "facts"))
        rows: dict[str, list[Any]] = {name: row for name, *row in zip(names, *columns, strict=True)}
        for index, name in enumerate(self._dataset.names):
            if name not in rows or not np.array_equal(rows[name][0], self._stamps[index]):
                continue
            _, digest, image_hash, facts = rows[name]
            orientation, height, width, is_blank, has_hash, format_code = facts.tolist()
            self.files[name] = ImageFile(
                name,
                self._dataset.path(index),
                digest=digest.tobytes().hex(),
                orientation=orientation,
                format=formats[format_code],
                size=(height, width),
                is_blank=bool(is_blank),
            )
            if has_hash:
                self.hashes[name] = image_hash.tobytes()

    def remember(self, opened: Sequence[ImageFile], hashes: Mapping[str, bytes]) -> None:
        """Keep what a check saw of the good files; without effect if the cache cannot be written.

        Args:
            opened: The files of the split.
            hashes: Their perceptual hashes by name, as far as there are any.
        """
        place_of = {name: index for index, name in enumerate(self._dataset.names)}
        stamps, settled = self._stamps, time.time_ns() - _FRESH
        good = [file for file in opened if not file.fault and file.digest and stamps[place_of[file.name], 1] < settled]
        known = [hashes.get(file.name, b"") for file in good]
        if all(file is self.files.get(file.name) for file in good) and set(self.hashes) >= {
            file.name for file, image_hash in zip(good, known, strict=True) if image_hash
        }:
            return
        formats = sorted({file.format for file in good})
        facts = [
            (file.orientation, *file.size, file.is_blank, bool(image_hash), formats.index(file.format))
            for file, image_hash in zip(good, known, strict=True)
        ]
        names = TextColumn.from_texts(file.name for file in good)
        arrays: dict[str, NDArray[Any]] = {
            "names": names.blob,
            "names:at": names.offsets,
            "stamps": stamps[[place_of[file.name] for file in good]].reshape(-1, 4),
            "digests": _bytes([bytes.fromhex(file.digest) for file in good], _DIGEST),
            "hashes": _bytes([image_hash.ljust(_HASH, b"\0") for image_hash in known], _HASH),
            "facts": np.array(facts, np.int64).reshape(-1, 6),
        }
        try:
            write_arrays(self._path, {"formats": formats}, arrays)
        except OSError as error:
            log.info("the check of %s is not remembered: %s", self._dataset.annotation_file, error)


def _bytes(rows: Sequence[bytes], length: int) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(rows), np.uint8).reshape(-1, length)
