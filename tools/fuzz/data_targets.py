"""Readers of annotations: each file of a small data set in every format."""

from __future__ import annotations

import json
import random
import zipfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from zlib import crc32

from effdet.data.doctor.examination import Examination, examine
from effdet.data.download import _check_member
from effdet.data.findings import DataError
from effdet.data.formats import read_parts
from effdet.data.formats.finding import find_data
from fuzz.image_targets import jpeg
from fuzz.mutations import mutate_bytes
from fuzz.targets import Seeds, Target
from fuzz.weight_targets import mutate_json_text

Files = Mapping[str, str]  # contents by names; images are named without a content

EXAMINED = 4  # of this many inputs one goes through the doctor as well, which takes three times as long

_COCO = {
    "info": {"description": "x"},
    "images": [
        {"id": 1, "file_name": "a.jpg", "width": 40, "height": 30},
        {"id": 2, "file_name": "b.jpg", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 1, "category_id": 1, "bbox": [2, 3, 20.5, 10], "area": 205.0, "iscrowd": 0},
        {"id": 2, "image_id": 2, "category_id": 2, "bbox": [5, 5, 10, 10], "segmentation": [[5, 5, 15, 5, 15, 15]]},
        {"id": 3, "image_id": 2, "category_id": 2, "segmentation": {"size": [30, 40], "counts": [100, 5, 25, 5, 1065]}},
        {
            "id": 4,
            "image_id": 2,
            "category_id": 1,
            "segmentation": {"size": [30, 40], "counts": [0, 100, 1100]},
            "iscrowd": 1,
        },
    ],
    "categories": [{"id": 1, "name": "cat", "supercategory": "x"}, {"id": 2, "name": "dog"}],
}
_LABELME = {
    "version": "5.0",
    "imagePath": "a.jpg",
    "imageWidth": 40,
    "imageHeight": 30,
    "imageData": None,
    "shapes": [
        {"label": "cat", "shape_type": "rectangle", "points": [[1, 2], [20, 20]], "group_id": None, "flags": {}},
        {"label": "dog", "shape_type": "polygon", "points": [[1, 2], [20, 20], [5, 25]]},
        {"label": "dog", "shape_type": "circle", "points": [[10, 10], [12, 14]]},
    ],
}
_LABEL_STUDIO = [
    {
        "id": 1,
        "data": {"image": "/data/upload/1/a.jpg"},
        "annotations": [
            {
                "result": [
                    {
                        "type": "rectanglelabels",
                        "original_width": 40,
                        "original_height": 30,
                        "value": {"x": 5, "y": 5, "width": 50, "height": 50, "rotation": 0, "rectanglelabels": ["cat"]},
                    }
                ]
            }
        ],
    }
]
_VOC = (
    "<annotation><filename>a.jpg</filename><size><width>40</width><height>30</height><depth>3</depth></size>"
    "<object><name>cat</name><difficult>0</difficult><bndbox><xmin>1</xmin><ymin>2</ymin><xmax>20</xmax><ymax>20</ymax>"
    "</bndbox></object><object><name>dog</name><bndbox><xmin>3.5</xmin><ymin>2</ymin><xmax>9</xmax><ymax>20</ymax>"
    "</bndbox></object></annotation>"
)
_CVAT = (
    '<?xml version="1.0" encoding="utf-8"?><annotations><version>1.1</version><meta><task><labels><label><name>cat'
    '</name></label></labels></task></meta><image id="0" name="a.jpg" width="40" height="30">'
    '<box label="cat" occluded="0" xtl="1.0" ytl="2.0" xbr="20.0" ybr="20.0" z_order="0"/>'
    '<polygon label="cat" points="1,2;20,20;5,25"/></image></annotations>'
)
_YAML = "path: .\ntrain: images\nval: images\nnc: 2\nnames:\n  0: cat\n  1: dog\n"
_YOLO = "0 0.5 0.5 0.25 0.25\n1 0.1 0.1 0.2 0.1 0.3 0.3\n"
_CSV = (
    "image,xmin,ymin,xmax,ymax,label,width,height\na.jpg,1,2,20,20,cat,40,30\nb.jpg,5,5,9,9,dog,40,30\nb.jpg,,,,,,,\n"
)
_RETINANET = "a.jpg,1,2,20,20,cat\nb.jpg,5,5,9,9,dog\nb.jpg,,,,,\n"
_TENSORFLOW_CSV = "filename,width,height,class,xmin,ymin,xmax,ymax\na.jpg,40,30,cat,1,2,20,20\n"
_OPENIMAGES = (
    "ImageID,Source,LabelName,Confidence,XMin,XMax,YMin,YMax,IsOccluded,IsTruncated,IsGroupOf,IsDepiction,IsInside\n"
    "a,xclick,/m/01,1,0.1,0.5,0.2,0.9,0,0,0,0,0\nb,xclick,/m/02,1,0.2,0.5,0.2,0.9,0,0,1,0,0\n"
)
_SPLITS = {"data": "all.json", "part": "all", "images": {"train": ["a.jpg"], "val": ["b.jpg"]}, "seed": 0}


