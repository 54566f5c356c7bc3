"""Read COCO annotations: which images there are, and which boxes they have.

Category ids of the file become contiguous labels here, ordered by id; ``category_ids`` leads back. ``bbox`` (x, y,
width, height) becomes xyxy. Everything is held in flat arrays, which loader processes share without copying.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from effdet.images.reading import ImageError, Picture, read_picture

Array: TypeAlias = NDArray[Any]
Split: TypeAlias = Literal["train", "val"]

log = logging.getLogger(__name__)

DOWNLOAD_COCO = "python tools/inspect_data.py download coco2017 --root {root}"


class DataError(ValueError):
    """A data set is missing or says something that cannot be; the message names file and id."""


class Annotations(NamedTuple):
    """Ground truth of one image, in pixels of the original image."""

    boxes: NDArray[np.float32]  # (M, 4) xyxy
    labels: NDArray[np.int64]  # (M,) in [0, K)
    is_crowd: NDArray[np.bool_]  # (M,) the box surrounds a group: ignored in training


class ImagePaths(Sequence[Path]):
    """The image files of a data set: a folder and an array of names, which forked processes share."""

    def __init__(self, folder: Path, names: Array) -> None:
        self.folder = folder
        self.names = names

    def __len__(self) -> int:
        return len(self.names)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice | Array) -> ImagePaths: ...
    def __getitem__(self, index: int | slice | Array) -> Path | ImagePaths:
        if isinstance(index, slice | np.ndarray):
            return ImagePaths(self.folder, self.names[index])
        return self.folder / str(self.names[index])


@dataclass(frozen=True, eq=False)
class CocoDataset:
    """Images and boxes of one COCO annotation file, in the file's order of images. ``read_coco`` makes it.

    Image i has the boxes ``offsets[i]`` to ``offsets[i + 1]`` of the flat arrays; none at all is a negative.
    """

    class_names: tuple[str, ...]  # K
    category_ids: tuple[int, ...]  # K, ascending
    image_ids: NDArray[np.int64]  # (I,)
    paths: ImagePaths  # I
    sizes: NDArray[np.int64]  # (I, 2) height, width; 0 where neither the annotations nor the image file tell
    boxes: NDArray[np.float32]  # (ΣM, 4) xyxy, clipped to the image
    labels: NDArray[np.int64]  # (ΣM,)
    is_crowd: NDArray[np.bool_]  # (ΣM,)
    offsets: NDArray[np.int64]  # (I + 1,)
    annotation_file: Path
    num_dropped: int = 0  # boxes without an area inside their image
    num_clipped: int = 0  # boxes that reached more than a pixel out of their image

    def __len__(self) -> int:
        return len(self.image_ids)

    @property
    def num_classes(self) -> int:
        """K, unused classes included."""
        return len(self.class_names)

    def annotations(self, index: int) -> Annotations:
        """Return the boxes of image number ``index`` in [0, len)."""
        rows = slice(self.offsets[index], self.offsets[index + 1])
        return Annotations(self.boxes[rows], self.labels[rows], self.is_crowd[rows])

    def read(self, index: int) -> Array:
        """Return image number ``index`` as (H, W, 3) uint8 RGB.

        Raises:
            FileNotFoundError: If the file does not exist.
            ImageError: If it cannot be decoded, or its size is not the one that the annotations were made for.
        """
        return self.read_picture(index).pixels

    def read_picture(self, index: int, read: Callable[..., Picture] = read_picture) -> Picture:
        """Return image number ``index`` as ``read(path, size=...)`` gives it, perhaps smaller than in its file.

        Raises:
            FileNotFoundError, ImageError: As ``read``.
        """
        height, width = (int(side) for side in self.sizes[index])
        picture = read(self.paths[index], size=(height, width) if height else None)
        if height and picture.original_size != (height, width):
            raise ImageError(
                f"{self.paths[index]}: is {picture.original_size[1]}×{picture.original_size[0]} pixels, "
                f"but {self.annotation_file} was made for {width}×{height}"
            )
        return picture

    def without(self, indices: Iterable[int]) -> CocoDataset:
        """Return the data set without some of its images."""
        left_out = set(indices)
        kept = np.array([index for index in range(len(self)) if index not in left_out], dtype=np.int64)
        counts = np.diff(self.offsets)
        rows = np.repeat(np.isin(np.arange(len(self)), kept), counts)
        return replace(
            self,
            image_ids=self.image_ids[kept],
            paths=self.paths[kept],
            sizes=self.sizes[kept],
            boxes=self.boxes[rows],
            labels=self.labels[rows],
            is_crowd=self.is_crowd[rows],
            offsets=np.concatenate([[0], np.cumsum(counts[kept])]).astype(np.int64),
        )


def read_coco(annotation_file: str | Path, image_folder: str | Path) -> CocoDataset:
    """Read a COCO annotation file.

    Boxes are clipped to their image; those without an area are dropped, and a warning tells how many. ``iscrowd`` and
    ``area`` may be missing; so may ``width`` and ``height``, which then come from the image file.

    Args:
        annotation_file: JSON with ``images``, ``annotations`` and ``categories``; ids may start anywhere and have gaps.
        image_folder: The folder that each ``file_name`` is relative to. The images are not opened.

    Raises:
        DataError: If the file is not such JSON, an id is missing, unknown or given twice, or a box is not four numbers.
    """
    file = Path(annotation_file)
    content = _load(file)
    names = _category_names(file, content["categories"])
    index_of = _image_index(file, content["images"])

    category_ids = tuple(sorted(names))
    paths = ImagePaths(Path(image_folder), np.array([str(image["file_name"]) for image in content["images"]]))
    sizes = _image_sizes(content["images"], paths)
    rows, labels, boxes, is_crowd = _annotation_arrays(file, content["annotations"], index_of, category_ids)

    clipped, keep, num_clipped = _clip(boxes, sizes[rows])
    order = np.flatnonzero(keep)[np.argsort(rows[keep], kind="stable")]
    counts = np.bincount(rows[order], minlength=len(paths))
    dataset = CocoDataset(
        class_names=tuple(names[category_id] for category_id in category_ids),
        category_ids=category_ids,
        image_ids=np.array(list(index_of), dtype=np.int64),
        paths=paths,
        sizes=sizes,
        boxes=clipped[order].astype(np.float32),
        labels=labels[order],
        is_crowd=is_crowd[order],
        offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
        annotation_file=file,
        num_dropped=int((~keep).sum()),
        num_clipped=num_clipped,
    )
    if dataset.num_dropped:
        log.warning("%s: left out %d boxes that have no area inside their image", file, dataset.num_dropped)
    return dataset


def find_coco(
    root: str | Path, split: Split, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> CocoDataset:
    """Find and read one split of a data set in COCO format.

    Known layouts below ``root``, in the order in which they are tried:

        annotations/instances_{split}2017.json + {split}2017/      COCO 2017
        {split}.json + images/, {split}/ or the images beside it
        {train,valid}/_annotations.coco.json, images beside it      Roboflow
        root is itself a .json file; images as in the second layout

    Args:
        root: Folder of the data set, or an annotation file.
        split: "train" or "val".
        annotations: Annotation file, relative to ``root``; None: found by the layout.
        images: Image folder, relative to ``root``; None: found by the layout.

    Raises:
        DataError: If the files are not there (the message says what is missing and how to get it), or are not COCO.
    """
    file, folder = find_coco_files(root, split, annotations=annotations, images=images)
    if not file.is_file():
        raise DataError(f"annotation file {file} does not exist{_how_to_get(Path(root))}")
    if not folder.is_dir():
        raise DataError(f"image folder {folder} for the annotations in {file} does not exist{_how_to_get(Path(root))}")
    return read_coco(file, folder)


def find_coco_files(
    root: str | Path, split: Split, *, annotations: str | Path | None = None, images: str | Path | None = None
) -> tuple[Path, Path]:
    """Return annotation file and image folder of a split, by the rules of ``find_coco``, without opening them.

    Raises:
        DataError: If ``root`` has no known layout.
    """
    root = Path(root)
    base = root.parent if root.suffix == ".json" else root
    file = base / annotations if annotations is not None else _find_annotations(root, split)
    return file, base / images if images is not None else _find_images(file, split)


def _find_annotations(root: Path, split: Split) -> Path:
    if root.suffix == ".json":
        return root
    names = [f"annotations/instances_{split}2017.json", f"{split}.json"]
    names += [f"{folder}/_annotations.coco.json" for folder in (("train",) if split == "train" else ("valid", "val"))]
    for name in names:
        if (root / name).is_file():
            return root / name
    if not root.exists():
        raise DataError(f"data folder {root} does not exist{_how_to_get(root)}")
    raise DataError(f"no {split} annotations in {root}: looked for {', '.join(names)}{_how_to_get(root)}")


def _find_images(file: Path, split: Split) -> Path:
    """Return the image folder of an annotation file by its layout."""
    if file.parent.name == "annotations":
        year = file.stem.removeprefix("instances_")
        candidates = [file.parent.parent / year, file.parent.parent / split, file.parent.parent / "images"]
        return next((folder for folder in candidates if folder.is_dir()), candidates[0])
    if file.name == "_annotations.coco.json":
        return file.parent
    candidates = [file.parent / file.stem, file.parent / "images" / file.stem, file.parent / "images"]
    return next((folder for folder in candidates if folder.is_dir()), file.parent)


def _how_to_get(root: Path) -> str:
    looks_like_coco = "coco" in root.name.lower() or any(
        (root / name).exists() for name in ("annotations", "train2017", "val2017")
    )
    return f"; COCO 2017 is fetched by: {DOWNLOAD_COCO.format(root=root)}" if looks_like_coco else ""


def _load(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise DataError(f"annotation file {file} does not exist") from None
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{file}: is not valid JSON: {error}") from error
    for key in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise DataError(
                f"{file}: must be COCO JSON with the lists images, annotations and categories; '{key}' is not there"
            )
        if not all(isinstance(row, dict) for row in content[key]):
            raise DataError(f"{file}: every entry of '{key}' must be an object")
    return content


def _category_names(file: Path, categories: list[dict[str, Any]]) -> dict[int, str]:
    if not categories:
        raise DataError(f"{file}: has no categories")
    names: dict[int, str] = {}
    for position, category in enumerate(categories):
        category_id = _integer(category.get("id"), f"{file}: categories[{position}].id")
        if category_id in names:
            raise DataError(f"{file}: category id {category_id} is given twice")
        names[category_id] = str(category.get("name", category_id))
    return names


def _image_index(file: Path, images: list[dict[str, Any]]) -> dict[int, int]:
    if not images:
        raise DataError(f"{file}: has no images")
    index_of: dict[int, int] = {}
    for position, image in enumerate(images):
        image_id = _integer(image.get("id"), f"{file}: images[{position}].id")
        if image_id in index_of:
            raise DataError(f"{file}: image id {image_id} is given twice")
        if not image.get("file_name"):
            raise DataError(f"{file}: image id {image_id} has no file_name")
        index_of[image_id] = position
    return index_of


def _image_sizes(images: list[dict[str, Any]], paths: ImagePaths) -> NDArray[np.int64]:
    sizes = np.array([(image.get("height") or 0, image.get("width") or 0) for image in images], dtype=np.int64)
    for index in np.flatnonzero((sizes <= 0).any(axis=1)):
        sizes[index] = _size_in_file(paths[int(index)])
    return sizes


def _size_in_file(path: Path) -> tuple[int, int]:
    """Return the upright (height, width) from an image's header, or zeros; the check of all files comes later."""
    try:
        with Image.open(path) as opened:
            sides_swap = opened.getexif().get(0x0112, 1) >= 5
            return (opened.width, opened.height) if sides_swap else (opened.height, opened.width)
    except Exception:
        return (0, 0)


