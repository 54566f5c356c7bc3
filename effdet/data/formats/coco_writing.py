"""Write data sets as COCO annotations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from effdet.data.dataset import Dataset
from effdet.data.formats.interface import Part
from effdet.data.image_copies import ImageCopies, write_json_file


def write_coco(parts: Mapping[Part, Dataset], copies: ImageCopies) -> None:
    """Write ``train.json``, ``val.json`` and ``test.json``, or ``annotations.json`` for all, beside ``images/``."""
    for part, dataset in parts.items():
        names = copies.place(dataset, "images")
        file = copies.folder / f"{'annotations' if part == 'all' else part}.json"
        write_json_file(file, to_coco(dataset, [name.removeprefix("images/") for name in names]))


def to_coco(dataset: Dataset, names: Sequence[str]) -> dict[str, Any]:
    """Return a data set as the content of a COCO file; ``names`` are the image files to be named in it."""
    image_ids = dataset.image_ids.tolist()
    images = [
        {"id": image_id, "file_name": name, "width": width, "height": height}
        for image_id, name, (height, width) in zip(image_ids, names, dataset.sizes.tolist(), strict=True)
    ]
    columns = zip(
        dataset.annotation_ids.tolist(),
        dataset.image_of_box.tolist(),
        dataset.labels.tolist(),
        dataset.boxes_xywh.tolist(),
        dataset.areas.tolist(),
        dataset.is_crowd.tolist(),
        strict=True,
    )
    annotations = [
        {
            "id": annotation_id,
            "image_id": image_ids[image],
            "category_id": dataset.category_ids[label],
            "bbox": box,
            "area": area,
            "iscrowd": int(is_crowd),
        }
        for annotation_id, image, label, box, area, is_crowd in columns
    ]
    classes = zip(dataset.category_ids, dataset.class_names, strict=True)
    categories = [{"id": category_id, "name": name} for category_id, name in classes]
    return {"images": images, "annotations": annotations, "categories": categories}
