"""The text form of a block of an EfficientNet-like backbone, as timm writes it: ``ir_r2_k3_s2_e6_c24_se0.25``.

The first word is the kind of block, and the others follow in any order:

    ir   inverted residual: 1×1 expansion, depthwise k×k, 1×1 projection      needs e
    ds   depthwise k×k, 1×1 projection; dsa has an activation behind the projection, and no skip connection
    er   fused inverted residual: full k×k expansion, 1×1 projection          needs e
    cn   one full k×k convolution
    uir  universal inverted bottleneck of MobileNetV4: depthwise a×a, 1×1 expansion, depthwise k×k, 1×1
         projection, depthwise p×p; a kernel of 0 leaves its convolution out   needs e
    mha  attention; mqa attention with one key and value for all heads         need h and d

    r  repeats                               e   expanded width / input width
    k  kernel; 3.5.7 splits the channels     se  width of squeeze-and-excite; see ``backbone_blocks.py`` for its base
       among kernels 3, 5 and 7              n   activation instead of the family's: re, r6, hs, sw or mi
    s  stride of the first repeat, 1 or 2    noskip  without skip connection;  skip  with one (cn, which has none)
    c  output width                          a, p    kernels of the first and last convolution (ir, er, ds: 1)
    gs channels in a group of the k×k convolution;  cc  experts;  h, d, v  heads, their width, stride of the keys
    fc input width that e counts from (er)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

BlockStrings = tuple[tuple[str, ...], ...]

KINDS = {
    "ir": {"a", "p", "e", "se", "n", "noskip", "gs", "cc"},
    "ds": {"p", "se", "n", "noskip", "gs"},
    "dsa": {"p", "se", "n", "gs"},
    "er": {"p", "e", "se", "n", "noskip", "gs", "fc"},
    "cn": {"n", "skip", "gs"},
    "uir": {"a", "p", "e", "se", "n", "noskip", "gs"},
    "mha": {"h", "d", "n", "noskip"},
    "mqa": {"h", "d", "v", "n", "noskip"},
}
ACTIVATIONS = {"re": "relu", "r6": "relu6", "hs": "hard_swish", "sw": "swish", "mi": "mish"}  # code → timm's name
STRIDED_STAGES = 4  # behind a stem of stride 2 they lead to stride 32

_FOR_ALL = ("r", "k", "s", "c")
_NEEDED = {kind: ("h", "d") if kind in ("mha", "mqa") else ("e",) if "e" in KINDS[kind] else () for kind in KINDS}
_MAY_BE_ZERO = ("k", "a", "p")  # in a universal inverted bottleneck
_WORD = re.compile(r"(?P<flag>noskip|skip)|n(?P<activation>[a-z]\w)|(?P<key>[a-z]+)(?P<value>\d[\d.]*(?:e-?\d+)?)")


@dataclass(frozen=True, kw_only=True)
class Block:
    """One block, or several of the same form, as its string says it; ``str`` gives the string.

    The names of the letters are in the docstring of the module. None: the block has none, or timm's default.
    """

    kind: str
    channels: int  # c, output width
    kernel: tuple[int, ...] = (3,)  # k; several: the channels are split among them
    stride: int = 1  # s, of the first repeat
    expansion: float | None = None  # e
    se: float = 0.0
    repeats: int = 1  # r
    activation: str | None = None  # n, a key of ACTIVATIONS; None: the family's
    skip: bool | None = None  # False: noskip; True: skip; None: what the kind has
    first_kernel: tuple[int, ...] | None = None  # a
    last_kernel: tuple[int, ...] | None = None  # p
    group_size: int | None = None  # gs
    experts: int | None = None  # cc
    heads: int | None = None  # h
    head_width: int | None = None  # d
    key_stride: int | None = None  # v
    expansion_base: int | None = None  # fc

    def __str__(self) -> str:
        words = [self.kind, f"r{self.repeats}"]
        words += [f"{key}{_kernel_text(size)}" for key, size in self._kernels() if size is not None]
        words.append(f"s{self.stride}")
        words += [f"e{_number(self.expansion)}"] if self.expansion is not None else []
        words.append(f"c{self.channels}")
        words += [f"se{_number(self.se)}"] if self.se else []
        words += [f"{key}{value}" for key, value in self._whole_numbers() if value is not None]
        words += [f"n{self.activation}"] if self.activation else []
        words += [] if self.skip is None else ["skip" if self.skip else "noskip"]
        return "_".join(words)

    def _kernels(self) -> tuple[tuple[str, tuple[int, ...] | None], ...]:
        return ("a", self.first_kernel), ("k", self.kernel), ("p", self.last_kernel)

    def _whole_numbers(self) -> tuple[tuple[str, int | None], ...]:
        return (
            ("gs", self.group_size),
            ("cc", self.experts),
            ("h", self.heads),
            ("d", self.head_width),
            ("v", self.key_stride),
            ("fc", self.expansion_base),
        )


def parse_block(text: str) -> Block:
    """Return the block that a string describes.

    Raises:
        ValueError: If timm would not understand a part of the string, or would ignore it.
    """
    kind, *words = text.split("_")
    if kind not in KINDS:
        raise ValueError(f"a block must begin with one of {', '.join(KINDS)}, got '{text}'")
    values: dict[str, Any] = {}
    for word in words:
        key, value = _read_word(word, text)
        if key in values:
            raise ValueError(f"a block must say '{key}' once, got '{text}'")
        values[key] = value
    if kind in ("ds", "dsa", "cn") and values.get("e") == 1:
        del values["e"]  # timm writes it in some models; these blocks have no expansion
    _check_words(kind, values, text)
    _check_values(kind, values, text)
    return _block(kind, values)


def check_stages(name: str, stages: Sequence[Sequence[str]]) -> None:
    """Check that the blocks lead to features at strides 8, 16 and 32.

    Raises:
        ValueError: If a block behind the first of its stage has stride 2, the strides do not reach 32, or a feature
            would come out of attention, for which timm has no place to take it from.
    """
    blocks = [[parse_block(text) for text in stage] for stage in stages]
    for number, stage in enumerate(blocks):
        if any(block.stride != 1 for block in stage[1:]):
            raise ValueError(
                f"{name} must have stride 2 in the first block of a stage only, got {list(stages[number])} in stage "
                f"{number}; begin a new stage there"
            )
    strided = sum(stage[0].stride == 2 for stage in blocks)
    if strided != STRIDED_STAGES:
        raise ValueError(
            f"{name} must have {STRIDED_STAGES} stages that begin with stride 2, so that with the stem the stride is "
            f"32, got {strided}"
        )
    before_stride = [stage[-1] for stage, after in pairwise(blocks) if after[0].stride == 2]
    if any(block.heads for block in (*before_stride, blocks[-1][-1])):
        raise ValueError(
            f"{name} must not have attention as the last block before a stage of stride 2 or at the end, where a "
            "feature map is taken; put another block behind it"
        )


def _read_word(word: str, text: str) -> tuple[str, Any]:
    match = _WORD.fullmatch(word)
    try:
        if match is None:
            raise ValueError(word)
        if match["flag"]:
            return match["flag"], True
        if match["activation"]:
            return "n", match["activation"]
        return match["key"], _value(match["key"], match["value"])
    except ValueError as error:
        raise ValueError(f"a block must be words such as 'k3', got '{word}' in '{text}'") from error


def _value(key: str, value: str) -> Any:
    if key in ("e", "se"):
        return float(value)
    return tuple(int(size) for size in value.split(".")) if key in ("k", "a", "p") else int(value)


def _check_words(kind: str, values: dict[str, Any], text: str) -> None:
    missing = [key for key in (*_FOR_ALL, *_NEEDED[kind]) if key not in values]
    if missing:
        raise ValueError(f"a block of kind '{kind}' must have {', '.join(missing)}, got '{text}'")
    unknown = sorted(set(values) - KINDS[kind] - set(_FOR_ALL))
    if unknown:
        raise ValueError(f"a block of kind '{kind}' must not have {', '.join(unknown)}, got '{text}'")


def _check_values(kind: str, values: dict[str, Any], text: str) -> None:
    if values["s"] not in (1, 2):
        raise ValueError(f"a block must have stride 1 or 2, got '{text}'")
    if values.get("n", "re") not in ACTIVATIONS:
        raise ValueError(f"the activation of a block must be one of {', '.join(ACTIVATIONS)}, got '{text}'")
    kernels = [size for key in _MAY_BE_ZERO for size in values.get(key, ())]
    if any(size % 2 == 0 and not (kind == "uir" and size == 0) for size in kernels):
        raise ValueError(f"a block must have odd kernels, got '{text}'")
    if kind == "uir" and values["s"] == 2 and not any(kernels):
        raise ValueError(f"a block of kind 'uir' must have a kernel that can carry its stride, got '{text}'")
    zero = [key for key, value in values.items() if value == 0 and key not in (*_MAY_BE_ZERO, "se")]
    if zero:
        raise ValueError(f"a block must have positive numbers, got {zero[0]}0 in '{text}'")
    if kind == "cn" and len(values["k"]) > 1:
        raise ValueError(f"a block of kind 'cn' must have one kernel, got '{text}'")


def _block(kind: str, values: dict[str, Any]) -> Block:
    return Block(
        kind=kind,
        channels=values["c"],
        kernel=values["k"],
        stride=values["s"],
        expansion=values.get("e"),
        se=values.get("se", 0.0),
        repeats=values["r"],
        activation=values.get("n"),
        skip=False if "noskip" in values else True if "skip" in values else None,
        first_kernel=values.get("a"),
        last_kernel=values.get("p"),
        group_size=values.get("gs"),
        experts=values.get("cc"),
        heads=values.get("h"),
        head_width=values.get("d"),
        key_stride=values.get("v"),
        expansion_base=values.get("fc"),
    )


def _kernel_text(size: tuple[int, ...]) -> str:
    return ".".join(map(str, size))


def _number(value: float) -> str:
    return f"{value:g}" if float(f"{value:g}") == value else repr(value)