def _annotation_arrays(
    file: Path, annotations: list[dict[str, Any]], index_of: dict[int, int], category_ids: Sequence[int]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64], NDArray[np.bool_]]:
    """Return image index (ΣM,), label (ΣM,), xywh box (ΣM, 4) and crowd flag (ΣM,) in the order of the file."""
    label_of = {category_id: label for label, category_id in enumerate(category_ids)}
    rows: list[int] = []
    labels: list[int] = []
    numbers: list[float] = []
    for position, annotation in enumerate(annotations):
        try:
            rows.append(index_of[annotation["image_id"]])
            labels.append(label_of[annotation["category_id"]])
            x, y, width, height = annotation["bbox"]
            numbers += (float(x), float(y), float(width), float(height))
        except (KeyError, TypeError, ValueError):
            which = f"annotation id {annotation['id']}" if "id" in annotation else f"annotations[{position}]"
            raise DataError(f"{file}: {which}: {_annotation_fault(annotation, index_of, label_of)}") from None
    is_crowd = np.array([bool(annotation.get("iscrowd", 0)) for annotation in annotations], dtype=bool)
    return (
        np.array(rows, dtype=np.int64),
        np.array(labels, dtype=np.int64),
        np.array(numbers, dtype=np.float64).reshape(-1, 4),
        is_crowd,
    )


