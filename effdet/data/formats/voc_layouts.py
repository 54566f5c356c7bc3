"""Find the XML files, images and lists of a Pascal VOC data set by the layout of a folder."""

from __future__ import annotations

from pathlib import Path

from effdet.data.findings import DataError
from effdet.data.formats.coco_layouts import SPLIT_NAMES
from effdet.data.formats.folders import existing_folders, files_in, list_folder
from effdet.data.formats.interface import SPLITS, Found, Part, Source
from effdet.data.formats.text_files import kind_of_xml

_ANNOTATIONS = ("Annotations", "labels", "xml", "xmls")
_IMAGES = ("JPEGImages", "images", "imgs")


def find_voc(root: Path) -> Found:
    """Return the parts of a Pascal VOC data set: VOCdevkit, one of its years, or XML files beside or near images."""
    if not root.is_dir():
        return {}
    years = _years(root)
    if len(years) > 1:
        names = " and ".join(path.name for path in years)
        raise DataError(f"{root} holds several data sets, {names}; name one of them, such as {years[0]}")
    home = years[0] if years else root
    if found := _by_image_sets(home):
        return found
    found = {}
    for part in SPLITS:
        for folder in existing_folders(home, SPLIT_NAMES[part]):
            if source := _in_folder(folder, part):
                found.setdefault(part, source)
        for name in (f"{parent}/{word}" for parent in _ANNOTATIONS[:2] for word in SPLIT_NAMES[part]):
            for folder in existing_folders(home, [name]):
                if _has_xml(folder):
                    images = existing_folders(home, [f"{name}/{folder.name}" for name in _IMAGES]) or (folder,)
                    found.setdefault(part, Source(folder, images, format="voc", part=part))
    if found:
        return found
    whole = _in_folder(home, "all")
    return {"all": whole} if whole else {}


def _years(root: Path) -> list[Path]:
    """Return the folders VOC2007, VOC2012 and so on, in a folder or its VOCdevkit."""
    if (root / "Annotations").is_dir():
        return []
    folders = [root, *existing_folders(root, ["VOCdevkit"])]
    names = [(folder, name) for folder in folders for name in list_folder(folder).folders if name.startswith("VOC2")]
    found = [folder / name for folder, name in names if (folder / name / "Annotations").is_dir()]
    return list(dict.fromkeys(found))


def _by_image_sets(home: Path) -> Found:
    lists = existing_folders(home, ["ImageSets/Main", "ImageSets"])
    annotations = existing_folders(home, ["Annotations"])
    images = existing_folders(home, _IMAGES) or annotations
    if not lists or not annotations or not _has_xml(annotations[0]):
        return {}
    files = {path.name.lower(): path for path in files_in(lists[0], ".txt")}
    found: Found = {}
    for part in SPLITS:
        file = next((files[f"{word}.txt"] for word in SPLIT_NAMES[part] if f"{word}.txt" in files), None)
        if file is not None:
            found[part] = Source(annotations[0], images[:1], format="voc", part=part, details=str(file))
    whole = next((files[name] for name in ("trainval.txt", "default.txt") if name in files), None)
    if whole is not None and "train" not in found:
        rest: Part = "train" if found else "all"
        found[rest] = Source(annotations[0], images[:1], format="voc", part=rest, details=str(whole))
    return found


def _in_folder(folder: Path, part: Part) -> Source | None:
    """Return the XML files in a folder with their images: beside them, or in folders of their own."""
    images = existing_folders(folder, _IMAGES) or (folder,)
    for place in (*existing_folders(folder, _ANNOTATIONS), folder):
        if _has_xml(place):
            return Source(place, images[:1], format="voc", part=part)
    return None


def _has_xml(folder: Path) -> bool:
    """Return whether a folder, or one below it, holds XML files of Pascal VOC's form."""
    files = files_in(folder, ".xml")[:20]
    if not files and folder.name.lower() == "annotations":
        files = [path for name in list_folder(folder).folders[:20] for path in files_in(folder / name, ".xml")[:20]]
    return any(kind_of_xml(path) == "voc" for path in files)
