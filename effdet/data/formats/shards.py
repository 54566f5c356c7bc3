"""Images and annotations in tar archives, in WebDataset's layout: ``KEY.jpg`` and ``KEY.json`` one after the other.

``--to shards`` also writes a COCO file beside the archives. It is the index: it says in which archive an image is, and
where, so any image can be read at any time. Archives without such a file are searched once.
"""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from effdet.data.archives import SUFFIX, Member, list_members
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.coco import CocoLists, join_lists
from effdet.data.formats.coco_layouts import SPLIT_NAMES, find_coco, split_in_name
from effdet.data.formats.coco_writing import to_coco
from effdet.data.formats.folders import existing_folders, files_in
from effdet.data.formats.interface import Format, Found, Part, Source
from effdet.data.image_copies import ImageCopies, write_json_file
from effdet.images.faults import ImageError
from effdet.images.file_types import IMAGE_SUFFIXES
from effdet.images.stored import StoredImage

Row = dict[str, Any]

SHARD_SIZE = 1 << 28  # bytes of images and annotations in an archive
_LARGEST_JSON = 1 << 24  # bytes of the annotations of one image


# --- reading -------------------------------------------------------------------------------------------------------


def find_shards(root: Path) -> Found:
    """Return the archives of each part, by their names or those of their folders; none beside a COCO file."""
    if not root.is_dir():
        return {"all": Source(root, format="shards", details=(root,))} if root.suffix == SUFFIX else {}
    words = [word for names in SPLIT_NAMES.values() for word in names]
    files = [path for folder in existing_folders(root, [".", "shards", *words]) for path in files_in(folder, SUFFIX)]
    if not files or find_coco(root):
        return {}
    parts: dict[Part, list[Path]] = {}
    for path in files:
        parts.setdefault(split_in_name(path.relative_to(root).as_posix()) or "all", []).append(path)
    return {part: Source(root, format="shards", part=part, details=tuple(paths)) for part, paths in parts.items()}


def read_shards(source: Source) -> Dataset:
    """Read the annotations in tar archives; images are found, but not opened.

    Raises:
        DataError: If an archive cannot be read, or holds no image.
    """
    folder = source.annotations if source.annotations.is_dir() else source.annotations.parent
    findings = FindingList()
    lists = CocoLists([], [[]], [])
    names: dict[int, str] = {}
    for archive in source.details:
        name = archive.relative_to(folder).as_posix()
        for image, content in _samples(archive):
            _add(lists, names, f"{name}/{image.name}", image, content, findings)
    if not lists.images:
        raise DataError(f"{source.annotations}: none of its {len(source.details)} archives holds an image")
    rows = [{"id": category_id, "name": text} for category_id, text in sorted(names.items())]
    sizes = [
        {"file_name": path.relative_to(folder).as_posix(), "bytes": path.stat().st_size} for path in source.details
    ]
    return join_lists(lists._replace(categories=rows, archives=sizes), source.annotations, [folder], findings)


def _samples(archive: Path) -> Iterator[tuple[Member, bytes | None]]:
    """Yield the images of an archive, each with the JSON of the same key."""
    images: dict[str, Member] = {}
    texts: dict[str, bytes] = {}
    for member in list_members(archive):
        folder, base = posixpath.split(member.name)
        key, _, suffix = base.partition(".")
        key = f"{folder}/{key}"
        if f".{suffix.lower()}" in IMAGE_SUFFIXES:
            images[key] = member
        elif suffix.lower() == "json" and member.length <= _LARGEST_JSON:
            texts[key] = StoredImage(archive, f"{archive}/{member.name}", member.start, member.length).read_bytes()
        if key in images and key in texts:
            yield images.pop(key), texts.pop(key)
    yield from ((member, None) for member in images.values())


