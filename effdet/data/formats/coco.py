"""Read COCO annotations as annotation tools really write them.

This is the only reader of COCO ground truth. It never stops at the first fault: what is wrong with a file becomes the
data set's findings. The doctor lists them, training raises on errors, and evaluation uses the same columns.

Category ids become contiguous labels, ordered by id; ``Dataset.category_ids`` leads back.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.archives import NO_SPAN, archive_sizes
from effdet.data.dataset import Dataset
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.boxes import read_boxes
from effdet.data.formats.coco_layouts import find_coco, image_folders
from effdet.data.formats.coco_writing import write_coco
from effdet.data.formats.columns import Columns, to_dataset
from effdet.data.formats.interface import Format, Source
from effdet.data.formats.json_pieces import NotInPiecesError, read_in_pieces
from effdet.data.formats.plain_boxes import PlainBoxes, parse_annotations, parse_rows
from effdet.data.formats.text_files import read_json
from effdet.data.formats.values import identifier, is_encodable, short, side, whole_number
from effdet.data.text_column import TextColumn

Row = dict[str, Any]

_KEYS = ("images", "annotations", "categories")
LARGE = 1 << 26  # bytes of a file from which on it is read in pieces


def _read_source(source: Source) -> Dataset:
    folders = source.folders or image_folders(source.annotations, source.part)
    return read_coco(source.annotations, folders, keep_parent=source.keep_parent)


def read_coco(
    annotation_file: str | Path, folders: str | Path | Sequence[Path], *, keep_parent: bool = False
) -> Dataset:
    """Read a COCO annotation file. The images are not opened, but for the size of those that the file gives none of.

    ``iscrowd`` and ``area`` may be missing; so may ``bbox`` where there is a ``segmentation``, whose enclosing box it
    becomes. Numbers may be written as text. See ``Dataset.findings`` for what is wrong with the file.

    Args:
        annotation_file: JSON with ``images``, ``annotations`` and ``categories``; ids may start anywhere, have gaps,
            and be texts.
        folders: The folder that each ``file_name`` is relative to; of several, the one that holds the images.
        keep_parent: A category without boxes that is the supercategory of all others, such as Roboflow writes, is a
            class, too.

    Raises:
        DataError: If the file is not such JSON.
    """
    file = Path(annotation_file)
    folders = [Path(folders)] if isinstance(folders, str | Path) else folders
    findings = FindingList()
    lists = _read_large(file)
    if lists is None:
        content = read_json(file, findings, "COCO JSON")
        return parse_coco(content, file, folders, findings, keep_parent=keep_parent)
    return join_lists(lists, file, folders, findings, keep_parent=keep_parent)


def parse_coco(
    content: Any,
    file: Path,
    folders: Sequence[Path] = (),
    findings: FindingList | None = None,
    *,
    keep_parent: bool = False,
) -> Dataset:
    """Return the data set in the content of a COCO annotation file; see ``read_coco``.

    Args:
        content: What the JSON held. It stays as it is.
        file: What messages call it.
        folders: As for ``read_coco``; none: the images cannot be read, need no names, and sizes that are not given stay
            unknown. To score results this is enough.
        findings: What reading the file has found so far.
        keep_parent: As for ``read_coco``.

    Raises:
        DataError: If it is not COCO ground truth.
    """
    findings = FindingList() if findings is None else findings
    images, annotations, categories = (_objects(content, key, file, findings) for key in _KEYS)
    lists = CocoLists(images, [annotations], categories, content.get("archives"))
    return join_lists(lists, file, folders, findings, keep_parent=keep_parent)


def join_lists(
    lists: CocoLists, file: Path, folders: Sequence[Path], findings: FindingList, *, keep_parent: bool = False
) -> Dataset:
    """Return the data set in the lists of a COCO file; arguments as for ``parse_coco``. The annotations are used up."""
    class_names = _read_categories(lists.categories, lists.annotations, findings, keep_parent=keep_parent)
    image_of, names, sizes, spans = _read_images(lists.images, findings, need_files=bool(folders))
    image_ids = _id_column(list(image_of))
    lists.images.clear()
    label_of = {category_id: label for label, category_id in enumerate(class_names)}
    boxes = read_boxes(lists.annotations, image_of, label_of, findings)
    lists.annotations.clear()
    del image_of
    return to_dataset(
        Columns(
            file=file,
            folders=folders,
            names=names,
            images=boxes.images,
            boxes=boxes.boxes,
            labels=boxes.labels,
            class_names=list(class_names.values()),
            category_ids=list(class_names),
            image_ids=image_ids,
            sizes=sizes,
            spans=spans,
            archive_sizes=archive_sizes(lists.archives),
            is_crowd=boxes.is_crowd,
            areas=boxes.areas,
            annotation_ids=boxes.ids,
            findings=findings,
        )
    )


# --- the file ------------------------------------------------------------------------------------------------------


class CocoLists(NamedTuple):
    """The three lists of a COCO file."""

    images: list[Row]
    annotations: list[PlainBoxes | list[Row]]  # in pieces
    categories: list[Row]
    archives: Any = None  # the bytes of each archive that images are in


def _read_large(file: Path) -> CocoLists | None:
    """Return the lists of a large file, its boxes as arrays where possible; None if it must be read as a whole."""
    try:
        if not file.is_file() or file.stat().st_size < LARGE:
            return None
        found: dict[str, list[Any]] = {key: [] for key in _KEYS}
        keys = set()
        found["archives"] = []
        parsers = dict.fromkeys(("images", "categories", "archives"), parse_rows)
        for key, piece in read_in_pieces(file, {**parsers, "annotations": parse_annotations}):
            keys.add(key)
            found[key].append(piece)
    except (NotInPiecesError, OSError):
        return None
    images, categories, archives = (list(itertools.chain.from_iterable(found[key])) for key in parsers)
    return CocoLists(images, found["annotations"], categories, archives) if keys >= set(_KEYS) else None


def _objects(content: Any, key: str, file: Path, findings: FindingList) -> list[Row]:
    """Return the objects in one of the three lists."""
    rows = content.get(key) if isinstance(content, dict) else None
    if not isinstance(rows, list):
        if not isinstance(content, dict):
            fault = f"it holds {_type_in_words(content)}"
        else:
            fault = f"'{key}' is {_type_in_words(rows) if key in content else 'not there'}"
        raise DataError(f"{file}: must be COCO JSON with the lists images, annotations and categories; {fault}")
    for place, row in enumerate(rows):
        if not isinstance(row, dict):
            example = f"{key}[{place}] is {_type_in_words(row)}"
            findings.add("error", f"entries of '{key}' are no objects", example, "remove them")
    return [row for row in rows if isinstance(row, dict)]


def _type_in_words(value: Any) -> str:
    words = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


# --- categories ----------------------------------------------------------------------------------------------------


def _read_categories(
    categories: list[Row],
    annotations: Sequence[PlainBoxes | list[Row]],
    findings: FindingList,
    *,
    keep_parent: bool,
) -> dict[int, str]:
    """Return the class names by category id, in order of id."""
    names: dict[int, str] = {}
    for place, category in enumerate(categories):
        category_id = whole_number(category.get("id"))
        if category_id is None or not -(2**63) <= category_id < 2**63:
            example = f"categories[{place}] has {short(category.get('id'))}"
            findings.add("error", "ids of categories are no whole numbers", example, "number the categories")
        elif category_id in names:
            findings.add("error", "category ids are given twice", str(category_id), "give each category its own id")
        else:
            names[category_id] = _class_name(category, category_id, findings)
    root = None if keep_parent else _project_category(categories, annotations)
    if root is not None and root in names:
        text = f"category {root} '{names.pop(root)}' is the supercategory of all others and has no box"
        findings.add("note", text, advice="it is left out of the classes; data.keep_parent=true keeps it")
    if not categories:
        findings.add("error", "there are no categories", advice="list the classes")
    return dict(sorted(names.items()))


def _class_name(category: Row, category_id: int, findings: FindingList) -> str:
    name = category.get("name")
    if name is None or name == "":
        findings.add("warning", "categories have no name", f"category {category_id}", "their id is their name")
        return str(category_id)
    if not is_encodable(str(name)):
        findings.add(
            "error", "names of categories hold letters that do not exist", f"category {category_id}", "rename them"
        )
        return str(category_id)
    return str(name)


def _project_category(categories: list[Row], annotations: Sequence[PlainBoxes | list[Row]]) -> int | None:
    """Return the id of the category that stands for the whole project, as Roboflow writes it; None if there is none."""
    parents = {str(category.get("supercategory")) for category in categories}
    roots = [category for category in categories if str(category.get("name")) in parents]
    if len(roots) != 1 or len(categories) == 1:
        return None
    name, root = str(roots[0].get("name")), whole_number(roots[0].get("id"))
    if any((str(category.get("supercategory")) == name) == (category is roots[0]) for category in categories):
        return None
    return None if any(_has_box(piece, root) for piece in annotations) else root


def _has_box(piece: PlainBoxes | list[Row], category_id: int | None) -> bool:
    if isinstance(piece, PlainBoxes):
        return bool((piece.category_ids == category_id).any())
    return any(whole_number(row.get("category_id")) == category_id for row in piece)


# --- images --------------------------------------------------------------------------------------------------------


def _read_images(
    images: list[Row], findings: FindingList, *, need_files: bool
) -> tuple[dict[int | str, int], TextColumn, NDArray[np.int64], NDArray[np.int64]]:
    """Return the number of each image by its id, the names of the files, their sizes, and their places in archives.

    Sizes are (I, 2) height and width; places (I, 2) start and length, -1 where no index tells them.
    """
    if not images:
        findings.add("error", "there are no images", advice="list the images")
    ids_as_numbers = any(not isinstance(image.get("id"), str) for image in images)
    number_of: dict[int | str, int] = {}
    names: list[str] = []
    sizes: list[tuple[int, int]] = []
    spans: list[tuple[int, int]] = []
    for place, image in enumerate(images):
        image_id, name = identifier(image.get("id")), file_name(image)
        if isinstance(image_id, str) and ids_as_numbers:
            image_id = whole_number(image_id)
        if image_id is None:
            example = f"images[{place}] has {short(image.get('id'))}"
            advice = "ids must be all whole numbers below 2⁶⁴, or all texts"
            findings.add("error", "ids of images cannot be used", example, advice)
        elif image_id in number_of:
            findings.add("error", "image ids are given twice", short(image_id), "give each image its own id")
        elif name is None and need_files:
            example = f"image id {image_id} has {short(image.get('file_name'))}"
            findings.add("error", "images have no file_name", example, "name the file of each image")
        else:
            number_of[image_id] = len(names)
            names.append(name or "")
            sizes.append(_size(image, name or f"image id {image_id}", findings))
            spans.append(_span(image))
    if not _fit_one_type(number_of):
        findings.add("error", "image ids are negative in part and above 2⁶³ in part", advice="number the images anew")
        number_of = {str(image_id): number for image_id, number in number_of.items()}
    height_width, places = (np.array(pairs, dtype=np.int64).reshape(-1, 2) for pairs in (sizes, spans))
    return number_of, TextColumn.from_texts(names), height_width, places


def _span(image: Row) -> tuple[int, int]:
    """Return start and length in bytes of an image in its archive, as ``--to shards`` writes them."""
    start, length = image.get("start"), image.get("length")
    if type(start) is int and type(length) is int and 0 <= start < 2**62 and 0 <= length < 2**62:
        return start, length
    return NO_SPAN


def file_name(image: Row) -> str | None:
    """Return the name of an image's file; LVIS gives only the address, whose last folder is the one on disk."""
    name, address = image.get("file_name"), image.get("coco_url")
    if name is None and isinstance(address, str):
        name = "/".join(address.split("/")[-2:])
    return name if isinstance(name, str) and name and is_encodable(name) else None


def _size(image: Row, name: str, findings: FindingList) -> tuple[int, int]:
    height, width = side(image.get("height")), side(image.get("width"))
    if height and width:
        return height, width
    findings.add("warning", "images have no width and height", name, "they are taken from the image files")
    return 0, 0


def _fit_one_type(ids: Iterable[int | str]) -> bool:
    numbers = [value for value in ids if isinstance(value, int)]
    return not numbers or min(numbers) >= 0 or max(numbers) < 2**63


def _id_column(ids: list[int | str]) -> NDArray[np.int64] | NDArray[np.uint64] | TextColumn:
    texts = [value for value in ids if isinstance(value, str)]
    if texts:
        return TextColumn.from_texts(texts)
    is_large = any(int(value) >= 2**63 for value in ids)
    return np.array(ids, dtype=np.uint64) if is_large else np.array(ids, dtype=np.int64)


COCO = Format(
    name="coco",
    title="COCO JSON",
    find=find_coco,
    read=_read_source,
    write=write_coco,
    cannot_hold="nothing but masks is lost",
)
