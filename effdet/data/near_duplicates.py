"""Images that look the same: copies, other sizes or qualities of one photo, neighbouring frames of a video."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from effdet.data.dataset import Dataset
from effdet.images.faults import ImageError
from effdet.images.stored import StoredImage
from effdet.images.values import read_values
from effdet.install import hint
from effdet.progress import Report, report_nothing

Likeness = Literal["similar", "exact"]

MAX_DISTANCE = 8  # of 64 bits; copies at half the size, JPEG quality 40 or 15 % brighter differ in 4 or fewer
MAX_DISTANCE_OF_MANY = 3  # what is found for certain among more than COMPARE_ALL_UP_TO images
COMPARE_ALL_UP_TO = 20_000
_THREADS = 4
_EIGHT_BITS = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr")  # modes of Pillow
_BITS = np.array([bin(value).count("1") for value in range(256)], dtype=np.uint8)


def group_images(
    dataset: Dataset, likeness: Likeness = "similar", report: Report = report_nothing
) -> NDArray[np.int64]:
    """Return (I,) the number of the group of each image; images of a group look the same.

    Two images are alike if at most 8 of the 64 bits of their perceptual hashes differ; likeness is passed on, so the
    first and the last frame of a slow video are in one group. Among more than 20,000 images only pairs that differ in
    up to 3 bits are found for certain. A file that cannot be read is alone.

    Args:
        dataset: The images.
        likeness: "similar": as above, which needs the package imagehash; "exact": files with the same bytes.
        report: Called after each image.

    Raises:
        ImportError: If imagehash is needed and missing.
    """
    return group_hashes(hash_images(dataset, likeness, report), likeness)


def hash_images(
    dataset: Dataset,
    likeness: Likeness = "similar",
    report: Report = report_nothing,
    *,
    known: Mapping[str, bytes] | None = None,
) -> list[bytes]:
    """Return the hash of each image, empty where the file cannot be read; arguments as for ``group_images``.

    Images whose hash is ``known``, by name, are not read.
    """
    hash_of = _perceptual_hash() if likeness == "similar" else _file_hash
    known = known or {}
    hashes: list[bytes] = []

    def look(index: int) -> bytes:
        return known.get(dataset.names[index]) or hash_of(dataset.stored(index))

    with ThreadPoolExecutor(_THREADS) as pool:
        for value in pool.map(look, range(len(dataset))):
            hashes.append(value)
            report("comparing images", len(hashes), len(dataset))
    return hashes


def group_hashes(hashes: Sequence[bytes], likeness: Likeness) -> NDArray[np.int64]:
    """Return (I,) the number of the group of each hash; images without a hash are alone."""
    readable = np.flatnonzero([bool(value) for value in hashes])
    unique, numbers = np.unique([hashes[index] for index in readable.tolist()], return_inverse=True)
    group_of_hash = np.arange(len(unique))
    if likeness == "similar" and len(unique):
        table = np.frombuffer(b"".join(hashes[index] for index in readable.tolist()), np.uint8).reshape(-1, 8)
        first = np.unique(numbers.reshape(-1), return_index=True)[1]
        group_of_hash = join_alike(table[first])
    groups = np.arange(len(hashes)) + len(unique)
    groups[readable] = group_of_hash[numbers.reshape(-1)]
    return np.unique(groups, return_inverse=True)[1].reshape(-1).astype(np.int64)


def _perceptual_hash() -> Callable[[StoredImage], bytes]:
    try:
        import imagehash
    except ImportError as error:
        raise ImportError(
            f"images that look the same are found with imagehash: {hint('split')}; --likeness exact needs "
            "no package, and keeps only files with the same bytes together"
        ) from error

    def hash_of(image: StoredImage) -> bytes:
        try:
            return np.packbits(imagehash.phash(_to_compare(image)).hash.reshape(-1)).tobytes()
        except Exception:  # a damaged file is named by the doctor, and before training
            return b""

    return hash_of


def _to_compare(image: StoredImage) -> Image.Image:
    """Return an image that Pillow turns into gray: as it is, or of other than 8-bit values between their ends."""
    with contextlib.suppress(UnidentifiedImageError):
        opened = Image.open(io.BytesIO(image.read_bytes()))
        if opened.mode in _EIGHT_BITS:
            opened.draft("L", (256, 256))  # a JPEG is decoded smaller
            return opened
    values = read_values(image)[1].astype(np.float64).mean(axis=2)
    low, high = values.min(), values.max()
    return Image.fromarray(((values - low) * (255 / max(high - low, 1e-9))).astype(np.uint8))


def _file_hash(image: StoredImage) -> bytes:
    try:
        return hashlib.blake2b(image.read_bytes(), digest_size=16).digest()
    except (ImageError, OSError):
        return b""


def join_alike(hashes: NDArray[np.uint8]) -> NDArray[Any]:
    """Return (N,) the number of the group of each hash, (N, 8) bytes; see ``group_images``."""
    parents = np.arange(len(hashes))
    pairs = _near_pairs(hashes) if len(hashes) <= COMPARE_ALL_UP_TO else _pairs_by_parts(hashes)
    for first, second in pairs:
        _join(parents, first, second)
    return np.array([_root(parents, index) for index in range(len(hashes))], dtype=np.int64)


def _near_pairs(hashes: NDArray[np.uint8]) -> Sequence[tuple[int, int]]:
    pairs: list[tuple[int, int]] = []
    for index in range(len(hashes) - 1):
        distances = _BITS[hashes[index + 1 :] ^ hashes[index]].sum(axis=1)
        pairs += [(index, index + 1 + int(other)) for other in np.flatnonzero(distances <= MAX_DISTANCE)]
    return pairs


def _pairs_by_parts(hashes: NDArray[np.uint8]) -> Sequence[tuple[int, int]]:
    """Compare only hashes that share one of four 16-bit parts: two that differ in up to 3 bits do."""
    pairs: list[tuple[int, int]] = []
    for part in np.ascontiguousarray(hashes).view(np.uint16).T:
        order = np.argsort(part, kind="stable")
        for bucket in np.split(order, np.flatnonzero(np.diff(part[order])) + 1):
            pairs += [(int(bucket[i]), int(bucket[j])) for i, j in _near_pairs(hashes[bucket])]
    return pairs


def _root(parents: NDArray[Any], index: int) -> int:
    while parents[index] != index:
        parents[index] = parents[parents[index]]
        index = int(parents[index])
    return index


def _join(parents: NDArray[Any], first: int, second: int) -> None:
    roots = _root(parents, first), _root(parents, second)
    parents[max(roots)] = min(roots)
