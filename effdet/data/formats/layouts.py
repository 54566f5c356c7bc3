"""Find the annotation file and the images of a split by the layout of a folder."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias

from effdet.data.findings import DataError

Split: TypeAlias = Literal["train", "val", "test"]

SPLITS: tuple[Split, ...] = ("train", "val", "test")
SPLIT_NAMES: dict[Split, tuple[str, ...]] = {  # in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
DOWNLOAD_COCO = "python tools/data.py download coco2017 --root {root}"

_ROBOFLOW = "_annotations.coco.json"
_PREFIX = r"(?:instances_|lvis_v[01](?:\.\d)?_)?"


class Files(NamedTuple):
    """Where a split is."""

    annotations: Path
    folders: tuple[Path, ...]  # candidates for the image folder; the names in the annotations tell which one it is


def find_files(
    root: str | Path, split: Split, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> Files:
    """Return the annotation file of a split and the folders that its images may be in, without opening them.

    The layouts and the arguments are those of ``find_dataset``.

    Raises:
        DataError: If ``root`` has no known layout, or a file or folder is not there.
    """
    root = Path(root).expanduser()
    base = root.parent if _is_file(root) else root
    file = _find_annotations(root, split) if annotations is None else base / Path(annotations).expanduser()
    if not file.is_file():
        raise DataError(f"annotation file {file} does not exist{_how_to_get(root)}")
    if images is None:
        return Files(file, _image_folders(file, split))
    folder = base / Path(images).expanduser()
    if not folder.is_dir():
        raise DataError(f"image folder {folder} for the annotations in {file} does not exist")
    return Files(file, (folder, folder.parent))


# --- annotations ---------------------------------------------------------------------------------------------------


def _find_annotations(root: Path, split: Split) -> Path:
    if _is_file(root):
        return root
    if not root.is_dir():
        raise DataError(
            f"data folder {root} {'is no folder' if root.exists() else 'does not exist'}{_how_to_get(root)}"
        )
    names = [name for word in SPLIT_NAMES[split] for name in _annotation_names(root, word)]
    if names:
        return root / names[0]
    raise DataError(_nothing_found(root, split))


def _is_file(root: Path) -> bool:
    return root.suffix.lower() == ".json" and not root.is_dir()


def _annotation_names(root: Path, word: str) -> list[str]:
    """Return the annotation files that are named after a split, relative to the root; COCO 2017 first."""
    patterns = (
        rf"annotations/{_PREFIX}{word}2017\.json",
        rf"annotations/{_PREFIX}{word}(?:\d{{4}})?\.json",
        rf"{_PREFIX}{word}\.json",
        rf"{word}/{re.escape(_ROBOFLOW)}",
    )
    files = _json_files(root)
    found = [name for pattern in patterns for name in files if re.fullmatch(pattern, name, re.IGNORECASE)]
    return list(dict.fromkeys(found))


def _json_files(root: Path) -> list[str]:
    """Return what may be annotation files below a folder, relative to it."""
    files = [path for path in root.iterdir() if path.suffix.lower() == ".json"]
    for folder in (path for path in root.iterdir() if path.is_dir()):
        if folder.name.lower() == "annotations":
            files += folder.glob("*.json")
        elif (folder / _ROBOFLOW).is_file():
            files.append(folder / _ROBOFLOW)
    return sorted(path.relative_to(root).as_posix() for path in files if path.is_file())


def _nothing_found(root: Path, split: Split) -> str:
    names = f"annotations/instances_{split}.json, {split}.json, {SPLIT_NAMES[split][-1]}/{_ROBOFLOW}"
    if split == "val":
        names = f"annotations/instances_val.json, val.json, valid/{_ROBOFLOW}"
    elif split == "train":
        names = f"annotations/instances_train.json, train.json, train/{_ROBOFLOW}"
    files = _json_files(root)
    others = [name for name in files if _split_of(name) is None]
    if len(files) == len(others) == 1:
        return (
            f"{root} has one annotation file, {others[0]}, and no parts for training and validation; "
            "divide it into train.json and val.json"
        )
    seen = f"; there are {', '.join(files[:5])}" if files else ""
    key = f"data.{split}_annotations" if split != "test" else "the annotation file"
    advice = f"; rename one of them, or name it by {key}" if files else _how_to_get(root)
    return f"no {split} annotations in {root}: looked for {names}{seen}{advice}"


def _split_of(name: str) -> Split | None:
    """Return the split that an annotation file is named after."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split in SPLITS if any(word in words for word in SPLIT_NAMES[split])), None)


def _how_to_get(root: Path) -> str:
    """Return the advice to download COCO where a folder is meant to hold COCO 2017, and does not."""
    is_named_so = re.search(r"coco(?:[-_]?2017)?$", root.name, re.IGNORECASE) is not None
    begun = any((root / name).exists() for name in ("train2017", "val2017", "annotations/instances_train2017.json"))
    if not begun and not (is_named_so and (not root.exists() or not any(root.iterdir()))):
        return ""
    return f"; COCO 2017 is fetched by: {DOWNLOAD_COCO.format(root=root)}"


# --- images --------------------------------------------------------------------------------------------------------


def _image_folders(file: Path, split: Split) -> tuple[Path, ...]:
    """Return the folders that the images of an annotation file may be in, the likeliest first.

    Raises:
        DataError: If the layout has a folder of images, and it is not there.
    """
    root = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    own = re.sub(rf"^{_PREFIX}", "", file.stem, flags=re.IGNORECASE)
    words = dict.fromkeys([own, own.rstrip("0123456789"), *SPLIT_NAMES[split]])
    names = [name for word in words for name in (word, f"images/{word}")]
    if file.name.lower() == _ROBOFLOW:
        names = [".", "images"]
    folders = _existing(root, [*names, "images", "."])
    if root != file.parent:
        if folders == (root,):
            expected = root / own
            raise DataError(f"image folder {expected} for the annotations in {file} does not exist{_how_to_get(root)}")
        folders += (file.parent,)
    return folders


def _existing(root: Path, names: Iterable[str]) -> tuple[Path, ...]:
    """Return the folders below ``root`` with these names, in any case."""
    found = (_enter(root, name.split("/")) for name in names)
    return tuple(dict.fromkeys(folder for folder in found if folder is not None))


def _enter(folder: Path, parts: Sequence[str]) -> Path | None:
    for part in parts:
        if part == ".":
            continue
        exact = folder / part
        matches = [path for path in folder.iterdir() if path.name.lower() == part.lower() and path.is_dir()]
        if not matches:
            return None
        folder = exact if exact in matches else matches[0]
    return folder
