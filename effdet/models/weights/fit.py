"""Whether a set of named tensors fits a module, and if not, why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor


def check_fit(own: Mapping[str, Tensor], given: Mapping[str, Tensor], what: str) -> None:
    """Raise unless both have the same names and shapes; counters of BN batches may be absent.

    Args:
        own: State dict of the module.
        given: State dict to be loaded.
        what: Says whose they are, as in "weights.pth does not fit the backbone".

    Raises:
        ValueError: If a tensor is missing, unknown, or of another shape; the message counts them and names the first.
    """
    missing = [name for name in own if name not in given and not name.endswith("num_batches_tracked")]
    unknown = [name for name in given if name not in own]
    other_shape = [
        f"{name} {tuple(given[name].shape)} for {tuple(own[name].shape)}"
        for name in own
        if name in given and own[name].shape != given[name].shape
    ]
    found = (("missing", missing), ("unknown", unknown), ("of another shape", other_shape))
    if any(names for _, names in found):
        raise ValueError(f"{what}: {', '.join(_count(kind, names) for kind, names in found)}")


def _count(kind: str, names: Sequence[str]) -> str:
    shown = f" ({', '.join(names[:3])}{', …' if len(names) > 3 else ''})" if names else ""
    return f"{len(names)} tensors {kind}{shown}"
