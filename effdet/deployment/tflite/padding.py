"""Padding of convolutions and pools: TFLite's ``SAME`` and ``VALID`` where they fit, else operators before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    from effdet.deployment.tflite.convert import Converter
    from effdet.deployment.tflite.graph import Tensor

Pair = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Padding:
    """How a window of a convolution or pool moves over a map; all pairs are (vertical, horizontal)."""

    kernel: Pair
    strides: Pair
    dilations: Pair
    explicit: tuple[Pair, Pair]  # cells (before, after) of each side
    is_same: bool  # whether TFLite's SAME pads so
    out: Pair  # cells of the result

    def kind(self, schema: Any) -> int:
        """Return the value of the schema: ``SAME``, or ``VALID`` after what ``pad`` adds."""
        return int(schema.Padding.SAME if self.is_same else schema.Padding.VALID)

    def made_explicit(self) -> Padding:
        """Return the same padding by zeros that count, unless there is none."""
        return replace(self, is_same=self.is_same and not any(map(any, self.explicit)))


def padding_of(attributes: Mapping[str, Any], kernel: Sequence[int], size: Sequence[int]) -> Padding:
    """Return the padding of an ONNX node.

    Args:
        attributes: Those of the node: pads, auto_pad, strides, dilations, ceil_mode.
        kernel: (height, width) of the window.
        size: (height, width) of the map.
    """
    strides, dilations = attributes.get("strides", (1, 1)), attributes.get("dilations", (1, 1))
    pads = attributes.get("pads", (0, 0, 0, 0))
    auto, ceil_mode = attributes.get("auto_pad", "NOTSET"), attributes.get("ceil_mode", 0)
    explicit, is_same, out = [], [], []
    for axis in (0, 1):
        reach = (kernel[axis] - 1) * dilations[axis] + 1
        same_out = -(-size[axis] // strides[axis])
        total = max((same_out - 1) * strides[axis] + reach - size[axis], 0)
        same = (total // 2, total - total // 2)
        given = {"SAME_UPPER": same, "SAME_LOWER": same[::-1]}.get(auto, (pads[axis], pads[axis + 2]))
        room = size[axis] + sum(given) - reach
        cells = (-(-room // strides[axis]) if ceil_mode else room // strides[axis]) + 1
        given = (given[0], given[1] + max((cells - 1) * strides[axis] - room, 0))
        explicit.append(given)
        is_same.append(given == same and cells == same_out)
        out.append(cells)
    return Padding(
        kernel=(kernel[0], kernel[1]),
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        explicit=(explicit[0], explicit[1]),
        is_same=all(is_same),
        out=(out[0], out[1]),
    )


def pad(to: Converter, tensor: Tensor, padding: Padding, fill: Literal["zeros", "edge"] = "zeros") -> Tensor:
    """Return a map (B, H, W, C) with the cells around it that TFLite's own padding does not add.

    With ``edge`` the outer cells are repeated. For a max-pool this equals a padding of -inf, as each window that sees a
    copy sees the cell itself too; and a number as low as that would leave int8 no levels for the others.
    """
    if padding.is_same or not any(map(any, padding.explicit)):
        return tensor
    amounts = np.array([(0, 0), *padding.explicit, (0, 0)], np.int32)
    shape = [side + int(amount.sum()) for side, amount in zip(tensor.shape, amounts, strict=True)]
    inputs, schema = [tensor, to.graph.constant(amounts)], to.graph.schema
    if fill == "zeros":
        return to.add("PAD", inputs, shape, to.graph.options("Pad"))
    return to.add("MIRROR_PAD", inputs, shape, to.graph.options("MirrorPad", mode=schema.MirrorPadMode.SYMMETRIC))
