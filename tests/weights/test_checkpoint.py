import pytest
import torch

from effdet.weights.checkpoint import check_fit

OWN = {"a.weight": torch.zeros(2, 3), "a.bias": torch.zeros(2), "bn.num_batches_tracked": torch.tensor(0)}


def test_equal_names_and_shapes_fit_with_or_without_counters():
    check_fit(OWN, OWN, "x")
    check_fit(OWN, {"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}, "x")


def test_every_kind_of_misfit_is_counted_and_named():
    given = {"a.weight": torch.zeros(3, 3), "b": torch.zeros(1)}
    with pytest.raises(
        ValueError,
        match=r"w.pth does not fit: 1 tensors missing \(a.bias\), 1 tensors unknown \(b\), "
        r"1 tensors of another shape \(a.weight \(3, 3\) for \(2, 3\)\)",
    ):
        check_fit(OWN, given, "w.pth does not fit")


def test_a_long_list_is_cut():
    with pytest.raises(ValueError, match=r"^x: 8 tensors unknown \(0, 1, 2, 3, 4, 5, …\)$"):
        check_fit({}, {str(i): torch.zeros(1) for i in range(8)}, "x")


def test_shapes_alone_are_enough_to_compare():
    with pytest.raises(ValueError, match=r"^x: 1 tensors of another shape \(a \(2,\) for \(3,\)\)$"):
        check_fit({"a": torch.Size([3])}, {"a": torch.zeros(2)}, "x")


def test_quantised_weights_are_refused():
    with pytest.raises(ValueError, match=r"1 tensors of whole numbers, as quantised weights are \(a int8\)"):
        check_fit({"a": torch.zeros(2)}, {"a": torch.zeros(2, dtype=torch.int8)}, "x")
