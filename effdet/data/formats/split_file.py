"""The file ``splits.json``: which images of a data set that is not divided belong to train, val and test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from effdet.atomic_write import replace_file
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.image_names import is_too_long
from effdet.data.formats.interface import SPLITS
from effdet.data.formats.text_files import read_json

SPLIT_FILE = "splits.json"


def read_split_file(file: Path) -> dict[str, Any]:
    """Return the content of a file that ``effdet data split`` has written.

    Returns:
        ``data``: path of the annotations, relative to the file's folder; ``part``: "all", or "train" where val was
        taken out of it; ``images``: names of the images by part; and how the division was made.

    Raises:
        DataError: If it is no such file.
    """
    content = read_json(file, FindingList(), "JSON written by `effdet data split`")
    data, part, images = (content.get(key) if isinstance(content, dict) else None for key in ("data", "part", "images"))
    is_path = isinstance(data, str) and bool(data) and "\0" not in data and not is_too_long(data)
    is_known = is_path and part in ("all", "train")
    lists = list(images.values()) if isinstance(images, dict) and set(images) <= set(SPLITS) else [None]
    are_names = all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in lists)
    if not is_known or not are_names:
        raise DataError(f"{file}: must be a file that `effdet data split` has written; write it anew")
    return dict(content)


def write_split_file(file: Path, content: Mapping[str, Any]) -> None:
    """Write what ``read_split_file`` returns.

    Raises:
        OSError: If it cannot be written.
    """
    with replace_file(file) as out:
        out.write((json.dumps(content, ensure_ascii=True, indent=1) + "\n").encode())


def select_part(dataset: Dataset, file: Path, part: str) -> Dataset:
    """Return the images of a data set that a split file gives to one of its parts, in the data set's order.

    Images that the file does not name, and names that the data set does not have, become findings.

    Raises:
        DataError: If the file is not readable, or gives none of the images to the part.
    """
    images: dict[str, list[str]] = read_split_file(file)["images"]
    part_of = {name: split for split, names in images.items() for name in names}
    parts = np.array([part_of.get(name, "") for name in dataset.names], dtype="U5")
    findings = FindingList()
    findings.extend(dataset.findings)
    names = dataset.names
    advice = "they are left out; divide the data anew"
    text = f"images are not named in {file.name}"
    findings.add_all("warning", text, np.flatnonzero(parts == "").tolist(), lambda index: names[index], advice)
    known = set(dataset.names.tolist())
    gone = [name for name in images.get(part, ()) if name not in known]
    findings.add_all(
        "warning", f"images that {file.name} names are not in the data set", gone, advice="divide the data anew"
    )
    if not (parts == part).any():
        raise DataError(f"{file}: none of the images of {dataset.annotation_file} belongs to {part}; divide it anew")
    chosen = dataset.without(np.flatnonzero(parts != part).tolist())
    return replace(chosen, findings=findings.as_tuple())
