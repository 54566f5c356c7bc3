"""From any source of weights to everything that a model is built from."""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from effdet.images.pixel_format import check_range
from effdet.images.preprocessing import Preprocessing
from effdet.models.architecture import Architecture
from effdet.ops.settings import PostprocessSettings
from effdet.ops.tiles import Tiles, tiles_from_dict
from effdet.weights import effdet, google, own_state_dict, zylo
from effdet.weights.checkpoint import Checkpoint, check_room, have_same_network
from effdet.weights.coco_classes import COCO_IDS, COCO_NAMES
from effdet.weights.described import (
    check,
    check_ids,
    check_input_size,
    check_names,
    check_normalisation,
    check_threshold,
    is_finite,
    is_whole,
    list_of,
    settings_of,
)
from effdet.weights.limits import first_line, short
from effdet.weights.sources import Source, read_source

logger = logging.getLogger(__name__)


class Layout(Protocol):
    """A module that knows the names which one project gives to the tensors of a detector."""

    def recognises(self, names: Collection[str]) -> bool:
        """Return whether the names are this project's."""

    def convert(self, tensors: Mapping[str, Tensor], hint: str = "") -> Checkpoint:
        """Return the detector by our names; raise ValueError if it is incomplete."""


LAYOUTS: dict[str, Layout] = {"ours": own_state_dict, "effdet": effdet, "google": google, "zylo": zylo}

