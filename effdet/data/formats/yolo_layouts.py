"""Find the images, labels and class names of a YOLO data set by the layout of a folder."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from effdet.data.files import resolve_name
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.coco_layouts import SPLIT_NAMES
from effdet.data.formats.folders import existing_folders, files_in, list_folder
from effdet.data.formats.interface import SPLITS, Found, Part, Source
from effdet.data.formats.text_files import head, read_text
from effdet.data.formats.values import short
from effdet.data.image_lists import is_image_name, list_images
from effdet.images.file_types import IMAGE_SUFFIXES

_LINE = re.compile(r"\d+(\.0*)?(\s+[-+.\deE]+){4,}\s*$")


def find_yolo(root: Path) -> Found:
    """Return the parts of a YOLO data set: by data.yaml, by folders, or by texts beside images."""
    if root.is_file():
        return _parts_of_yaml(root) if root.suffix.lower() in (".yaml", ".yml", ".data") else {}
    for file in _yaml_files(root):
        if parts := _parts_of_yaml(file):
            return parts
    return _parts_of_folders(root)


def is_data_yaml(path: Path) -> bool:
    """Return whether a YAML file describes a YOLO data set, and is not one of this project's configs."""
    return path.suffix.lower() in (".yaml", ".yml") and path.is_file() and bool(_parts_of_yaml(path))


def _yaml_files(root: Path) -> list[Path]:
    files = files_in(root, ".yaml", ".yml", ".data")
    return sorted(files, key=lambda path: path.stem not in ("data", "dataset"))


def _parts_of_yaml(file: Path) -> Found:
    """Return the parts that a data.yaml names, or none if it is some other file."""
    try:
        content = read_data_yaml(file, FindingList())
    except DataError:
        return {"train": Source(file, format="yolo", part="train")} if file.stem in ("data", "dataset") else {}
    if not {"names", "nc"} & content.keys():
        return {}
    found: Found = {}
    for part, words in SPLIT_NAMES.items():
        key = next((word for word in words if content.get(word)), None)
        if key is not None:
            found[part] = Source(file, format="yolo", part=part, details=str(content[key]))
    return found


