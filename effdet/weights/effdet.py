"""Convert checkpoints of PyPI's ``effdet`` (efficientdet-pytorch) to our format, and ours to its format.

Its backbone has timm's names, as ours. The other parts differ in

    nodes of a neck     fpn.cell.R.fnode.N, one list in the order of computation; ours are named by their pass
    laterals            in the node that uses them, under the number of the level that they come from
    BN of the heads     bn_rep.REPEAT.LEVEL.bn, or bn_rep.LEVEL.REPEAT in models made for TorchScript
    box channels        ty, tx, th, tw for each anchor; ours are dx, dy, dw, dh

The model is recognised from names and shapes; if several fit, a file name or the checkpoint's ``arch`` decides.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from effdet.models.architecture import Architecture
from effdet.models.published import ADVPROP_MODELS, GOOGLE_MODELS, PUBLISHED, ZYLO_MODELS, list_variants
from effdet.weights.checkpoint import Checkpoint, check_fit, network_shapes
from effdet.weights.effdet_names import module_names

FAMILY = "effdet"
_WRAPPERS = r"(?:(?:module|model|_orig_mod)\.)*"  # of DataParallel, the training and prediction benches, torch.compile
_MARK = re.compile(rf"({_WRAPPERS})fpn\.cell\.0\.fnode\.0\.")
_BIAS_BEFORE_BN = re.compile(
    r"neck\..*\.conv(?:\.pointwise)?\.bias|(?:class|box)_head\.convs\.\d+(?:\.pointwise)?\.bias"
)
_BOX_OUTPUTS = re.compile(r"box_head\.predict(?:\.pointwise)?\.(?:weight|bias)")
# Models whose file orders the BN of the heads by repeat; the others order them by level.
_REPEAT_FIRST = re.compile(r"tf_.*|efficientdet_d\d|resdet50")


def recognises(names: Collection[str]) -> bool:
    """Return whether these are names of a detector of PyPI's effdet, with or without prefixes of wrappers."""
    return any(_MARK.match(name) for name in names) and any("class_net.predict" in name for name in names)


def convert(tensors: Mapping[str, Tensor], hint: str = "") -> Checkpoint:
    """Convert a state dict to our names, shapes and orders.

    Args:
        tensors: A state dict of the model, or of a bench around it.
        hint: File name or the checkpoint's ``arch``. It chooses between models that fit equally. Without a hint,
            ``tf_efficientdet_*`` is preferred to ``efficientdet_*``, no AdvProp to AdvProp (``_ap``), and D6 to D7. A
            hint that is exactly a model's name is used even if the model differs in its biases before BN: a bias that
            the model lacks is folded into the BN, and a bias that the file lacks is set to zero.

    Raises:
        ValueError: If no model fits; the message lists what is missing, unknown, or of another shape.
    """
    state, sources, skipped = _unwrapped(tensors)
    layout = _Layout.of(state)
    candidates = _candidates(layout)
    names = module_names(Architecture.named(candidates[0]), level_first=layout.level_first)
    names = {theirs: ours for ours, theirs in names.items()}
    renamed = {_renamed(name, names): name for name in state}
    converted = {ours: _swapped(ours, state[theirs]) for ours, theirs in renamed.items()}

    variant, alternatives = _choose(converted, candidates, layout.num_classes, hint)
    adapted = _with_biases_of(variant, converted, layout.num_classes)
    what = f"the effdet checkpoint does not fit {variant}"
    check_fit(network_shapes(Architecture.named(variant), layout.num_classes), adapted, what)
    return Checkpoint(
        family=FAMILY,
        variant=variant,
        num_classes=layout.num_classes,
        state=adapted,
        sources={ours: sources[renamed[ours]] for ours in adapted if ours in renamed},
        skipped=tuple(skipped),
        alternatives=alternatives,
    )


def effdet_name(variant: str) -> str:
    """Return the name of effdet's model with the same structure as a model of google or zylo117.

    Names of effdet's own models are returned unchanged. zylo117's models pad with zeros before max-pooling, which no
    model of effdet does.

    Raises:
        ValueError: If it is no published architecture.
    """
    if variant not in PUBLISHED:
        raise ValueError(f"PyPI's effdet must have the model, but has none like '{variant}'; save it in our own layout")
    if variant in GOOGLE_MODELS or variant in ADVPROP_MODELS:
        return f"tf_efficientdet_{variant}"
    if variant in ZYLO_MODELS:
        return f"tf_efficientdet_{variant.removeprefix('efficientdet-').replace('d8', 'd7x')}"
    return variant