def _examine(folder: Path) -> Examination:
    return examine({str(part): source for part, source in find_data(folder).parts.items()}, decode_images=False)


def read_folder(folder: Path, *, examined: bool) -> None:
    """Find and read a data set as training does, and perhaps examine it as the doctor does.

    Raises:
        DataError: If it cannot be used.
        AssertionError: If training cannot use what the doctor finds no error in.
    """
    may_have_errors = not examined or _examine(folder).has_errors
    for dataset in read_parts(folder).values():
        for index in range(min(len(dataset), 50)):
            dataset.annotations(index), dataset.path(index)
        try:
            dataset.require_usable()
        except DataError as error:
            if not may_have_errors:
                raise AssertionError("training refuses what the doctor accepts") from error
            raise


def _set(mutated: str, files: Files) -> Callable[[bytes, Path], None]:
    """Return what writes a data set, with other content in one of its files, and reads it."""

    def run(content: bytes, folder: Path) -> None:
        for name, text in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if name == mutated else text.encode() if text else _jpeg())
        read_folder(folder, examined=crc32(content) % EXAMINED == 0)

    return run


@cache
def _jpeg() -> bytes:
    return jpeg()


_IMAGES = {"a.jpg": "", "b.jpg": ""}
_BELOW = {"images/a.jpg": "", "images/b.jpg": ""}


def _target(name: str, mutated: str, files: Files, *more: str, as_json: bool = False) -> Target:
    seeds = lambda: [files[mutated].encode(), *(text.encode() for text in more)]  # noqa: E731
    mutate = mutate_json_text if as_json else mutate_bytes
    return Target(name, seeds, _set(mutated, files), mutate, share=0.3, in_ci=15)


# -- zip files of data sets ------------------------------------------------------------------------------------------


def _zips() -> Seeds:
    return [name.encode() for name in ("a/b.jpg", "../b.jpg", "/b.jpg", "c:\\b.jpg", "a\\..\\..\\b", "a//b")]


def _read_member_name(content: bytes, folder: Path) -> None:
    member = zipfile.ZipInfo(content.decode("utf-8", "surrogateescape") or "x")
    _check_member(Path("x.zip"), member)
    target = (folder / member.filename).resolve()
    assert target.is_relative_to(folder.resolve()), f"leaves the folder: {target}"


def _mutate_name(content: bytes, rng: random.Random, seeds: Seeds) -> bytes:
    parts = [
        rng.choice([b"..", b"a", b".", b"", b"/", b"\\", b"C:", b"\0", content]) for _ in range(rng.randrange(1, 5))
    ]
    return rng.choice([b"/", b"\\"]).join(parts)


TARGETS = [
    _target("COCO JSON", "train.json", {"train.json": json.dumps(_COCO), **_BELOW}, as_json=True),
    _target("LabelMe JSON", "a.json", {"a.json": json.dumps(_LABELME), **_IMAGES}, as_json=True),
    _target("Label Studio JSON", "x.json", {"x.json": json.dumps(_LABEL_STUDIO), **_IMAGES}, as_json=True),
    _target("Pascal VOC XML", "a.xml", {"a.xml": _VOC, **_IMAGES}),
    _target("CVAT XML", "annotations.xml", {"annotations.xml": _CVAT, **_BELOW}),
    _target("YOLO labels", "labels/a.txt", {"labels/a.txt": _YOLO, "data.yaml": _YAML, **_BELOW}),
    _target("YOLO data.yaml", "data.yaml", {"labels/a.txt": _YOLO, "data.yaml": _YAML, **_BELOW}),
    _target("CSV", "train.csv", {"train.csv": _CSV, **_BELOW}, _RETINANET, _TENSORFLOW_CSV),
    _target("OpenImages CSV", "train-annotations-bbox.csv", {"train-annotations-bbox.csv": _OPENIMAGES, **_BELOW}),
    _target(
        "splits.json",
        "splits.json",
        {"splits.json": json.dumps(_SPLITS), "all.json": json.dumps(_COCO), **_BELOW},
        as_json=True,
    ),
    Target("names in a zip file", _zips, _read_member_name, _mutate_name, share=8),
]