_NUM_COCO = len(COCO_NAMES)
_DESCRIBED = (  # by every file that save_pretrained wrote
    *("name", "num_classes", "class_names", "category_ids", "image_size"),
    *("mean", "std", "stochastic_depth", "settings"),
)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What ``EfficientDet`` is built from. None: as the architecture has it."""

    where: str  # for people: what was loaded
    architecture: Architecture
    num_classes: int
    state: dict[str, Tensor]  # by the names of ``EfficientDet.state_dict()``
    image_size: tuple[int, int] | None = None
    class_names: Sequence[str] | None = None
    category_ids: Sequence[int] | None = None
    mean: Sequence[float] | None = None  # RGB, of pixels in 0…255
    std: Sequence[float] | None = None
    stochastic_depth: float | None = None
    settings: PostprocessSettings = field(default_factory=PostprocessSettings)
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    training_tiles: Tiles | None = None
    predict_threshold: float | None = None
    value_range: tuple[float, float] | None = None
    checkpoint: Checkpoint | None = None  # of a file without our description: what became of its tensors

    @property
    def options(self) -> dict[str, Any]:
        """Arguments of ``EfficientDet`` beside the architecture and the number of classes."""
        names = ("image_size", "class_names", "category_ids", "stochastic_depth", "settings", "preprocessing")
        return {name: getattr(self, name) for name in (*names, "training_tiles", "predict_threshold", "value_range")}


def load(source: str | Path, *, variant: str | None = None) -> Loaded:
    """Return the detector in a source, whoever wrote it.

    Args:
        source: See ``read_source``.
        variant: Which model it is, where the tensors fit several.

    Raises:
        FileNotFoundError: If there is no such source, or it cannot be downloaded.
        ValueError: If it is damaged, holds no detector, or not the whole of one.
    """
    found = read_source(source)
    if found.description is not None:
        return _described(found, found.description, variant)
    if variant is None and found.published is not None:
        variant = found.published.variant
    checkpoint = _convert(found, variant)
    name = _choose(checkpoint, found, variant)
    config = found.config.get("pretrained_cfg")
    config = config if isinstance(config, dict) else found.config
    coco = checkpoint.num_classes == _NUM_COCO
    return Loaded(
        where=f"{found.where}, layout of {checkpoint.family}" if checkpoint.family != "ours" else found.where,
        architecture=Architecture.named(name),
        num_classes=checkpoint.num_classes,
        state={f"network.{key}": value for key, value in checkpoint.state.items()},
        image_size=_image_size(found, config),
        class_names=_label_names(found.config.get("label_names")) or (COCO_NAMES if coco else None),
        category_ids=COCO_IDS if coco else _category_ids(checkpoint),
        mean=_pixels(config.get("mean")) or _buffer(found.tensors, "mean"),
        std=_pixels(config.get("std")) or _buffer(found.tensors, "std"),
        settings=PostprocessSettings.preset(_preset(checkpoint.family)),
        preprocessing=Preprocessing.preset(_preset(checkpoint.family, name)),
        checkpoint=replace(checkpoint, variant=name),
    )


def _described(found: Source, description: Any, variant: str | None) -> Loaded:
    """Return what ``save_pretrained`` wrote."""
    try:
        loaded = _from_description(found, description)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{found.where}: its description cannot be used: {first_line(error)}") from error
    if variant is not None and variant != loaded.architecture.name:
        _check_same_network(variant, loaded.architecture, found.where)
        loaded = replace(loaded, architecture=Architecture.named(variant))
    check_room(loaded.architecture, loaded.num_classes, loaded.state, found.where)
    return loaded


def _from_description(found: Source, description: Any) -> Loaded:
    check(isinstance(description, Mapping), "it", "be an object of names and values", description)
    missing = [name for name in _DESCRIBED if name not in description]
    if missing:
        raise ValueError(f"it does not say {', '.join(missing)}; another version of this package may have written it")
    architecture = _architecture_of(description)
    names, ids, size, mean, std = (
        list_of(description, name) for name in ("class_names", "category_ids", "image_size", "mean", "std")
    )
    check_names(names)
    check_ids(ids, len(names))
    check(description["num_classes"] == len(names), "num_classes", f"be {len(names)}", description["num_classes"])
    check_input_size(size)
    check_normalisation(mean, std, architecture.in_channels)
    check_threshold(description.get("predict_threshold"))
    depth = description["stochastic_depth"]
    check(is_finite(depth) and 0 <= depth < 1, "stochastic_depth", "lie in [0, 1)", depth)
    return Loaded(
        where=found.where,
        architecture=architecture,
        num_classes=len(names),
        state=found.tensors,
        image_size=size,
        class_names=names,
        category_ids=ids,
        mean=mean,
        std=std,
        stochastic_depth=depth,
        settings=settings_of(description["settings"], "settings", PostprocessSettings),
        preprocessing=settings_of(description.get("preprocessing", {}), "preprocessing", Preprocessing),
        training_tiles=tiles_from_dict(description.get("training_tiles")),
        predict_threshold=description.get("predict_threshold"),
        value_range=None if description.get("value_range") is None else check_range(description["value_range"]),
    )


def _architecture_of(description: Mapping[str, Any]) -> Architecture:
    """Return the architecture in a description; the first files had only the name of a published one."""
    if "architecture" in description:
        return Architecture.from_dict(description["architecture"])
    check(isinstance(description["name"], str), "name", "be a text", description["name"])
    return Architecture.named(description["name"])


# -- recognising -----------------------------------------------------------------------------------------------------

# Names that only a whole detector has, in each layout; what stands before one of them is a wrapper's prefix.
_DETECTOR = re.compile(r"^(?P<prefix>(?:\w+\.)*?)(?:class_head|class_net|backbone_net)\.")
_CLASSIFIER = re.compile(r"^(?:\w+\.)??(?:_?conv_stem|conv1|stem|_fc|fc|classifier)\.")


def _convert(found: Source, variant: str | None) -> Checkpoint:
    names = _without_prefix(found)
    for layout in LAYOUTS.values():
        if layout.recognises(names):
            tensors = {name: found.tensors[original] for name, original in names.items()}
            try:
                checkpoint = layout.convert(tensors, variant or found.hint)
            except ValueError as error:
                raise ValueError(f"{found.where}: {error}") from error
            except (TypeError, LookupError, RuntimeError, OverflowError) as error:  # of tensors without dimensions, …
                raise ValueError(
                    f"{found.where}: its tensors have the names of a detector, but not the shapes: {first_line(error)}"
                ) from error
            used = {ours: names.get(theirs, theirs) for ours, theirs in checkpoint.sources.items()}
            outside = set(found.tensors) - set(names.values())
            skipped = (*(names.get(name, name) for name in checkpoint.skipped), *sorted(outside))
            return replace(checkpoint, sources=used, skipped=skipped)
    raise ValueError(_unknown(found))


def _without_prefix(found: Source) -> dict[str, str]:
    """Return the names as the project gave them → names in the file, where a wrapper put a prefix before them.

    Wrappers are DataParallel (``module.``), benches and Lightning modules (``model.``), compiled modules
    (``_orig_mod.``), and ``EfficientDet`` around its network (``network.``). Tensors outside of it, like the anchors of
    a bench, are not the detector's.
    """
    prefixes = dict.fromkeys(match["prefix"] for name in found.tensors if (match := _DETECTOR.match(name)))
    if not prefixes:
        return {name: name for name in found.tensors}
    prefix, *others = prefixes
    if others:
        logger.warning("%s holds several detectors: taking %s, not %s", found.where, prefix, ", ".join(others))
    own = [name for name in found.tensors if name.startswith(prefix)]
    return {own_state_dict.without_wrapper_parts(name.removeprefix(prefix)): name for name in own}


def _unknown(found: Source) -> str:
    names = list(found.tensors)
    shown = f"{', '.join(map(short, names[:5]))}{', …' if len(names) > 5 else ''}"
    if any(_CLASSIFIER.search(name) for name in names):
        return (
            f"{found.where} holds {len(names)} tensors of an image classifier ({shown}), not of a detector; to start "
            "from it, give it as EfficientDet(NAME, backbone_weights=FILE), or as model.backbone_weights in a config"
        )
    known = ", ".join(LAYOUTS)
    return f"{found.where} holds {len(names)} tensors ({shown}) whose names belong to no known layout: {known}"


# -- choosing --------------------------------------------------------------------------------------------------------


def _choose(checkpoint: Checkpoint, found: Source, variant: str | None) -> str:
    """Return the variant: as asked for, or as the file says itself, or as the layout's module prefers."""
    if variant is not None and variant != checkpoint.variant:
        _check_same_network(variant, Architecture.named(checkpoint.variant), found.where)
        return variant
    chosen = checkpoint.variant
    if variant is None and checkpoint.alternatives and not _says(found.hint, chosen, checkpoint.alternatives):
        others = " or ".join(f"'{name}'" for name in checkpoint.alternatives)
        logger.warning(
            "%s: tensors and name fit '%s' and %s alike; taking '%s', say variant=… for another",
            *(found.where, chosen, others, chosen),
        )
    return chosen