def _add(
    lists: CocoLists, names: dict[int, str], name: str, image: Member, text: bytes | None, found: FindingList
) -> None:
    """Add an image and its boxes to the rows of a COCO file."""
    try:
        content = json.loads(text) if text is not None else {}
    except (ValueError, RecursionError):
        content = None
    annotations = content.get("annotations", []) if isinstance(content, dict) else None
    if text is None:
        found.add("note", "images in archives have no JSON", name, "they are background")
    if not isinstance(content, dict) or not isinstance(annotations, list):
        found.add("error", "JSON in archives has no list of annotations", name, "write annotations: [...] in it")
        content, annotations = {}, []
    number = len(lists.images) + 1
    image_id = content.get("image_id", number)
    row = {key: content[key] for key in ("width", "height") if key in content}
    lists.images.append({"id": image_id, "file_name": name, "start": image.start, "length": image.length, **row})
    rows = lists.annotations[0]
    assert isinstance(rows, list)
    for annotation in annotations:
        if isinstance(annotation, dict):
            rows.append({"id": len(rows) + 1, **annotation, "image_id": image_id})
            category_id = annotation.get("category_id")
            if type(category_id) is int:
                names.setdefault(category_id, str(annotation.get("category", category_id)))
        else:
            found.add(
                "error", "annotations in archives are no objects", name, "write objects with bbox and category_id"
            )


# --- writing -------------------------------------------------------------------------------------------------------


def write_shards(parts: Mapping[Part, Dataset], copies: ImageCopies) -> None:
    """Write ``train-000000.tar`` and so on, and ``train.json``, COCO's file and the index, for each part."""
    for part, dataset in parts.items():
        content = to_coco(dataset, dataset.names)
        boxes: dict[int | str, list[Row]] = {}
        names = dict(zip(dataset.category_ids, dataset.class_names, strict=True))
        for row in content["annotations"]:
            kept = {key: value for key, value in row.items() if key != "image_id"}
            boxes.setdefault(row["image_id"], []).append({**kept, "category": names[row["category_id"]]})
        with _Shards(copies, "data" if part == "all" else part) as shards:
            for index, row in enumerate(content["images"]):
                shards.add(dataset.stored(index), row, boxes.get(row["id"], []))
        file = copies.folder / f"{'annotations' if part == 'all' else part}.json"
        write_json_file(file, {**content, "archives": shards.archives})


class _Shards:
    """The archives of one part, begun anew when one is full."""

    def __init__(self, copies: ImageCopies, prefix: str) -> None:
        self.copies, self.prefix = copies, prefix
        self.archives: list[Row] = []
        self._count = 0
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> _Shards:
        return self

    def __exit__(self, *_: object) -> None:
        self._close()

    def add(self, image: StoredImage, row: Row, annotations: list[Row]) -> None:
        """Write an image and its annotations, and change the row of the image to say where it is."""
        try:
            data = image.read_bytes()
        except (ImageError, OSError):
            self.copies.counts["missing"] += 1
            return
        if self._tar is None or self._tar.offset > SHARD_SIZE:
            self._begin()
        assert self._tar is not None
        key, suffix = f"{self._count:09}", posixpath.splitext(row["file_name"])[1].lower()
        self._count += 1
        name = f"{key}{suffix if suffix in IMAGE_SUFFIXES else '.jpg'}"
        content = {"image_id": row["id"], "file_name": row["file_name"]}
        content |= {side: row[side] for side in ("width", "height")} | {"annotations": annotations}
        start = self._write(name, data)
        self._write(f"{key}.json", json.dumps(content, ensure_ascii=False).encode())
        row |= {"original_name": row["file_name"], "file_name": f"{self.archives[-1]['file_name']}/{name}"}
        row |= {"start": start, "length": len(data)}
        self.copies.counts["copied"] += 1

    def _write(self, name: str, data: bytes) -> int:
        """Write a member, the same bytes at any time, and return where its content begins."""
        assert self._tar is not None
        entry = tarfile.TarInfo(name)
        entry.size = len(data)
        self._tar.addfile(entry, io.BytesIO(data))
        self._tar.members.clear()  # type: ignore[attr-defined]
        return self._tar.offset - -(-len(data) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE

    def _begin(self) -> None:
        self._close()
        name = f"{self.prefix}-{len(self.archives):06}{SUFFIX}"
        self._tar = tarfile.open(self.copies.folder / name, "w")  # noqa: SIM115 - closed when it is full
        self.archives.append({"file_name": name})

    def _close(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._tar = None
            self.archives[-1]["bytes"] = (self.copies.folder / self.archives[-1]["file_name"]).stat().st_size


SHARDS = Format(
    name="shards",
    title="tar archives in WebDataset's layout",
    find=find_shards,
    read=read_shards,
    write=write_shards,
    cannot_hold="nothing but masks is lost; images are renamed",
)
