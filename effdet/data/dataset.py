"""A data set as columns: which images there are, and which boxes they have."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from effdet.data.archives import stored_image
from effdet.data.dependencies import stamp
from effdet.data.files import resolve_name
from effdet.data.findings import DataError, Finding
from effdet.data.text_column import TextColumn
from effdet.images.stored import StoredImage

if TYPE_CHECKING:  # scoring a results file needs no image reader, and no torch
    from effdet.images.pixel_format import PixelFormat
    from effdet.images.reading import Picture

Array: TypeAlias = NDArray[Any]


class Annotations(NamedTuple):
    """Ground truth of one image, in pixels of the original image."""

    boxes: NDArray[np.float32]  # (M, 4) xyxy
    labels: NDArray[np.int64]  # (M,) in [0, K)
    is_crowd: NDArray[np.bool_]  # (M,) the box surrounds a group: ignored in training


@dataclass(frozen=True, eq=False, kw_only=True)
class Dataset:
    """Images and boxes of one split, in the order of its annotation file.

    Everything is held in flat arrays, which loader processes share without copying. Image i has the boxes
    ``offsets[i]`` to ``offsets[i + 1]``; an image without boxes is a negative. The boxes are those of the annotation
    file; ``annotations`` clips them to their image for training.
    """

    class_names: tuple[str, ...]  # K
    category_ids: tuple[int, ...]  # K, the data set's own, ascending
    image_ids: NDArray[np.int64] | NDArray[np.uint64] | TextColumn  # I, the data set's own
    names: TextColumn  # I, of the image files, relative to ``folder``
    folder: Path
    sizes: NDArray[np.int64]  # (I, 2) height, width; 0 where neither the annotations nor the image file tell
    boxes_xywh: NDArray[np.float64]  # (ΣM, 4) x, y, width, height in pixels; finite
    labels: NDArray[np.int64]  # (ΣM,) in [0, K)
    is_crowd: NDArray[np.bool_]  # (ΣM,)
    areas: NDArray[np.float64]  # (ΣM,) pixels² of the object's mask where there is one, else width × height
    annotation_ids: NDArray[np.int64]  # (ΣM,) the data set's own, each once
    offsets: NDArray[np.int64]  # (I + 1,)
    annotation_file: Path
    findings: tuple[Finding, ...] = ()
    spans: NDArray[np.int64] | None = None  # (I, 2) start and length in bytes of images in tar archives; -1: a file
    pixels: PixelFormat | None = None  # which the network takes; None: 8-bit RGB

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """K, unused classes included."""
        return len(self.class_names)

    @property
    def image_of_box(self) -> NDArray[np.int64]:
        """(ΣM,) the number of the image that each box belongs to."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def image_id(self, index: int) -> int | str:
        """Return the data set's own id of image number ``index``."""
        value = self.image_ids[index]
        return value if isinstance(value, str) else int(value)

    def annotations(self, index: int) -> Annotations:
        """Return the boxes of image number ``index`` in [0, len), clipped to it; those without an area are left out."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        boxes, has_area = clip_boxes(self.boxes_xywh[rows], self.sizes[index])
        return Annotations(
            boxes[has_area].astype(np.float32), self.labels[rows][has_area], self.is_crowd[rows][has_area]
        )

    def path(self, index: int) -> Path:
        """Return the file of image number ``index``, for messages; ``stored`` and ``read`` open it."""
        return resolve_name(self.folder, self.names[index])

    def stored(self, index: int) -> StoredImage:
        """Return where image number ``index`` is. Everything that opens an image of a data set goes through here."""
        return stored_image(self.folder, self.names[index], self.spans, index)

    def read(self, index: int) -> Array:
        """Return image number ``index``, (H, W, C), in the format ``pixels``.

        Raises:
            FileNotFoundError: If the file does not exist.
            ImageError: If it cannot be decoded, or its size is not the one that the annotations were made for.
        """
        return self.read_picture(index).pixels

    def read_picture(self, index: int, read: Callable[..., Picture] | None = None) -> Picture:
        """Return image number ``index`` as ``read(stored, size=...)`` gives it, perhaps smaller than in its file.

        Args:
            index: Number of the image.
            read: What decodes the file; None: that of ``pixels``, at full size.

        Raises:
            FileNotFoundError, ImageError: As ``read``.
        """
        from effdet.images.pixel_format import PixelFormat
        from effdet.images.reading import ImageError

        height, width = (int(side) for side in self.sizes[index])
        stored = self.stored(index)
        picture = (read or (self.pixels or PixelFormat()).read)(stored, size=(height, width) if height else None)
        if height and picture.original_size != (height, width):
            raise ImageError(
                f"{stored.name}: is {picture.original_size[1]}×{picture.original_size[0]} pixels, "
                f"but {self.annotation_file} was made for {width}×{height}"
            )
        return picture

    @functools.cached_property
    def file_stamps(self) -> NDArray[np.int64]:
        """(I, 2) bytes of each image file, and time of its last change in ns; -1: no file. Looked up once."""
        if self.spans is not None:
            return self._stamps_of_members()
        folder = f"{self.folder}/"
        places = (folder + name if _is_plain(name) else self.path(index) for index, name in enumerate(self.names))
        values = (value for place in places for value in stamp(place)[:2])
        return np.fromiter(values, np.int64, 2 * len(self)).reshape(-1, 2)

    def _stamps_of_members(self) -> NDArray[np.int64]:
        archives: dict[Path, tuple[int, int]] = {}
        stamps = np.empty((len(self), 2), np.int64)
        for index in range(len(self)):
            image = self.stored(index)
            if image.path not in archives:
                archives[image.path] = stamp(image.path)[:2]
            size, changed = archives[image.path]
            stamps[index] = (image.length if image.length is not None and size >= 0 else size), changed
        return stamps

    def without(self, indices: Iterable[int]) -> Dataset:
        """Return the data set without some of its images."""
        kept = np.setdiff1d(np.arange(len(self)), np.fromiter(indices, dtype=np.int64))
        counts = np.diff(self.offsets)
        rows = np.repeat(np.isin(np.arange(len(self)), kept), counts)
        ids = self.image_ids
        return replace(
            self,
            image_ids=ids.take(kept) if isinstance(ids, TextColumn) else ids[kept],
            names=self.names.take(kept),
            sizes=self.sizes[kept],
            spans=None if self.spans is None else self.spans[kept],
            boxes_xywh=self.boxes_xywh[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            areas=self.areas[rows],
            annotation_ids=self.annotation_ids[rows],
            offsets=np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
        )

    def require_usable(self) -> Dataset:
        """Return this data set if it has no errors.

        Raises:
            DataError: If a finding is an error; it tells the first one.
        """
        errors = [finding for finding in self.findings if finding.severity == "error"]
        if not errors:
            return self
        others = f" ({len(errors) - 1} more: effdet data check {self.annotation_file})" if len(errors) > 1 else ""
        raise DataError(f"{self.annotation_file}: {errors[0]}{others}")

    def has_usable_box(self) -> bool:
        """Return whether any box is no crowd and has an area inside its image."""
        _, is_inside = clip_boxes(self.boxes_xywh, self.sizes[self.image_of_box])
        return bool((is_inside & ~self.is_crowd).any())

    def fingerprint(self) -> dict[str, str]:
        """Return a hash of each part of this data set that training or evaluation depends on.

        Returns:
            ``classes``: names and category ids; ``image ids``; ``images``: names, and sizes in pixels and in bytes of
            their files; ``boxes``: with labels and crowd flags. The order counts, the folder does not. A hash has 32
            hexadecimal digits and is the same on every machine.
        """
        counts = np.diff(self.offsets)
        columns = ((counts, "<i8"), (self.labels, "<i8"), (self.is_crowd, "u1"), (self.boxes_xywh, "<f8"))
        return {
            "classes": _hash([list(self.class_names), list(self.category_ids)]),
            "image ids": _hash(self.image_ids.tolist()),
            "images": _hash([self.names.tolist(), self.sizes.tolist(), self._file_sizes()]),
            "boxes": _hash([_hash(np.ascontiguousarray(column, dtype).tobytes()) for column, dtype in columns]),
        }

    def _file_sizes(self) -> list[int]:
        """Return the bytes of each image file; 0 where there is none."""
        sizes: list[int] = np.maximum(self.file_stamps[:, 0], 0).tolist()
        return sizes


def _is_plain(name: str) -> bool:
    """Whether a file's path is the folder's and this name, without a look at the disk."""
    return name.isascii() and not name.startswith("/") and "\\" not in name and ":" not in name


def _hash(content: Any) -> str:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def clip_boxes(
    boxes_xywh: NDArray[np.float64], sizes: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Clip boxes to their image.

    Args:
        boxes_xywh: (M, 4) x, y, width, height.
        sizes: (2,) or (M, 2) height, width of the image; 0 where it is not known.

    Returns:
        (M, 4) xyxy, and (M,) which of them have an area inside their image.
    """
    limits = np.where(sizes > 0, sizes, np.inf)[..., [1, 0, 1, 0]]  # width, height, width, height
    corners = np.concatenate([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, limits)
    return clipped, (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
