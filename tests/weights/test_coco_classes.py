import json

from effdet.evaluation.categories import match_categories
from effdet.weights.coco_classes import COCO_IDS, COCO_NAMES


def test_eighty_of_the_ninety_classes_have_names():
    named = [(number, name) for number, name in zip(COCO_IDS, COCO_NAMES, strict=True) if "unused" not in name]
    assert len(named) == 80
    assert named[0] == (1, "person")
    assert named[11] == (13, "stop sign")
    assert named[-1] == (90, "toothbrush")
    assert [number for number, name in zip(COCO_IDS, COCO_NAMES, strict=True) if "unused" in name] == [
        *(12, 26, 29, 30, 45, 66, 68, 69, 71, 83)
    ]


def test_names_and_ids_are_those_of_coco(photo_sets):
    categories = json.loads((photo_sets / "coco_open" / "val.json").read_text())["categories"]
    ids, names = zip(*((item["id"], item["name"]) for item in categories), strict=True)
    found = match_categories(COCO_NAMES, COCO_IDS, dataset_names=names, dataset_ids=ids)
    assert [number for number in found if number is not None] == sorted(ids)


def test_a_detector_of_ninety_classes_knows_coco_numbered_without_gaps():
    names = [name for name in COCO_NAMES if "unused" not in name]
    found = match_categories(COCO_NAMES, COCO_IDS, dataset_names=names, dataset_ids=range(80))
    assert found[:13] == (*range(11), None, 11)
