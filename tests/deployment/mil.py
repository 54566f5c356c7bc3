"""Compute a Core ML program with PyTorch, by the definitions of its operators, as Core ML itself needs a Mac."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def run_program(program: Any, image: Tensor) -> list[Tensor]:
    """Return the outputs of an ML program with one input, in float32.

    Operators are those of coremltools' documentation of MIL, and no others: a new one is an error.
    """
    function = program.functions["main"]
    (name,) = function.inputs
    values = {name: image}

    def read(variable: Any) -> Any:
        if variable is None or isinstance(variable, str):
            return variable
        if variable.val is None:
            return values[variable.name]
        if isinstance(variable.val, np.ndarray) and variable.val.dtype.kind == "f":
            return torch.from_numpy(np.array(variable.val, np.float32))
        return variable.val

    for operation in function.operations:
        if operation.op_type == "const":
            continue
        inputs = {
            key: [read(one) for one in variable] if isinstance(variable, list | tuple) else read(variable)
            for key, variable in operation.inputs.items()
        }
        values[operation.outputs[0].name] = OPERATORS[operation.op_type](**inputs)
        assert tuple(values[operation.outputs[0].name].shape) == tuple(operation.outputs[0].shape)
    return [values[output.name] for output in function.outputs]


def conv(*, x, weight, strides, pad_type, pad, dilations, groups, bias=None):
    if pad_type == "custom":
        x = F.pad(x, [int(side) for side in (pad[2], pad[3], pad[0], pad[1])])
    else:
        assert pad_type == "valid"
    return F.conv2d(x, weight, bias, tuple(strides), 0, tuple(dilations), int(groups))


def max_pool(*, x, kernel_sizes, strides, pad_type, pad, ceil_mode):
    """Windows beyond the padded map count what is inside, if they begin inside."""
    assert pad_type == "custom"
    x = F.pad(x, [int(side) for side in (pad[2], pad[3], pad[0], pad[1])], value=-torch.inf)
    return F.max_pool2d(x, tuple(kernel_sizes), tuple(strides), 0, ceil_mode=bool(ceil_mode))


def pad(*, x, pad, mode, constant_val):
    assert mode == "constant"
    widths = [int(side) for pair in reversed(np.reshape(pad, (-1, 2)).tolist()) for side in pair]
    return F.pad(x, widths, value=float(constant_val))


def upsample_nearest_neighbor(*, x, scale_factor_height, scale_factor_width):
    """Whole factors only: what a runtime does with others is not said."""
    assert float(scale_factor_height).is_integer()
    assert float(scale_factor_width).is_integer()
    return x.repeat_interleave(int(scale_factor_height), 2).repeat_interleave(int(scale_factor_width), 3)


def slice_by_index(*, x, begin, end, end_mask, begin_mask=None, stride=None, squeeze_mask=None):
    assert squeeze_mask is None or not np.any(squeeze_mask)
    parts = []
    for axis, size in enumerate(x.shape):
        start = 0 if begin_mask is not None and begin_mask[axis] else int(begin[axis])
        stop = size if end_mask[axis] else int(end[axis])
        parts.append(slice(start, stop, 1 if stride is None else int(stride[axis])))
    return x[tuple(parts)]


OPERATORS = {
    "conv": conv,
    "max_pool": max_pool,
    "pad": pad,
    "upsample_nearest_neighbor": upsample_nearest_neighbor,
    "slice_by_index": slice_by_index,
    "relu6": lambda *, x: x.clamp(0, 6),
    "clip": lambda *, x, alpha, beta: x.clamp(float(alpha), float(beta)),
    "silu": lambda *, x: x * x.sigmoid(),
    "sigmoid": lambda *, x: x.sigmoid(),
    "add": lambda *, x, y: x + y,
    "sub": lambda *, x, y: x - y,
    "mul": lambda *, x, y: x * y,
    "real_div": lambda *, x, y: x / y,
    "reduce_mean": lambda *, x, axes, keep_dims: x.mean(tuple(int(axis) for axis in axes), bool(keep_dims)),
    "transpose": lambda *, x, perm: x.permute(*(int(axis) for axis in perm)),
    "reshape": lambda *, x, shape: x.reshape(*(int(side) for side in shape)),
    "concat": lambda *, values, axis, interleave=False: torch.cat(values, int(axis)),
    "cast": lambda *, x, dtype: x,
}