def read_data_yaml(file: Path, findings: FindingList) -> dict[str, Any]:
    """Return the content of a data.yaml, or of Darknet's obj.data in the same form.

    Raises:
        DataError: If it is not such a file.
    """
    text = read_text(file, findings)
    if file.suffix.lower() == ".data":
        pairs = dict(line.replace(" ", "").split("=", 1) for line in text.splitlines() if "=" in line)
        names = file.parent / pairs.pop("names", "obj.names").rpartition("/")[2]
        listed = read_text(names, findings).split("\n") if names.is_file() else []
        return {**pairs, "names": [name.strip() for name in listed if name.strip()]}
    try:
        content = _load_yaml(text)
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise DataError(f"{file}: is not valid YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(content, dict):
        raise DataError(f"{file}: must be a map with train, val and names, got {short(content)}")
    return {str(key): value for key, value in content.items()}


@lru_cache(maxsize=8)
def _load_yaml(text: str) -> Any:
    if text.count("&") > 20:  # aliases of aliases would grow without end
        raise ValueError("it has more than 20 anchors")
    return yaml.safe_load(text)


# --- folders without data.yaml -------------------------------------------------------------------------------------


def _parts_of_folders(root: Path) -> Found:
    found: Found = {}
    for part in SPLITS:
        for word in SPLIT_NAMES[part]:
            layouts = ((f"images/{word}", f"labels/{word}"), (f"{word}/images", f"{word}/labels"))
            for images, labels in layouts:
                folders = existing_folders(root, [images])
                if folders and existing_folders(root, [labels]):
                    found.setdefault(part, _of_folder(root, folders[0], part))
            beside = existing_folders(root, [word])
            if beside and _has_labels_beside(beside[0]):
                found.setdefault(part, _of_folder(root, beside[0], part))
    if found:
        return found
    whole = existing_folders(root, ["images"])
    if whole and _has_texts(existing_folders(root, ["labels"])):
        return {"all": _of_folder(root, whole[0], "all")}
    return {"all": _of_folder(root, root, "all")} if _has_labels_beside(root) else {}


def _of_folder(root: Path, images: Path, part: Part) -> Source:
    return Source(root, (images,), format="yolo", part=part, details=str(images))


def _has_texts(folders: tuple[Path, ...]) -> bool:
    return any(files_in(folder, ".txt") for folder in folders)


def _has_labels_beside(folder: Path) -> bool:
    """Return whether a folder holds images and YOLO's text files of the same names."""
    files = list_folder(folder).files
    if ".txt" not in files:
        return False
    stems = {name.rpartition(".")[0] for suffix in IMAGE_SUFFIXES for name in files.get(suffix, ())}
    texts = (folder / name for name in files[".txt"] if name[:-4] in stems)
    begun = (head(path, 1000).splitlines() for _, path in zip(range(20), texts, strict=False))
    lines = [first[0] for first in begun if first]
    return bool(lines) and all(_LINE.match(line) for line in lines)


# --- images and labels ---------------------------------------------------------------------------------------------


def label_files(images: Sequence[Path]) -> list[Path]:
    """Return the label file of each image, whether it exists or not.

    It lies in ``labels`` where the image lies below ``images`` and there is such a folder, else beside the image.
    """
    folder_of = {folder: _label_folder(folder) for folder in {image.parent for image in images}}
    return [folder_of[image.parent] / f"{image.stem}.txt" for image in images]


def _label_folder(images: Path) -> Path:
    parts = images.parts
    for place in (place for place, part in reversed(list(enumerate(parts))) if part.lower() == "images"):
        for word in ("labels", "Labels"):
            folder = Path(*parts[:place], word, *parts[place + 1 :])
            if folder.is_dir():
                return folder
    return images


def image_paths(source: Source, findings: FindingList) -> list[Path]:
    """Return the image files of one part, in the order of its list, or sorted.

    Raises:
        DataError: If a folder or a list of images does not exist.
    """
    if source.folders:  # found beside labels, or named by the user
        return _images_below(source.folders[0])
    content = read_data_yaml(source.annotations, findings)
    words = SPLIT_NAMES["train" if source.part == "all" else source.part]
    given = next((content[word] for word in words if content.get(word)), None)
    entries = given if isinstance(given, list) else [given]
    names = [entry for entry in entries if isinstance(entry, str) and "\0" not in entry]
    if not entries or len(names) < len(entries):
        raise DataError(
            f"{source.annotations}: {source.part} must be a folder, a list of images, or several of them, "
            f"got {short(given)}"
        )
    base = _base_folder(source.annotations, content)
    paths = [path for entry in names for path in _images_of_entry(base, entry, source, findings)]
    return list(dict.fromkeys(paths))


def _base_folder(file: Path, content: dict[str, Any]) -> Path:
    """Return the folder that entries of data.yaml are relative to: ``path`` where it exists, else that of the file."""
    path = content.get("path")
    if isinstance(path, str) and "\0" not in path and (file.parent / Path(path).expanduser()).is_dir():
        return file.parent / Path(path).expanduser()
    return file.parent


def _images_of_entry(base: Path, entry: str, source: Source, findings: FindingList) -> list[Path]:
    entry = entry.replace("\\", "/")
    trimmed = re.sub(r"^(\.\./)+", "", entry)  # Roboflow writes ../train/images for a folder beside the file
    tail = trimmed.lstrip("/").split("/")
    tries = [base / entry, base / trimmed, *(base.joinpath(*tail[place:]) for place in range(1, len(tail)))]
    path = next((path for path in tries if path.is_dir() or path.is_file()), None)
    if path is None:
        raise DataError(f"{source.annotations}: {source.part} names {short(entry)}, which does not exist in {base}")
    if path.is_dir():
        return _images_below(path)
    if is_image_name(path.name):
        return [path]
    lines = [line.strip() for line in read_text(path, findings).splitlines()]
    return [_listed(path, base, line) for line in lines if line and not line.startswith("#")]


def _listed(file: Path, base: Path, line: str) -> Path:
    """Return the image that a line of a list means: relative to the list's folder, or to the data set's."""
    name = line.replace("\\", "/")
    name = name.removeprefix("./")
    tail = name.lstrip("/").split("/")
    folders = dict.fromkeys([file.parent, base])
    shorter = ("/".join(tail[place:]) for place in range(1, len(tail)))
    tries = [name, *(shorter if re.match(r"/|[A-Za-z]:|data/", name) else ())]
    for candidate in tries:
        for folder in folders:
            path = resolve_name(folder, candidate)
            if path.is_file():
                return path
    return base / name


def _images_below(folder: Path) -> list[Path]:
    return [folder / name for name in list_images(folder)]