def _says(hint: str, chosen: str, alternatives: Collection[str]) -> bool:
    """Return whether a source's name tells the chosen variant from the others.

    Google's archives of models that were trained with AdvProp have the names of those that were not; only the folder
    in which they are published says which is which.
    """
    if f"{chosen}_ap" in alternatives and not hint.startswith("tf_"):
        return False
    return "advprop" in hint.lower() or own_state_dict.mentioned((chosen, *alternatives), hint) == chosen


def _check_same_network(variant: str, found: Architecture, where: str) -> None:
    if not have_same_network(Architecture.named(variant), found):
        raise ValueError(f"{where} holds the tensors of '{found.name}', which do not fit variant '{variant}'")


def _preset(family: str, variant: str = "") -> str:
    """Return the name of a family's preset; only the pre-processing of AdvProp's models has one of its own."""
    if family not in ("google", "effdet", "zylo"):
        return "default"
    return f"{family}-advprop" if variant.endswith("_ap") else family


def _category_ids(checkpoint: Checkpoint) -> Sequence[int] | None:
    """Return the category ids that the project itself reports, which begin at 1; ours begin with the label."""
    return None if checkpoint.family == "ours" else range(1, checkpoint.num_classes + 1)


def _image_size(found: Source, config: Mapping[str, Any]) -> tuple[int, int] | None:
    if found.published is not None:
        return found.published.image_size
    size = config.get("input_size")
    if not (isinstance(size, list) and len(size) == 3 and all(map(is_whole, size))):
        return None
    check_input_size(size[1:])
    return size[1], size[2]


def _label_names(names: Any) -> list[str] | None:
    if not isinstance(names, list) or not names:
        return None
    check_names(names)
    return names


def _pixels(values: Any) -> list[float] | None:
    """Return mean or standard deviation of pixels in 0…255 from timm's, of pixels in 0…1."""
    is_usable = isinstance(values, list) and len(values) == 3 and all(map(is_finite, values))
    return [255 * float(value) for value in values] if is_usable else None


def _buffer(tensors: Mapping[str, Tensor], name: str) -> list[float] | None:
    """Return mean or standard deviation from a training checkpoint of ours, which has them beside the network."""
    buffer = tensors.get(name)
    return buffer.tolist() if buffer is not None and buffer.shape == (3,) else None
