import json
from dataclasses import fields

import numpy as np
import pytest

from effdet.data.formats import coco, json_pieces
from effdet.data.formats.coco import read_coco
from effdet.data.formats.json_pieces import NotInPiecesError, read_in_pieces
from effdet.data.formats.plain_boxes import parse_rows


def objects(count):
    return [{"id": number, "inner": {"a": [{}, {"b": "}, {"}]}, "text": "é }, { ] \\"} for number in range(count)]


@pytest.mark.parametrize("indent", [None, 0, 2])
@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_pieces_join_to_what_the_json_module_reads(tmp_path, monkeypatch, indent, separators):
    monkeypatch.setattr(json_pieces, "PIECE", 500)
    content = {"info": {"images": [1]}, "images": objects(1000), "more": [1, [2]], "annotations": objects(700), "n": 12}
    file = tmp_path / "a.json"
    file.write_text(json.dumps(content, indent=indent, separators=separators), encoding="utf-8")
    found = {"images": [], "annotations": [], "n": []}
    pieces = list(read_in_pieces(file, dict.fromkeys(("images", "annotations"), parse_rows)))
    for key, piece in pieces:
        found[key] += piece
    assert found["images"] == content["images"]
    assert found["annotations"] == content["annotations"]
    assert len(pieces) > 10


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"images": [{}, {}', '{"images": [{}] "b": 1}', '{"images": [1, 2]}', '{"images": [{}]} 5',
     '{"images": [{}], "images": [{}]}', '{"images": [{}, ]}', '{"images": [{"a": 1} {"a": 2}]}', '{"a": tru}'],
)  # fmt: skip
def test_what_is_no_such_file_must_be_read_as_a_whole(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(NotInPiecesError):
        list(read_in_pieces(tmp_path / "a.json", {"images": parse_rows}))


def truth(**changes):
    row = {"id": 5, "image_id": 3, "category_id": 7, "bbox": [1.25, 2, 3, 4], "area": 12, "iscrowd": 0}
    annotations = [{**row, "id": number + 1, "image_id": number % 4 + 1} for number in range(400)]
    annotations[300] |= changes
    return {
        "annotations": annotations,
        "categories": [{"id": 7, "name": "cell"}],
        "images": [{"id": i, "file_name": f"{i}.jpg", "width": 64, "height": 48} for i in range(1, 5)],
    }


ODD = {
    "plain": {},
    "segmentation": {"segmentation": [[0, 0, 5, 0, 5, 5]]},
    "text": {"bbox": ["1", "2", "3", "4"]},
    "not finite": {"bbox": [1, 2, 3, float("nan")]},
    "huge": {"bbox": [1, 2, 3, 10**400]},
    "null": {"bbox": None, "area": None},
    "three": {"bbox": [1, 2, 3]},
    "nested": {"bbox": [[1, 2, 3, 4]]},
    "true": {"iscrowd": True, "category_id": True},
    "crowd": {"iscrowd": 1},
    "crowd in words": {"iscrowd": "yes"},
    "crowd of 2": {"iscrowd": 2},
    "unknown image": {"image_id": 99},
    "unknown class": {"category_id": -1},
    "image as text": {"image_id": "3"},
    "large id": {"id": 2**63},
    "id twice": {"id": 1},
    "negative area": {"area": -1.5},
    "area is not a number": {"area": float("nan")},
    "text with brackets": {"note": '}, {"id": 1'},
    "list of objects": {"parts": [{"id": 1}, {"id": 2}]},
}


@pytest.mark.parametrize("changes", ODD.values(), ids=ODD)
def test_a_large_file_gives_what_a_small_one_gives(tmp_path, monkeypatch, changes):
    file = tmp_path / "train.json"
    file.write_text(json.dumps(truth(**changes)))
    whole = read_coco(file, tmp_path)
    monkeypatch.setattr(coco, "LARGE", 0)
    monkeypatch.setattr(json_pieces, "PIECE", 2000)
    in_pieces = read_coco(file, tmp_path)
    for field in fields(whole):
        a, b = getattr(whole, field.name), getattr(in_pieces, field.name)
        assert np.array_equal(a, b) and a.dtype == b.dtype if isinstance(a, np.ndarray) else a == b, field.name


def test_optional_columns_may_be_missing(tmp_path, monkeypatch):
    content = truth()
    for row in content["annotations"]:
        del row["area"], row["iscrowd"]
    (tmp_path / "train.json").write_text(json.dumps(content))
    monkeypatch.setattr(coco, "LARGE", 0)
    dataset = read_coco(tmp_path / "train.json", tmp_path)
    assert (dataset.areas == 12).all()
    assert not dataset.is_crowd.any()
    assert len(dataset.labels) == 400


def test_a_damaged_large_file_is_named(tmp_path, monkeypatch):
    (tmp_path / "train.json").write_text(json.dumps(truth())[:-5])
    monkeypatch.setattr(coco, "LARGE", 0)
    with pytest.raises(ValueError, match=r"train\.json: is not valid JSON"):
        read_coco(tmp_path / "train.json", tmp_path)
