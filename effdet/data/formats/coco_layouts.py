"""Find COCO annotation files and their images by the layout of a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from effdet.data.findings import DataError
from effdet.data.formats.folders import existing_folders, files_in, list_folder
from effdet.data.formats.interface import SPLITS, Found, Part, Source, Split
from effdet.data.formats.text_files import kind_of_json

SPLIT_NAMES: dict[Split, tuple[str, ...]] = {  # in any case
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}
DOWNLOAD_COCO = "python tools/data.py download coco2017 --root {root}"

_ROBOFLOW = "_annotations.coco.json"
_PREFIX = r"(?:instances_|lvis_v[01](?:\.\d)?_)?"
_IMAGE_FOLDERS = ("images", "data", ".")
_MAX_SUBFOLDERS = 50  # that are looked at for the images


def find_coco(root: Path) -> Found:
    """Return the COCO annotation files of a folder, or a file itself; see ``effdet.data.formats.find_dataset``."""
    if not root.is_dir():
        return {"all": Source(root)} if root.suffix.lower() == ".json" and kind_of_json(root) == "coco" else {}
    files = _json_files(root)
    found: Found = {}
    for split in SPLITS:
        names = [name for word in SPLIT_NAMES[split] for name in _annotation_names(files, word)]
        names = [name for name in names if kind_of_json(root / name) == "coco"]
        if names:
            found[split] = Source(root / names[0], part=split)
    others = [name for name in files if split_in_name(name) is None and not found]
    if len(others) == 1 == len(files) and kind_of_json(root / others[0]) == "coco":
        found["all"] = Source(root / others[0])
    return found


def _annotation_names(files: Sequence[str], word: str) -> list[str]:
    """Return the annotation files that are named after a split; COCO 2017 first."""
    patterns = (
        rf"annotations/{_PREFIX}{word}2017\.json",
        rf"annotations/{_PREFIX}{word}(?:\d{{4}})?\.json",
        rf"{_PREFIX}{word}\.json",
        rf"{word}/{re.escape(_ROBOFLOW)}",
        rf"{word}/(?:labels|annotations|_?annotations\.coco|instances_default|result)\.json",
    )
    found = [name for pattern in patterns for name in files if re.fullmatch(pattern, name, re.IGNORECASE)]
    return list(dict.fromkeys(found))


def _json_files(root: Path) -> list[str]:
    """Return what may be annotation files below a folder, relative to it."""
    words = {word for names in SPLIT_NAMES.values() for word in names}
    files = [path for path in files_in(root, ".json") if path.name != "splits.json"]
    for name in list_folder(root).folders:
        if name.lower() == "annotations":
            files += files_in(root / name, ".json")
        elif name.lower() in words:
            files += (root / name / file for file in _names_in_split_folders(root / name))
        elif (root / name / _ROBOFLOW).is_file():
            files.append(root / name / _ROBOFLOW)
    return sorted(path.relative_to(root).as_posix() for path in files if path.is_file())


def _names_in_split_folders(folder: Path) -> list[str]:
    known = (_ROBOFLOW, "labels.json", "annotations.json", "annotations.coco.json", "instances_default.json")
    return [name for name in (*known, "result.json") if (folder / name).is_file()]


def files_seen(root: Path) -> list[str]:
    """Return the COCO-like JSON files below a folder, for a message that none of them can be chosen."""
    return [name for name in _json_files(root) if kind_of_json(root / name) == "coco"] if root.is_dir() else []


def split_in_name(name: str) -> Split | None:
    """Return the split that an annotation file or a folder is named after, if any."""
    words = re.split(r"[^a-z]+", name.lower())
    return next((split for split in SPLITS if any(word in words for word in SPLIT_NAMES[split])), None)


def how_to_get_coco(root: Path) -> str:
    """Return the advice to download COCO where a folder is meant to hold COCO 2017, and does not."""
    is_named_so = re.search(r"coco(?:[-_]?2017)?$", root.name, re.IGNORECASE) is not None
    begun = any((root / name).exists() for name in ("train2017", "val2017", "annotations/instances_train2017.json"))
    if not begun and not (is_named_so and (not root.exists() or not any(root.iterdir()))):
        return ""
    return f"; COCO 2017 is fetched by: {DOWNLOAD_COCO.format(root=root)}"


# --- images --------------------------------------------------------------------------------------------------------


def image_folders(file: Path, part: Part) -> tuple[Path, ...]:
    """Return the folders that the images of an annotation file may be in, the likeliest first.

    Raises:
        DataError: If the layout has a folder of images, and it is not there.
    """
    root = file.parent.parent if file.parent.name.lower() == "annotations" else file.parent
    own = re.sub(rf"^{_PREFIX}", "", file.stem, flags=re.IGNORECASE)
    words = dict.fromkeys([own, own.rstrip("0123456789"), *(SPLIT_NAMES[part] if part != "all" else ())])
    names = [name for word in words for name in (word, f"images/{word}")]
    if file.name.lower() == _ROBOFLOW:
        names = [".", "images"]
    folders = existing_folders(root, [*names, *_IMAGE_FOLDERS])
    if root == file.parent:
        return tuple(dict.fromkeys([*folders, *_subfolders(root)]))
    if folders == (root,):
        expected = root / own
        raise DataError(f"image folder {expected} for the annotations in {file} does not exist{how_to_get_coco(root)}")
    return (*folders, file.parent)


def _subfolders(root: Path) -> list[Path]:
    return [root / name for name in list_folder(root).folders[:_MAX_SUBFOLDERS]]


def likely_image_folders(source: Source) -> tuple[Path, ...]:
    """Return the folders that the images of a table or an XML file may be in, the likeliest first."""
    words = SPLIT_NAMES[source.part] if source.part != "all" else ()
    of_part = [
        f"{folder}{word}{tail}" for word in words for folder in ("", "images/") for tail in ("", "/images", "/data")
    ]
    names = [*of_part, *_IMAGE_FOLDERS]
    return tuple(dict.fromkeys(path for home in source.folders_upwards() for path in existing_folders(home, names)))