def to_effdet(state: Mapping[str, Tensor], variant: str) -> dict[str, Tensor]:
    """Return a state dict that ``effdet.create_model(effdet_name(variant))`` loads.

    Args:
        state: State dict of ``EfficientDet.network``.
        variant: Name of its architecture.

    Raises:
        ValueError: If the state is not that of the variant, or effdet has no such model.
    """
    level_first = not _REPEAT_FIRST.fullmatch(effdet_name(variant))
    outputs = [value for name, value in state.items() if re.fullmatch(r"class_head\.predict.*bias", name)]
    num_classes = len(outputs[0]) // Architecture.named(variant).anchors_per_cell if outputs else 1
    check_fit(network_shapes(Architecture.named(variant), num_classes), state, f"the state is not that of {variant}")
    names = module_names(Architecture.named(variant), level_first=level_first)
    return {_renamed(name, names): _swapped(name, value) for name, value in state.items()}


# -------------------------------------------------------------------------------------------------- reading the layout


@dataclass(frozen=True, kw_only=True)
class _Layout:
    """Numbers from names and shapes that distinguish most models."""

    neck_repeats: int
    num_nodes: int  # in a layer of the neck
    head_repeats: int
    num_levels: int
    channels: int
    num_classes: int
    weighted_fusion: bool
    separable: bool
    level_first: bool

    @classmethod
    def of(cls, state: Mapping[str, Tensor]) -> _Layout:
        """Read the layout from a state dict without prefixes of wrappers.

        Raises:
            ValueError: If a tensor that it depends on is missing.
        """
        level_first = "box_net.bn_rep.0.0.bn.weight" not in state
        outer, inner = _count(state, r"box_net\.bn_rep\.(\d+)\."), _count(state, r"box_net\.bn_rep\.0\.(\d+)\.")
        return cls(
            neck_repeats=_count(state, r"fpn\.cell\.(\d+)\."),
            num_nodes=_count(state, r"fpn\.cell\.0\.fnode\.(\d+)\."),
            head_repeats=inner if level_first else outer,
            num_levels=outer if level_first else inner,
            channels=len(_need(state, "fpn.cell.0.fnode.0.after_combine.conv.bn.weight")),
            num_classes=_num_classes(state),
            weighted_fusion="fpn.cell.0.fnode.0.combine.edge_weights" in state,
            separable="box_net.predict.conv_pw.weight" in state,
            level_first=level_first,
        )

    def differences(self, architecture: Architecture) -> int:
        """Return in how many of these numbers an architecture differs."""
        levels = architecture.num_levels
        nodes = {"bifpn": 2 * levels - 2, "pan": 2 * levels, "quad": 5 * levels - 4}[architecture.neck]
        pairs = (
            (self.neck_repeats, architecture.neck_repeats),
            (self.num_nodes, nodes),
            (self.head_repeats, architecture.head_repeats),
            (self.num_levels, levels),
            (self.channels, architecture.channels),
            (self.weighted_fusion, architecture.fusion == "fast"),
            (self.separable, architecture.separable),
        )
        return sum(mine != other for mine, other in pairs)


def _unwrapped(tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, str], list[str]]:
    """Return the tensors by names without wrapper prefixes, their names in the file, and the names left out."""
    prefix = next((match[1] for name in tensors if (match := _MARK.match(name))), "")
    sources, skipped = {}, []
    for name in tensors:
        if re.fullmatch(rf"{_WRAPPERS}anchors\.boxes", name):
            skipped.append(name)  # anchors of the prediction bench, computed from the input size
        else:
            sources[name.removeprefix(prefix)] = name
    return {name: tensors[source] for name, source in sources.items()}, sources, skipped


def _num_classes(state: Mapping[str, Tensor]) -> int:
    kind = "conv_pw" if "class_net.predict.conv_pw.bias" in state else "conv"
    classes = len(_need(state, f"class_net.predict.{kind}.bias"))
    anchors = len(_need(state, f"box_net.predict.{kind}.bias")) // 4
    known = Architecture.named(list_variants(FAMILY)[0]).anchors_per_cell
    if anchors != known or classes % anchors:
        raise ValueError(
            f"an effdet checkpoint must have heads for {known} anchors in each cell, got a box head for {anchors} and "
            f"a class head with {classes} outputs; models with other ratios or scales are not known"
        )
    return classes // anchors


def _need(state: Mapping[str, Tensor], name: str) -> Tensor:
    if name not in state:
        raise ValueError(f"an effdet checkpoint must hold {name}, which is missing; is the file complete?")
    return state[name]


def _count(state: Collection[str], pattern: str) -> int:
    return 1 + max((int(match[1]) for name in state if (match := re.match(pattern, name))), default=-1)


def _renamed(name: str, modules: Mapping[str, str]) -> str:
    """Return a tensor's name with the name of its module replaced; an unknown name is returned unchanged."""
    module, _, leaf = name.rpartition(".")
    return f"{modules.get(module, module)}.{leaf}"


