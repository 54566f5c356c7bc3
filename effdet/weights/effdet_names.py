"""Names of modules in PyPI's ``effdet`` beside ours."""

from __future__ import annotations

from collections.abc import Iterator

from effdet.models.architecture import Architecture

NUM_FEATURES = 3  # C3, C4, C5


def module_names(architecture: Architecture, *, level_first: bool) -> dict[str, str]:
    """Return our name → effdet's for every module of neck and heads that holds tensors, of either kind of convolution.

    Modules of the backbone have the same names in both.

    Args:
        architecture: What the network is like.
        level_first: BN of the heads are ordered by level, then by repeat.
    """
    return dict(
        [*_neck(architecture), *_head("class", architecture, level_first), *_head("box", architecture, level_first)]
    )


def node_names(neck: str, num_levels: int) -> list[str]:
    """Return our names of a layer's nodes in the order in which effdet numbers and computes them."""
    ends, inner = range(num_levels - 1), range(num_levels - 2)
    bifpn = [*(f"top_down.{i}" for i in ends), *(f"bottom_up.{i}" for i in inner), "coarsest"]
    if neck == "bifpn":
        return bifpn
    if neck == "pan":
        return [f"{way}.{i}" for way in ("top_down", "bottom_up") for i in range(num_levels)]
    mirror = [*(f"bottom_up.{i}" for i in ends), *(f"top_down.{i}" for i in inner), "finest"]
    join = [f"join.{i}" for i in range(num_levels)]
    return [*(f"upright.{node}" for node in bifpn), *(f"mirror.{node}" for node in mirror), *join]


def fed_nodes(neck: str, num_levels: int) -> dict[str, str]:
    """Return our name of each lateral → the node that it feeds first.

    The number of a lateral counts from C3; that of ``skip_laterals`` from C4.
    """
    coarsest = num_levels - 1
    if neck == "pan":
        return {f"input_laterals.{k}": f"top_down.{coarsest - k}" for k in range(NUM_FEATURES)}
    fed = {f"input_laterals.{k}": f"top_down.{coarsest - 1 - k}" for k in range(NUM_FEATURES)}
    fed |= {f"skip_laterals.{k - 1}": f"bottom_up.{k - 1}" for k in range(1, NUM_FEATURES)}
    if neck == "bifpn":
        return fed
    fed = {lateral: f"upright.{node}" for lateral, node in fed.items()}
    fed |= {f"mirror_laterals.{k}": f"mirror.bottom_up.{max(k - 1, 0)}" for k in range(NUM_FEATURES)}
    fed |= {f"mirror_skip_laterals.{k}": f"mirror.top_down.{coarsest - 1 - k}" for k in range(1, NUM_FEATURES)}
    return fed | {"mirror_skip_laterals.0": "mirror.finest"}


def _neck(architecture: Architecture) -> Iterator[tuple[str, str]]:
    num_levels = architecture.num_levels
    nodes = node_names(architecture.neck, num_levels)
    yield from _lateral("neck.to_p6", f"fpn.resample.{NUM_FEATURES}")
    for lateral, node in fed_nodes(architecture.neck, num_levels).items():
        level = int(lateral[-1]) + lateral.startswith("skip_laterals")
        theirs = f"fpn.cell.0.fnode.{nodes.index(node)}.combine.resample.{level}"
        yield from _lateral(f"neck.{lateral}", theirs)
    for layer in range(architecture.neck_repeats):
        for number, node in enumerate(nodes):
            ours, theirs = f"neck.layers.{layer}.{node}", f"fpn.cell.{layer}.fnode.{number}"
            yield f"{ours}.fuse", f"{theirs}.combine"
            yield from _conv(f"{ours}.conv", f"{theirs}.after_combine.conv")
            yield f"{ours}.bn", f"{theirs}.after_combine.conv.bn"


def _lateral(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.conv", f"{theirs}.conv.conv"
    yield f"{ours}.bn", f"{theirs}.conv.bn"


def _conv(ours: str, theirs: str) -> Iterator[tuple[str, str]]:
    yield f"{ours}.depthwise", f"{theirs}.conv_dw"
    yield f"{ours}.pointwise", f"{theirs}.conv_pw"
    yield ours, f"{theirs}.conv"  # a full one


def _head(kind: str, architecture: Architecture, level_first: bool) -> Iterator[tuple[str, str]]:
    ours, theirs = f"{kind}_head", f"{kind}_net"
    for repeat in range(architecture.head_repeats):
        yield from _conv(f"{ours}.convs.{repeat}", f"{theirs}.conv_rep.{repeat}")
        for level in range(architecture.num_levels):
            place = f"{level}.{repeat}" if level_first else f"{repeat}.{level}.bn"
            yield f"{ours}.bns.{repeat}.{level}", f"{theirs}.bn_rep.{place}"
    yield from _conv(f"{ours}.predict", f"{theirs}.predict")
