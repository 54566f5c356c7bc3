import ctypes
import re

import pytest
import torch

from effdet.kernels.library import SOURCE, load_kernels
from effdet.kernels.signatures import SIGNATURES, Number, checked

C_TYPES = {"double": ctypes.c_double, "int64_t": ctypes.c_int64}
C_DTYPES = {"void": None, "float": torch.float32, "double": torch.float64, "int64_t": torch.int64}


def declared(name):
    """Return type and name of every argument of a function in the source."""
    arguments = re.search(rf"void {name}\(([^)]*)\) \{{", SOURCE.read_text()[SOURCE.read_text().index('extern "C"') :])[
        1
    ]
    return [re.fullmatch(r"\s*(?:const )?(\w+)(\*?) (\w+)\s*", part).groups() for part in arguments.split(",")]


@pytest.mark.parametrize("name", SIGNATURES)
def test_the_signature_is_that_of_the_source(name):
    for (kind, pointer, _), argument in zip(declared(name), SIGNATURES[name], strict=True):
        assert isinstance(argument, Number) == (not pointer), argument
        if pointer:
            assert (argument.dtype, argument.c_type) == (C_DTYPES[kind], ctypes.c_void_p), argument
        else:
            assert argument.c_type is C_TYPES[kind], argument


def call(**changes):
    """Return the arguments of act_forward on 3 rows of 8 channels, with changes."""
    good = {"x": torch.zeros(3, 8), "rows": 3, "channels": 8, "scale": torch.ones(8), "shift": torch.ones(8)}
    return list((good | {"activation": 1, "y": torch.zeros(3, 8)} | changes).values())


def test_what_fits_is_passed_on():
    arguments = call()
    passed = checked("act_forward", arguments)
    assert passed == [value.data_ptr() if isinstance(value, torch.Tensor) else value for value in arguments] + [0]


def test_all_maps_of_a_call_hold_the_same_type():
    half = torch.zeros(3, 8, dtype=torch.bfloat16)
    assert checked("act_forward", call(x=half, y=half.clone()))[-1] == 1
    for one in ({"x": half}, {"y": half}):
        with pytest.raises(ValueError, match=r"y of act_forward must have 24 elements of torch\.(bfloat16|float32)"):
            checked("act_forward", call(**one))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": torch.zeros(2, 8)}, r"x of act_forward must have 24 elements of torch.float32.*got \(2, 8\)"),
        ({"x": torch.zeros(3, 8).double()}, r"x of act_forward must have .*got \(3, 8\) of torch.float64"),
        ({"y": torch.zeros(8, 3).t()}, r"y of act_forward must have .* without gaps.* with strides \(1, 3\)"),
        ({"y": torch.zeros(3, 8, device="meta")}, "y of act_forward must have .*on the CPU; got .* on meta"),
        ({"scale": torch.ones(1)}, "scale of act_forward must have 8 elements"),
        ({"channels": 6}, "channels of act_forward must be a multiple of 8, got 6"),
        ({"activation": 3}, r"activation of act_forward must be one of \(0, 1, 2\), got 3"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        checked("act_forward", call(**changes))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (call(x=None), "x of act_forward must be a tensor, got NoneType"),
        (call(rows=torch.tensor(3)), "rows of act_forward must be a number, got Tensor"),
        (call()[:-1], "act_forward takes 7 arguments, got 6"),
    ],
)
def test_arguments_of_another_kind_are_refused(arguments, message):
    with pytest.raises(TypeError, match=message):
        checked("act_forward", arguments)


def convolution(*, kernel=3, weights=72, **changes):
    shape = {"images": 1, "height": 4, "width": 4, "channels": 8, "stride": 1, "top": 1, "left": 1}
    shape |= {"out_height": 4, "out_width": 4} | changes
    maps, vector = torch.zeros(4 * 4 * 8), torch.ones(8)
    sizes = torch.tensor(list(shape.values()))
    return [maps, vector, vector, 0, torch.zeros(weights), kernel, sizes, maps.clone(), None]


def test_a_convolution_may_leave_out_its_moments():
    assert checked("depthwise_forward", convolution())[-2:] == [None, 0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": 4}, "depthwise_forward must have a kernel"),
        ({"stride": 3}, "stride 1 or 2, got 3, 3"),
        ({"left": 9}, "sizes of depthwise_forward must be those of a padded map"),
        ({"out_width": 9}, "sizes of depthwise_forward must be those of a padded map"),
        ({"images": 2}, "x of depthwise_forward must have 256 elements"),
        ({"weights": 64}, "weight of depthwise_forward must have 72 elements"),
    ],
)
def test_a_convolution_that_would_read_outside_of_its_map_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        checked("depthwise_forward", convolution(**changes))


@pytest.mark.skipif(load_kernels() is None, reason="this machine cannot compile the kernels")
def test_the_compiled_function_is_called_with_what_was_checked():
    x, y = torch.tensor([[-1.0, 0, 1, 2, 3, 4, 5, 9]]), torch.empty(1, 8)
    load_kernels()("act_forward", x, 1, 8, torch.full((8,), 2.0), torch.ones(8), 2, y)
    assert y.tolist() == [[0, 1, 3, 5, 6, 6, 6, 6]]
    with pytest.raises(ValueError, match="x of act_forward must have"):
        load_kernels()("act_forward", x.double(), 1, 8, torch.ones(8), torch.ones(8), 2, y)
