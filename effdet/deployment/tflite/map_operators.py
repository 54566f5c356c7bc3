"""How operators on maps are written in TFLite: convolution, pooling, means, resizing and padding."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np

from effdet.deployment.tflite.convert import Converter, attributes
from effdet.deployment.tflite.padding import Padding, pad, padding_of


def write_conv(to: Converter, node: Any) -> None:
    """Conv → CONV_2D or DEPTHWISE_CONV_2D: weights (O, I, kH, kW) → (O, kH, kW, I) or (1, kH, kW, O)."""
    values, x = attributes(node), to.channels_last(node.input[0])
    weight, bias = to.required(node, 1), to.constant(node, 2)
    if weight.ndim != 4:
        raise ValueError(f"Conv ('{node.name}') must have two dimensions in a .tflite file; export to another format")
    groups, channels = values.get("group", 1), x.shape[1]
    is_depthwise = groups == channels and groups > 1
    stored = weight.transpose(1, 2, 3, 0) if is_depthwise else weight.transpose(0, 2, 3, 1)
    padding = padding_of(values, weight.shape[2:], x.shape[2:])
    tensor = pad(to, x.tensor, padding)
    name = node.input[1]
    inputs = [tensor, to.graph.constant(stored, name)]
    inputs.append(to.graph.constant(np.zeros(len(weight), np.float32) if bias is None else bias, f"{name}.bias"))
    options = _conv_options(to, padding, len(weight) // channels if is_depthwise else None)
    kind = "DEPTHWISE_CONV_2D" if is_depthwise else "CONV_2D"
    version = 6 if 1 < groups < channels else 2 if is_depthwise and padding.dilations != (1, 1) else 1
    shape = (x.shape[0], *padding.out, len(weight))
    to.set(node, to.add(kind, inputs, shape, options, version=version), channels_last=True)


def _conv_options(to: Converter, padding: Padding, multiplier: int | None) -> Any:
    stride_h, stride_w = padding.strides
    dilation_h, dilation_w = padding.dilations
    values = {"strideH": stride_h, "strideW": stride_w, "dilationHFactor": dilation_h, "dilationWFactor": dilation_w}
    values["padding"] = padding.kind(to.graph.schema)
    if multiplier is None:
        return to.graph.options("Conv2D", **values)
    return to.graph.options("DepthwiseConv2D", depthMultiplier=multiplier, **values)


def pool_writer(kind: str) -> Callable[[Converter, Any], None]:
    """Return what writes AveragePool and MaxPool as AVERAGE_POOL_2D or MAX_POOL_2D."""

    def write(to: Converter, node: Any) -> None:
        values, x = attributes(node), to.channels_last(node.input[0])
        padding = padding_of(values, values["kernel_shape"], x.shape[2:])
        fill: Literal["zeros", "edge"] = "edge" if kind == "MAX_POOL_2D" else "zeros"
        excluded = kind == "AVERAGE_POOL_2D" and not values.get("count_include_pad", 0)
        if excluded and not padding.is_same and any(map(any, padding.explicit)):
            raise ValueError(
                f"AveragePool ('{node.name}') that leaves out its padding must be padded as TFLite pads in a .tflite "
                f"file, got {padding.explicit}; export this model to another format"
            )
        if kind == "AVERAGE_POOL_2D" and not excluded:
            padding = padding.made_explicit()
        tensor = pad(to, x.tensor, padding, fill)
        height, width = padding.kernel
        options = to.graph.options(
            "Pool2D",
            strideH=padding.strides[0],
            strideW=padding.strides[1],
            filterHeight=height,
            filterWidth=width,
            padding=padding.kind(to.graph.schema),
        )
        shape = (x.shape[0], *padding.out, x.shape[1])
        to.set(node, to.add(kind, [tensor], shape, options), channels_last=True)

    return write


def write_mean(to: Converter, node: Any) -> None:
    """ReduceMean and GlobalAveragePool → MEAN."""
    write_reduction(to, node, "MEAN")


def write_reduction(to: Converter, node: Any, kind: str) -> None:
    """Write a reduction over some axes as MEAN or REDUCE_MAX."""
    values, x = attributes(node), to.value(node.input[0])
    if node.op_type.startswith("Global"):
        axes = [2, 3]
    else:
        given = to.constant(node, 1)
        axes = list(values.get("axes", range(len(x.shape)) if given is None else given.tolist()))
    keep = bool(values.get("keepdims", 1))
    x = x if keep else to.onnx_order(node.input[0])
    places = sorted(x.axis(axis) for axis in axes)
    shape = [1 if place in places else side for place, side in enumerate(x.tensor.shape)]
    if not keep:
        shape = [side for place, side in enumerate(x.tensor.shape) if place not in places]
    inputs = [x.tensor, to.graph.constant(np.array(places, np.int32))]
    result = to.add(kind, inputs, shape, to.graph.options("Reducer", keepDims=keep))
    to.set(node, result, x.channels_last and keep)


def write_resize(to: Converter, node: Any) -> None:
    """Resize → RESIZE_NEAREST_NEIGHBOR by ⌊i·in/out⌋, or RESIZE_BILINEAR between pixel centres."""
    values, x = attributes(node), to.channels_last(node.input[0])
    sizes = to.constant(node, 3)
    if sizes is None:
        sizes = np.floor(np.array(x.shape) * to.required(node, 2))
    height, width = (int(side) for side in sizes[-2:])
    mode, rule = values.get("mode", "nearest"), values.get("coordinate_transformation_mode", "half_pixel")
    rounding = values.get("nearest_mode", "round_prefer_floor") if mode == "nearest" else ""
    known = {
        ("nearest", "asymmetric", "floor"): ("RESIZE_NEAREST_NEIGHBOR", "ResizeNearestNeighbor", {}),
        ("linear", "half_pixel", ""): ("RESIZE_BILINEAR", "ResizeBilinear", {"halfPixelCenters": True}),
        ("linear", "pytorch_half_pixel", ""): ("RESIZE_BILINEAR", "ResizeBilinear", {"halfPixelCenters": True}),
        ("linear", "align_corners", ""): ("RESIZE_BILINEAR", "ResizeBilinear", {"alignCorners": True}),
    }
    if (mode, rule, rounding) not in known or values.get("antialias", 0):
        raise ValueError(
            f"Resize ('{node.name}') must be nearest by rounding down, or bilinear, in a .tflite file, got "
            f"{mode}, {rule} {rounding}; export this model to another format"
        )
    kind, options, flags = known[mode, rule, rounding]
    inputs = [x.tensor, to.graph.constant(np.array([height, width], np.int32))]
    shape = (x.shape[0], height, width, x.shape[1])
    version = 3 if flags.get("halfPixelCenters") else 1
    to.set(node, to.add(kind, inputs, shape, to.graph.options(options, **flags), version=version), channels_last=True)


def write_pad(to: Converter, node: Any) -> None:
    """Pad → PAD, with zeros."""
    values, x = attributes(node), to.value(node.input[0])
    pads, fill, axes = to.required(node, 1), to.constant(node, 2), to.constant(node, 3)
    if values.get("mode", "constant") != "constant" or (fill is not None and fill.any()) or axes is not None:
        raise ValueError(f"Pad ('{node.name}') must pad with zeros in a .tflite file; export to another format")
    rank = len(x.shape)
    amounts = np.zeros((rank, 2), np.int32)
    for axis in range(rank):
        amounts[x.axis(axis)] = pads[axis], pads[axis + rank]
    shape = [side + int(amount.sum()) for side, amount in zip(x.tensor.shape, amounts, strict=True)]
    inputs = [x.tensor, to.graph.constant(amounts)]
    to.set(node, to.add("PAD", inputs, shape, to.graph.options("Pad")), x.channels_last)