def _annotation_fault(annotation: dict[str, Any], index_of: dict[int, int], label_of: dict[int, int]) -> str:
    for what, table in (("image", index_of), ("category", label_of)):
        value = annotation.get(f"{what}_id")
        if not isinstance(value, int) or value not in table:
            return f"there is no {what} with id {value!r}"
    return f"bbox must be four numbers x, y, width, height, got {annotation.get('bbox')!r}"


def _clip(boxes: NDArray[np.float64], sizes: NDArray[np.int64]) -> tuple[NDArray[np.float64], NDArray[np.bool_], int]:
    """Return xywh boxes as xyxy clipped to their image, which of them have an area, and how many were clipped."""
    limits = np.where(sizes > 0, sizes, np.inf)[:, [1, 0, 1, 0]]  # (ΣM, 4) width, height, width, height
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    clipped = np.clip(corners, 0, limits)
    with np.errstate(invalid="ignore"):  # NaN and infinite numbers fail these comparisons and are dropped
        has_area = (clipped[:, 2:] > clipped[:, :2]).all(axis=1) & np.isfinite(boxes).all(axis=1)
        reaches_out = (np.abs(clipped - corners) > 1).any(axis=1) & has_area
    return clipped, has_area, int(reaches_out.sum())


def _integer(value: Any, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{where} must be an integer, got {value!r}")
    return value
