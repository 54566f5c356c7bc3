"""Find missing and corrupt image files before a run, not in its middle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from effdet.data.checked_files import DECODED, UNKNOWN, WHOLE, CheckedFiles
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError
from effdet.data.many_calls import call_for_each
from effdet.images.reading import ImageError
from effdet.images.stored import StoredImage

DECODE_ALL_UP_TO = 2000  # images; larger sets would take minutes
SAMPLE_SIZE = 500  # images of a larger set that are decoded anyway

_START_OF = {"jpeg": b"\xff\xd8\xff", "png": b"\x89PNG\r\n\x1a\n"}
_END_OF = {"jpeg": b"\xff\xd9", "png": b"IEND\xaeB`\x82"}


def drop_unreadable(dataset: Dataset, *, max_fraction: float = 0.1) -> tuple[Dataset, list[str]]:
    """Leave out the images whose files are missing, truncated or corrupt, or do not have the annotated size.

    Up to 2,000 images are all decoded. Of a larger set every file is looked at (it exists, and begins and ends as a
    JPEG or PNG does), and only those that fail this, plus a fixed sample of 500, are decoded; what this misses, the
    loader replaces when it meets it. What was found is remembered: the next time only files that are new, have another
    size or time of change, or were not good are looked at.

    Args:
        dataset: The images.
        max_fraction: The largest part of the images that may be left out, in [0, 1].

    Returns:
        The data set without them, and one "file: reason" for each, in the data set's order.

    Raises:
        DataError: If more than ``max_fraction`` of the images, or all of them, cannot be read (it names the first few),
            or no box is left.
    """
    is_large = len(dataset) > DECODE_ALL_UP_TO
    unreadable = _faults_of_many(dataset) if is_large else _faults(dataset, range(len(dataset)))
    if len(unreadable) > max_fraction * len(dataset) or len(unreadable) == len(dataset):
        raise DataError(_too_many(dataset, list(unreadable.values()), max_fraction))
    if not unreadable:
        return dataset, []
    rest = dataset.without(unreadable)
    if not rest.has_usable_box():
        raise DataError(
            f"{dataset.annotation_file}: no image that can be read has a box; there is nothing to learn or to measure; "
            f"left out: {next(iter(unreadable.values()))}"
        )
    return rest, list(unreadable.values())


def _faults_of_many(dataset: Dataset) -> dict[int, str]:
    """Look at every file that was not looked at before, and decode those that look odd, and a sample."""
    checked = CheckedFiles(dataset)
    unknown = np.flatnonzero(checked.levels == UNKNOWN)
    whole = call_for_each(lambda index: _looks_whole(dataset.stored(index)), unknown.tolist())
    checked.levels[unknown[np.array(whole, dtype=bool)]] = WHOLE
    sample = np.random.default_rng(0).choice(len(dataset), SAMPLE_SIZE, replace=False)
    suspicious = np.flatnonzero(checked.levels == UNKNOWN)
    decoded = np.union1d(suspicious, sample[checked.levels[sample] < DECODED])
    unreadable = _faults(dataset, decoded.tolist())
    checked.levels[decoded] = DECODED
    checked.levels[list(unreadable)] = UNKNOWN
    checked.remember()
    return unreadable


def _faults(dataset: Dataset, indices: Sequence[int]) -> dict[int, str]:
    """Decode images, and return why some of them cannot be read, by their number."""
    faults = call_for_each(lambda index: _fault(dataset, index), indices)
    return {index: fault for index, fault in zip(indices, faults, strict=True) if fault}


def _looks_whole(image: StoredImage) -> bool:
    """Return whether a file begins and ends as a JPEG or PNG does; False is only a suspicion."""
    if image.address is not None:  # each look would be a request, and the listing told that it is there
        return image.num_bytes() > 0
    try:
        start, end = image.read_ends(8)
    except (ImageError, OSError):
        return False
    return any(start.startswith(_START_OF[kind]) and end.endswith(_END_OF[kind]) for kind in _START_OF)


def _fault(dataset: Dataset, index: int) -> str:
    """Return why an image cannot be read, beginning with its file; empty if it can."""
    try:
        dataset.read(index)
    except (ImageError, OSError) as error:
        return str(error)
    return ""


def _too_many(dataset: Dataset, faults: list[str], max_fraction: float) -> str:
    more = f"; and {len(faults) - 5} more" if len(faults) > 5 else ""
    return (
        f"{len(faults)} of the {len(dataset)} images of {dataset.annotation_file} cannot be read, more than the "
        f"{max_fraction:.0%} that may be left out: {'; '.join(faults[:5])}{more}"
    )
