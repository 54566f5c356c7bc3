"""Columns of large data sets, kept from one start to the next.

They are used as long as every file and folder that the reader looked at has the same size, time and number. A file of
the cache is written whole or not at all, and its name depends on what it was made of. So any number of runs may start
together.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from effdet.cache import cache_folder
from effdet.data.array_file import open_arrays, write_arrays
from effdet.data.dataset import Dataset
from effdet.data.dependencies import Noted, Stamp, are_settled, are_unchanged, recording, stamp, to_arrays
from effdet.data.findings import Finding
from effdet.data.text_column import TextColumn

LEAST_ROWS = 100_000  # images and boxes of a data set that is kept; smaller ones are read in a moment
_IMAGES = "images"  # name of the stamps of image files, where the reader opened these
_KEPT = 7 * 24 * 3600  # seconds that what is no longer up to date is kept, as runs may still map it

log = logging.getLogger(__name__)


def read_cached(identity: Any, read: Callable[[], Dataset]) -> Dataset:
    """Return what ``read`` returns, from the cache where nothing has changed.

    Args:
        identity: A value whose ``repr`` says which data set it is.
        read: Reads it; notes every file and folder that it looks at by ``effdet.data.dependencies.note``.
    """
    folder = cache_folder() / "datasets"
    key = hashlib.blake2b(repr((_layout(), _readers(), identity)).encode(), digest_size=12).hexdigest()
    looked_at = open_arrays(folder / f"{key}.files")
    if looked_at is not None:
        paths, stamps = _texts(looked_at[1], "paths"), looked_at[1]["stamps"]
        found = open_arrays(folder / _file_name(key, stamps))
        if found is not None and are_unchanged(paths, stamps):
            dataset = _to_dataset(*found)
            images = found[1].get(_IMAGES)
            if images is None or np.array_equal(images, dataset.file_stamps):
                return dataset
    with recording() as noted:
        dataset = read()
    if len(dataset) + len(dataset.labels) >= LEAST_ROWS and are_settled(noted.stamps):
        dataset = _keep(dataset, folder, key, noted)
    return dataset


def _layout() -> list[str]:
    return [field.name for field in fields(Dataset)]


@functools.cache
def _readers() -> list[Stamp]:
    """Return the stamps of the files that read data sets: another version may read differently."""
    here = Path(__file__).parent
    return [stamp(path) for path in sorted([*here.glob("*.py"), *here.glob("formats/*.py")])]


def _file_name(key: str, stamps: Any) -> str:
    digest = hashlib.blake2b(np.ascontiguousarray(stamps).tobytes(), digest_size=12).hexdigest()
    return f"{key}-{digest}.columns"


def _keep(dataset: Dataset, folder: Path, key: str, noted: Noted) -> Dataset:
    """Write a data set, and return it as it will be read; the same one where it cannot be written."""
    paths, stamps = to_arrays(noted.stamps)
    file = folder / _file_name(key, stamps)
    try:
        content, arrays = _from_dataset(dataset)
        write_arrays(file, content, {**arrays, _IMAGES: dataset.file_stamps} if noted.images else arrays)
        write_arrays(folder / f"{key}.files", None, {"paths": paths.blob, "paths:at": paths.offsets, "stamps": stamps})
        for old in folder.glob(f"{key}-*.columns"):
            if old != file and time.time() - old.stat().st_mtime > _KEPT:
                old.unlink(missing_ok=True)
    except OSError as error:
        log.info("%s is read anew at each start, as its columns cannot be kept: %s", dataset.annotation_file, error)
        return dataset
    found = open_arrays(file)
    return dataset if found is None else _to_dataset(*found)


def _from_dataset(dataset: Dataset) -> tuple[dict[str, Any], dict[str, Any]]:
    content: dict[str, Any] = {}
    arrays: dict[str, Any] = {}
    for name in _layout():
        value = getattr(dataset, name)
        if isinstance(value, np.ndarray):
            arrays[name] = value
        elif isinstance(value, TextColumn):
            arrays[name], arrays[f"{name}:at"] = value.blob, value.offsets
        else:
            content[name] = value
    content["folder"], content["annotation_file"] = str(dataset.folder), str(dataset.annotation_file)
    content["findings"] = [asdict(finding) for finding in dataset.findings]
    return content, arrays


def _to_dataset(content: dict[str, Any], arrays: dict[str, Any]) -> Dataset:
    findings = [Finding(**{**finding, "examples": tuple(finding["examples"])}) for finding in content["findings"]]
    names = [name for name in arrays if name in _layout()]
    columns = {name: _texts(arrays, name) if f"{name}:at" in arrays else arrays[name] for name in names}
    values: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
    }
    values |= {name: Path(content[name]) for name in ("folder", "annotation_file")}
    return Dataset(**{**values, **columns, "findings": tuple(findings)})


def _texts(arrays: dict[str, Any], name: str) -> TextColumn:
    return TextColumn(arrays[name], arrays[f"{name}:at"])
