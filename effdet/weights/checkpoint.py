"""``Checkpoint``: the weights in a file by our names; and the check whether weights fit a network."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from effdet.models.architecture import Architecture
from effdet.models.network import Network
from effdet.weights.limits import first_line, short

_SHOWN = 6  # names of each kind in an error
_CLASS_OUTPUTS = re.compile(r"class_head\.(?:\w+\.)*predict\.(?:\w+\.)*bias$")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """The detector in a file, whoever wrote it, by the names, shapes and orders of our ``Network``."""

    family: str  # project whose layout the file has
    variant: str  # name of a published architecture
    num_classes: int
    state: dict[str, Tensor]
    sources: dict[str, str]  # our name → name in the file
    skipped: tuple[str, ...] = ()  # names in the file that a network has no use for
    alternatives: tuple[str, ...] = ()  # other published architectures with the same names and shapes


@lru_cache(maxsize=128)
def network_shapes(architecture: Architecture, num_classes: int) -> Mapping[str, torch.Size]:
    """Return the shape of every tensor in the state dict of a network, without making the tensors."""
    with torch.device("meta"):
        network = Network(architecture, num_classes, stochastic_depth=0.0)
    return {name: tensor.shape for name, tensor in network.state_dict().items()}


def have_same_network(one: Architecture, other: Architecture) -> bool:
    """Return whether two networks have the same tensors, so that weights of one fit the other."""
    return one == other or dict(network_shapes(one, 1)) == dict(network_shapes(other, 1))


def check_room(architecture: Architecture, num_classes: int, state: Mapping[str, Tensor], where: str) -> None:
    """Check that a description does not ask for a network much larger than the tensors that are there.

    The network is built before the tensors are loaded, so that a description could make it take any amount of memory.
    A published architecture is known to fit, all but its classes; any other is compared as a whole.

    Args:
        architecture: As described.
        num_classes: As described.
        state: The tensors of the file, by the names of ``EfficientDet.state_dict()``.
        where: What a message calls the file.

    Raises:
        ValueError: If it does.
    """
    found = [len(value) for name, value in state.items() if _CLASS_OUTPUTS.search(name) and value.ndim == 1]
    outputs = num_classes * architecture.anchors_per_cell
    if outputs not in found:
        raise ValueError(
            f"{where} must have a class head with {num_classes} × {architecture.anchors_per_cell} outputs, as its "
            f"description says, but it has {found[0] if found else 'none'}; it is damaged"
        )
    if architecture.name == "custom":
        try:
            shapes = network_shapes(architecture, num_classes)
        except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
            raise ValueError(f"{where}: its architecture cannot be built: {first_line(error)}") from error
        described = sum(math.prod(shape) for shape in shapes.values())
        given = sum(value.numel() for value in state.values())
        if described > 2 * given + 1_000_000:
            raise ValueError(
                f"{where} holds {given:,} numbers, but its description is that of a network of {described:,}; it is "
                "damaged"
            )


def check_fit(own: Mapping[str, Tensor | torch.Size], given: Mapping[str, Tensor], what: str) -> None:
    """Raise unless both have the same names and shapes; counters of BN batches may be absent.

    Args:
        own: State dict of the module, or the shapes in it.
        given: State dict to be loaded.
        what: Beginning of the message, as in "weights.pth does not fit the backbone".

    Raises:
        ValueError: If a tensor is missing, unknown, of another shape, or of integers; the message counts them and names
            the first.
    """
    wanted = {name: value.shape if isinstance(value, Tensor) else value for name, value in own.items()}
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in wanted]
    other_shape = [
        f"{name} {tuple(given[name].shape)} for {tuple(shape)}"
        for name, shape in wanted.items()
        if name in given and shape != given[name].shape
    ]
    not_floating = [
        f"{name} {str(given[name].dtype).removeprefix('torch.')}"
        for name, value in own.items()
        if isinstance(value, Tensor) and value.is_floating_point() and name in given
        if not given[name].is_floating_point() and not name.endswith("num_batches_tracked")
    ]
    found = (
        ("missing", missing),
        ("unknown", unknown),
        ("of another shape", other_shape),
        ("of whole numbers, as quantised weights are", not_floating),
    )
    if any(names for _, names in found):
        raise ValueError(f"{what}: {', '.join(_count(kind, names) for kind, names in found if names)}")


def _count(kind: str, names: Sequence[str]) -> str:
    return (
        f"{len(names)} tensors {kind} ({', '.join(map(short, names[:_SHOWN]))}{', …' if len(names) > _SHOWN else ''})"
    )