def _swapped(name: str, value: Tensor) -> Tensor:
    """Swap dx, dy, dw, dh ↔ ty, tx, th, tw in the outputs (4·A, …) of the box head; return other tensors unchanged."""
    if not _BOX_OUTPUTS.fullmatch(name):
        return value
    return value.unflatten(0, (-1, 4))[:, [1, 0, 3, 2]].flatten(0, 1)


# -------------------------------------------------------------------------------------------------- finding the model


def _candidates(layout: _Layout) -> list[str]:
    """Return the models of this layout in the order of preference, or the one nearest to it."""
    variants = sorted(list_variants(FAMILY), key=lambda name: (not name.startswith("tf_"), name.endswith("_ap")))
    fitting = [name for name in variants if layout.differences(Architecture.named(name)) == 0]
    return fitting or [min(variants, key=lambda name: layout.differences(Architecture.named(name)))]


def _choose(
    state: Mapping[str, Tensor], candidates: list[str], num_classes: int, hint: str
) -> tuple[str, tuple[str, ...]]:
    """Return the model that a state dict with our names belongs to, and other models that fit equally."""
    has_bias = _has_bias(state)
    candidates = sorted(candidates, key=lambda name: Architecture.named(name).conv_bias != has_bias)  # stable
    fitting = _of_one_structure(state, candidates, num_classes)
    if not fitting:
        return _named(hint, candidates) or _nearest(state, candidates, num_classes), ()
    exact = [name for name in fitting if Architecture.named(name).conv_bias == has_bias]
    chosen = hint if hint in fitting else _named(hint, exact or fitting) or fitting[0]
    return chosen, tuple(name for name in exact if name != chosen)


def _of_one_structure(state: Mapping[str, Tensor], candidates: list[str], num_classes: int) -> list[str]:
    """Return the models that have the tensors of the state, apart from biases before BN."""
    given = {name: value.shape for name, value in state.items() if _counts(name)}
    for first in candidates:
        if given == {
            name: shape
            for name, shape in network_shapes(Architecture.named(first), num_classes).items()
            if _counts(name)
        }:
            return [name for name in candidates if _structure(name) == _structure(first)]
    return []


def _counts(name: str) -> bool:
    return not _BIAS_BEFORE_BN.fullmatch(name) and not name.endswith("num_batches_tracked")


def _structure(name: str) -> Architecture:
    """Return an architecture that is equal for candidates whose tensors, apart from biases before BN, are alike."""
    variant, plain = Architecture.named(name), Architecture.named(list_variants(FAMILY)[0])
    backbone = variant.backbone.removeprefix("tf_")
    return replace(plain, backbone=backbone, expanded_features=variant.expanded_features)


def _named(hint: str, names: list[str]) -> str | None:
    """Return the model with the longest name that the hint contains, or else one by an ending such as "d7"."""
    text = hint.lower().replace("-", "_").replace("advprop", "ap")
    short = {name: name.rpartition("efficientdet_")[2] for name in names}
    for parts in ({name: name for name in names}, short):
        found = [name for name, part in parts.items() if re.search(rf"(?<![a-z0-9]){part}(?![a-z0-9])", text)]
        if found:
            return max(found, key=len)  # the first of the longest
    return None


def _nearest(state: Mapping[str, Tensor], candidates: list[str], num_classes: int) -> str:
    return min(
        candidates, key=lambda name: len(state.keys() ^ network_shapes(Architecture.named(name), num_classes).keys())
    )


# -------------------------------------------------------------------------------------------------- biases before a BN


def _has_bias(state: Collection[str]) -> bool:
    return any(_BIAS_BEFORE_BN.fullmatch(name) for name in state)


def _with_biases_of(variant: str, state: dict[str, Tensor], num_classes: int) -> dict[str, Tensor]:
    """Return the state with all biases before BN, or with none, as the variant needs it."""
    has_bias, wants_bias = _has_bias(state), Architecture.named(variant).conv_bias
    if has_bias and not wants_bias:
        return _folded(state)
    if wants_bias and not has_bias:
        shapes = network_shapes(Architecture.named(variant), num_classes)
        return state | {name: torch.zeros(shape) for name, shape in shapes.items() if _BIAS_BEFORE_BN.fullmatch(name)}
    return state


def _folded(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Fold biases into the mean of the following BN: ``(x + b) - mean = x - (mean - b)``."""
    folded = {name: value for name, value in state.items() if not _BIAS_BEFORE_BN.fullmatch(name)}
    for name in state.keys() - folded.keys():
        where = re.sub(r"\.convs\.(\d+)\..*", r".bns.\1.", name)  # a head has one BN for each level
        if where == name:
            where = re.sub(r"\.conv\..*", ".bn.", name)
        for mean in folded:
            if mean.startswith(where) and mean.endswith("running_mean"):
                folded[mean] = folded[mean] - state[name]
    return folded
