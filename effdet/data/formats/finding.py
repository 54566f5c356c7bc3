"""Find the format and the parts of a data set by looking at its folder."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from effdet.data.findings import DataError, Finding
from effdet.data.formats.coco_layouts import files_seen, how_to_get_coco
from effdet.data.formats.folders import remember_folders
from effdet.data.formats.interface import SPLITS, Found, Part, Source, Split
from effdet.data.formats.split_file import SPLIT_FILE, read_split_file
from effdet.data.formats.table import FORMATS
from effdet.data.remote import to_local
from effdet.images.faults import printable

_LOOKED_FOR: dict[str, str] = {
    "train": "annotations/instances_train.json, train.json, train/_annotations.coco.json",
    "val": "annotations/instances_val.json, val.json, valid/_annotations.coco.json",
    "test": "annotations/instances_test.json, test.json, test/_annotations.coco.json",
}


@dataclass(frozen=True)
class FoundData:
    """The parts of a data set, and what is to be said about how they were found."""

    root: Path
    parts: Found
    findings: tuple[Finding, ...] = ()

    def source(self, split: Split) -> Source:
        """Return where one part is. A file that is named itself, and is not divided, serves for any.

        Raises:
            DataError: If the data set has no such part; the message says how to get one.
        """
        source = self.parts.get(split) or (None if self.root.is_dir() else self.parts.get("all"))
        if source is None:
            raise DataError(_no_such_part(self, split))
        return source


def find_data(root: str | Path) -> FoundData:
    """Return the parts of the data set in a folder or a file, without reading it.

    Raises:
        DataError: If there is nothing there, or a file is in no known format.
    """
    with remember_folders():
        return _find_data(to_local(root))


def _find_data(root: Path) -> FoundData:
    if not root.exists():
        raise DataError(f"data folder {root} does not exist{how_to_get_coco(root)}")
    if not root.is_dir() and not root.is_file():
        raise DataError(f"data folder {root} must be a folder or a file, but it is a pipe, a socket or a device")
    folder = root if root.is_dir() else root.parent
    if (folder / SPLIT_FILE).is_file() and root != folder / SPLIT_FILE:
        divided = _find_divided(folder / SPLIT_FILE)
        if root == folder or divided["train"].annotations.resolve() == root.resolve():
            return FoundData(root, divided)
    return _choose(root, _find_all(root))


def _find_all(root: Path) -> dict[str, Found]:
    home = root if root.is_dir() else root.parent
    found: dict[str, Found] = {}
    for name, format in FORMATS.items():
        if parts := format.find(root):
            found[name] = {part: replace(source, root=home) for part, source in parts.items()}
    if not found and not root.is_dir():
        if root.suffix.lower() == ".json":  # which says what is wrong with it
            return {"coco": {"all": Source(root)}}
        known = "COCO or Label Studio JSON, YOLO's data.yaml, CVAT's XML, or a CSV table of boxes"
        raise DataError(f"data folder {root} is no folder, and no file of a known format: {known}")
    return found


def _choose(root: Path, found: dict[str, Found]) -> FoundData:
    if not found:
        return FoundData(root, {})
    num_splits = {name: len({"train", "val", "test"} & parts.keys()) for name, parts in found.items()}
    best = max(found, key=lambda name: num_splits[name])  # the first of equals
    others = [name for name in found if name != best]
    if not others:
        return FoundData(root, found[best])
    taken, left = _first_source(found[best]), _first_source(found[others[0]])
    is_better = num_splits[best] > num_splits[others[0]]
    why = "it has more of the parts train, val and test" if is_better else "that format comes first"
    text = (
        f"{root} holds annotations in {len(found)} formats: {FORMATS[best].title} ({_relative(taken, root)}) is read, "
        f"as {why}, and {FORMATS[others[0]].title} ({_relative(left, root)}) is not"
    )
    return FoundData(
        root, found[best], (Finding("warning", text, "name the file that is meant, or move the other one"),)
    )


def _first_source(parts: Found) -> Source:
    return next(iter(parts.values()))


def _relative(source: Source, root: Path) -> str:
    path = source.annotations
    return (path.relative_to(root) if path.is_relative_to(root) else path).as_posix()


def _find_divided(file: Path) -> Found:
    """Return the parts that a file of ``effdet data split`` makes of a data set."""
    content = read_split_file(file)
    data = file.parent / content["data"]
    if not data.exists():
        where = printable(str(data))
        raise DataError(f"{file}: {where}, which it divides, does not exist; divide the data anew")
    parts = _choose(data, _find_all(data)).parts
    if content["part"] not in parts:
        part = printable(str(content["part"]))
        raise DataError(f"{file}: {printable(str(data))} has no part {part}, which it divides; divide the data anew")
    whole = parts[content["part"]]
    divided: Found = {
        split: replace(whole, names_file=file, part=split) for split in SPLITS if split in content["images"]
    }
    kept: Found = {part: source for part, source in parts.items() if part not in ("all", *divided)}
    return {**kept, **divided}


def find_named_file(file: Path, part: Part) -> Source:
    """Return the source that an annotation file is, where the user names it.

    Raises:
        DataError: If there is no such file.
    """
    if not file.is_file():
        raise DataError(f"annotation file {file} does not exist")
    parts = _find_all(file)
    found = _choose(file, parts).parts
    source = found.get(part) or _first_source(found)
    return replace(source, part=part)


# --- messages ------------------------------------------------------------------------------------------------------


def split_command(root: Path) -> str:
    """Return the command that divides a data set."""
    return f"effdet data split {_quoted(root)} --val 0.2"


def _quoted(root: Path) -> str:
    text = str(root)
    return f'"{text}"' if any(letter.isspace() for letter in text) else text


def _no_such_part(found: FoundData, split: Split) -> str:
    root = found.root
    if "all" in found.parts:
        source = found.parts["all"]
        is_file = source.annotations.is_file()
        what = (
            f"has one annotation file, {_relative(source, root)}," if is_file else f"holds {_title(source)} annotations"
        )
        return f"{root} {what} and no parts for training and validation; divide it with: {split_command(root)}"
    if found.parts:
        there = " and ".join(found.parts)
        advice = f"; divide train with: {split_command(root)}" if split == "val" and "train" in found.parts else ""
        first = _first_source(found.parts)
        return f"no {split} annotations in {root}: it has {there} ({_title(first)}){advice}"
    seen = files_seen(root)
    listed = f"; there are {', '.join(seen[:5])}" if seen else ""
    advice = f"; rename one of them, or name it by data.{split}_annotations" if seen else how_to_get_coco(root)
    others = ", ".join(format.title for format in list(FORMATS.values())[1:])
    return f"no {split} annotations in {root}: looked for {_LOOKED_FOR[split]}, and for {others}{listed}{advice}"


def _title(source: Source) -> str:
    return FORMATS[source.format].title
