"""Tests of effdet/structures.py."""

import dataclasses
import json
import pickle

import pytest
import torch

from effdet.structures import Batch, Detection, Detections, Predictions, Target, check_same_length


def detections(**changes):
    values = {
        "boxes": torch.tensor([[10.0, 20.0, 40.0, 60.0], [0.5, 0.0, 2.0, 4.0]]),
        "labels": torch.tensor([1, 0]),
        "scores": torch.tensor([0.75, 0.25]),
        "class_names": ("cat", "dog"),
        "category_ids": (3, 18),
        "image_size": (100, 200),
        "source": "a.jpg",
    }
    return Detections(**{**values, **changes})


def empty(**changes):
    return detections(
        boxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.int64), scores=torch.zeros(0), **changes
    )


def test_iteration_gives_every_object_with_name_and_category_id():
    assert list(detections()) == [
        Detection((10, 20, 40, 60), 0.75, 1, "dog", 18),
        Detection((0.5, 0, 2, 4), 0.25, 0, "cat", 3),
    ]
    assert len(detections()) == 2


def test_without_names_and_ids_the_label_stands_for_both():
    found = detections(class_names=(), category_ids=())
    assert [(item.class_name, item.category_id) for item in found] == [("1", 1), ("0", 0)]


def test_nothing_found_is_empty_everywhere():
    assert len(empty()) == 0
    assert list(empty()) == []
    assert empty().to_coco(1) == []
    assert empty().to_dict()["boxes"] == []
    assert len(empty().above(0)) == 0


def test_above_keeps_what_scores_at_least_the_threshold():
    assert [item.score for item in detections().above(0.75)] == [0.75]
    assert len(detections().above(0.76)) == 0
    kept = detections().above(0)
    torch.testing.assert_close(kept.boxes, detections().boxes)
    assert (kept.source, kept.image_size, kept.category_ids) == ("a.jpg", (100, 200), (3, 18))


def test_coco_rows_have_corner_width_and_height_and_the_data_sets_ids():
    assert detections().to_coco(42) == [
        {"image_id": 42, "category_id": 18, "bbox": [10, 20, 30, 40], "score": 0.75},
        {"image_id": 42, "category_id": 3, "bbox": [0.5, 0, 1.5, 4], "score": 0.25},
    ]


def test_plain_values_survive_json():
    plain = detections().to_dict()
    assert json.loads(json.dumps(plain)) == plain == {
        "source": "a.jpg",
        "image_size": [100, 200],
        "boxes": [[10, 20, 40, 60], [0.5, 0, 2, 4]],
        "labels": [1, 0],
        "scores": [0.75, 0.25],
        "class_names": ["dog", "cat"],
        "category_ids": [18, 3],
    }  # fmt: skip
    assert detections(image_size=None).to_dict()["image_size"] is None


def test_cpu_keeps_everything_but_the_device():
    found = detections().cpu()
    assert found.boxes.device.type == "cpu"
    assert (found.source, len(found)) == ("a.jpg", 2)


def test_values_cannot_be_assigned():
    with pytest.raises(dataclasses.FrozenInstanceError):
        detections().source = "b.jpg"


def batch():
    target = Target(torch.tensor([[0.0, 0.0, 5.0, 5.0]]), torch.tensor([1]))
    return Batch(
        images=torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        content_sizes=torch.tensor([[8, 6]]),
        scales=torch.tensor([0.5]),
        original_sizes=torch.tensor([[16, 12]]),
        image_ids=(7,),
        targets=[target],
        unreadable=("b.jpg",),
    )


def test_a_target_has_no_crowd_boxes_unless_they_are_given():
    assert batch().targets[0].crowd_boxes.shape == (0, 4)
    first, second = batch().targets[0], batch().targets[0]
    assert first.crowd_boxes is not second.crowd_boxes


def test_a_batch_moves_images_and_targets_and_keeps_ids_on_the_cpu():
    moved = batch().to("meta")
    assert {moved.images.device.type, moved.targets[0].boxes.device.type} == {"meta"}
    assert {moved.targets[0].classes.device.type, moved.targets[0].crowd_boxes.device.type} == {"meta"}
    assert {moved.scales.device.type, moved.original_sizes.device.type} == {"cpu"}
    assert moved.unreadable == ("b.jpg",)


def test_predictions_become_float32():
    half = Predictions(torch.ones(1, 2, 3, dtype=torch.bfloat16), torch.ones(1, 2, 4, dtype=torch.float16)).float()
    assert (half.class_logits.dtype, half.box_deltas.dtype) == (torch.float32, torch.float32)
    assert half.box_deltas.shape == (1, 2, 4)


@pytest.mark.parametrize(
    ("names", "ids", "message"),
    [
        (("a",), (1, 2), "class_names must have one entry per class: num_classes is 2, got 1"),
        (("a", "b"), (1, 2, 3), "category_ids must have one entry per class: num_classes is 2, got 3"),
    ],
)
def test_names_and_ids_must_be_as_many_as_classes(names, ids, message):
    check_same_length(("a", "b"), (1, 2), 2)
    with pytest.raises(ValueError, match=message):
        check_same_length(names, ids, 2)


def test_values_with_tensors_are_compared_by_their_numbers():
    def detections(score=0.5, source="a.jpg"):
        return Detections(torch.ones(1, 4), torch.tensor([0]), torch.tensor([score]), ("cat",), (3,), (8, 8), source)

    assert detections() == detections()
    assert [detections()] == [detections()]
    assert detections() != detections(score=0.4)
    assert detections() != detections(source="b.jpg")
    assert detections() != detections().above(0.9)
    assert detections() != "a.jpg"

    assert Target(torch.ones(2, 4), torch.zeros(2)) == Target(torch.ones(2, 4), torch.zeros(2))
    assert Target(torch.ones(2, 4), torch.zeros(2)) != Target(torch.ones(2, 4), torch.ones(2))
    assert Predictions(torch.ones(1, 2, 3), torch.ones(1, 2, 4)) != Predictions(
        torch.ones(1, 2, 3), torch.zeros(1, 2, 4)
    )


def test_arrays_become_tensors_when_they_are_asked_for():
    given = {name: vars(detections())[name].numpy() for name in ("boxes", "labels", "scores")}
    of_arrays = detections(**given)
    for got, expected in zip(of_arrays.numpy(), given.values(), strict=True):
        assert got is expected
    assert list(of_arrays.above(0.5).of_labels([1])) == list(detections().above(0.5))
    assert of_arrays.of_source("b.jpg").to_dict() == {**detections().to_dict(), "source": "b.jpg"}
    assert of_arrays == detections()
    assert all(isinstance(column, torch.Tensor) for column in (of_arrays.boxes, of_arrays.labels, of_arrays.scores))
    assert dataclasses.replace(of_arrays, source="b.jpg") == detections(source="b.jpg")
    assert pickle.loads(pickle.dumps(of_arrays)) == detections()
