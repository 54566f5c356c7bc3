"""Tests of effdet/evaluation/categories.py."""

import pytest
import torch

from effdet.evaluation.categories import match_categories, to_categories
from effdet.structures import Detections


def match(model, dataset):
    return match_categories(
        [name for _, name in model],
        [number for number, _ in model],
        dataset_names=[name for _, name in dataset],
        dataset_ids=[number for number, _ in dataset],
    )


def test_equal_ids_and_names_are_taken_as_they_are():
    assert match([(5, "dog"), (2, "cat")], [(2, "cat"), (5, "dog")]) == (5, 2)


def test_names_decide_where_ids_differ():
    assert match([(0, "cat"), (1, "dog")], [(2, "dog"), (5, "cat")]) == (5, 2)


def test_names_decide_where_ids_are_exchanged():
    assert match([(1, "cat"), (2, "dog")], [(1, "dog"), (2, "cat")]) == (2, 1)


def test_upper_case_and_spaces_around_a_name_do_not_matter():
    assert match([(0, "Cat "), (1, "DOG")], [(2, "dog"), (5, "cat")]) == (5, 2)


def test_a_model_may_have_classes_that_the_data_lacks():
    assert match([(1, "cat"), (2, "dog"), (3, "emu")], [(1, "cat"), (3, "emu")]) == (1, None, 3)
    assert match([(1, "cat"), (2, "dog"), (3, "emu")], [(0, "emu")]) == (None, None, 0)


def test_ids_decide_for_a_model_without_names():
    assert match([(4, "0"), (6, "1")], [(4, "cat"), (6, "dog")]) == (4, 6)


def test_ids_decide_for_data_without_names():
    assert match([(4, "cat"), (6, "dog")], [(4, "4"), (6, "6")]) == (4, 6)


def test_a_name_that_stands_twice_is_told_apart_by_its_id():
    assert match([(1, "cat"), (2, "cat")], [(1, "cat"), (2, "cat")]) == (1, 2)


@pytest.mark.parametrize(
    ("model", "dataset"),
    [
        ([(1, "cat"), (2, "dog")], [(1, "cat"), (2, "emu")]),
        ([(1, "cat")], [(1, "cat"), (2, "dog")]),
        ([(1, "0"), (2, "1")], [(1, "cat"), (3, "dog")]),
        ([(1, "cat"), (2, "cat")], [(3, "cat")]),
        ([(1, "cat"), (2, "dog")], [(3, "cat"), (4, "cat")]),
    ],
)
def test_a_category_without_a_class_is_an_error_that_lists_both(model, dataset):
    with pytest.raises(ValueError, match="the model's classes must include the data set's categories") as caught:
        match(model, dataset)
    for side in (model, dataset):
        assert f"{len(side)} ({', '.join(f'{number} {name}' for number, name in side)})" in str(caught.value)


def test_long_lists_are_shortened():
    many = [(number, f"c{number}") for number in range(80)]
    with pytest.raises(ValueError, match=r"the model has 80 \(0 c0, .*9 c9, …\), the data set 1 \(7 dog\)"):
        match(many, [(7, "dog")])


def test_detections_get_the_data_sets_ids_and_lose_other_classes():
    found = Detections(
        torch.arange(12, dtype=torch.float32).view(3, 4),
        torch.tensor([2, 0, 1]),
        torch.tensor([0.9, 0.8, 0.7]),
        ("cat", "dog", "emu"),
        (1, 2, 3),
    )
    mapped = to_categories(found, (10, None, 30))
    assert [(item.class_name, item.category_id) for item in mapped] == [("emu", 30), ("cat", 10)]
    torch.testing.assert_close(mapped.boxes, found.boxes[:2])
    torch.testing.assert_close(mapped.scores, found.scores[:2])


def test_no_detections_stay_none():
    empty = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0), ("cat",), (1,))
    assert len(to_categories(empty, (None,))) == 0
