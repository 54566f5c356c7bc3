"""Copies of a network in evaluation mode that share its weights.

Training and evaluation mode are attributes of the modules, so a prediction that switched the mode of the model would
change what another thread computes at the same time. A prediction runs a copy of the modules instead. All copies hold
the same parameters and buffers: the next prediction sees a step of training, and no memory goes to a second set.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effdet.detector.cuda_graphs import CudaGraphs
from effdet.structures import Predictions
from effdet.weights.own_state_dict import without_wrapper_parts

_COMPILED = "_orig_mod"  # the only part of a module of torch.compile; importing its class would take a second
_PARALLEL = (nn.DataParallel, nn.parallel.DistributedDataParallel)


class EvaluationCopies:
    """The copies of one network that are not in use; there are as many as have predicted at the same time."""

    def __init__(self) -> None:
        self._idle: deque[_Copy] = deque()

    def predict(self, network: nn.Module, images: Tensor) -> Predictions:
        """Return what the network predicts in evaluation mode, without gradients; on CUDA by ``cuda_graphs``."""
        with torch.no_grad(), self.borrow(network) as borrowed:
            compute = borrowed.graphs if images.is_cuda else borrowed.network
            predictions: Predictions = compute(images)
            return predictions

    @contextmanager
    def borrow(self, network: nn.Module) -> Iterator[_Copy]:
        """Give a copy of the network that no other thread uses meanwhile.

        A copy is used again for as long as the network has the same modules with the same hooks.
        """
        structure = _structure(network)
        borrowed = self._take(structure) or _Copy(copy_for_evaluation(network), structure)
        yield borrowed
        self._idle.append(borrowed)  # not after an error: hooks of the copy may have been left half way

    def _take(self, structure: tuple[Hashable, ...]) -> _Copy | None:
        while True:
            try:
                found = self._idle.pop()
            except IndexError:
                return None
            if found.structure == structure:
                return found

    def __reduce__(self) -> tuple[type[EvaluationCopies], tuple[()]]:
        return EvaluationCopies, ()  # the copies belong to this network, not to a copied or pickled model


@dataclass(frozen=True)
class _Copy:
    network: nn.Module
    structure: tuple[Hashable, ...]

    @functools.cached_property
    def graphs(self) -> CudaGraphs:
        hooks = (hook for module in self.network.modules() for hook in _hooks(module))
        is_plain = _COMPILED not in self.network._modules and all(_belongs_to_timm(hook) for hook in hooks)
        return CudaGraphs(self.network, can_record=is_plain)


def copy_for_evaluation(network: nn.Module) -> nn.Module:
    """Return a copy of a network in evaluation mode whose parameters and buffers are those of the network itself.

    A network that ``torch.compile`` has wrapped is compiled as the original is; wrappers of data parallelism are left
    out. Hooks are called from the copy too.
    """
    while isinstance(network, _PARALLEL):
        network = network.module
    memo: dict[int, Any] = {}
    for module in network.modules():
        if _COMPILED in module._modules:
            _share(memo, module.dynamo_ctx)
        _share(memo, module._parameters, module._buffers)
        _share(memo, *(value for value in vars(module).values() if isinstance(value, Tensor)))
        _share(memo, *(hook for hook in _hooks(module) if not _belongs_to_timm(hook)))
    return copy.deepcopy(network, memo).eval()


def unwrapped(network: nn.Module) -> nn.Module:
    """Return the network inside the wrappers of ``torch.compile`` and of data parallelism."""
    while _COMPILED in network._modules or isinstance(network, _PARALLEL):
        network = network.get_submodule(_COMPILED if _COMPILED in network._modules else "module")
    return network


def without_wrapper_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict by the names that its tensors have without ``torch.compile`` and data parallelism."""
    return {without_wrapper_parts(name): tensor for name, tensor in state.items()}


def _share(memo: dict[int, Any], *values: Any) -> None:
    """Let ``copy.deepcopy`` take values as they are."""
    memo.update((id(value), value) for value in values)


def _hooks(module: nn.Module) -> tuple[Any, ...]:
    return (*module._forward_hooks.values(), *module._forward_pre_hooks.values())


def _belongs_to_timm(hook: Any) -> bool:
    """Return whether a hook is one by which timm collects features, which each copy needs for itself."""
    owner = getattr(getattr(hook, "func", hook), "__self__", None)
    return type(owner).__module__.startswith("timm.")


def _structure(network: nn.Module) -> tuple[Hashable, ...]:
    """Return what must be equal for a copy to be used again: modules, their classes, hooks and replaced forwards."""
    return tuple(
        (
            module,
            type(module),
            vars(module).get("forward"),
            tuple(module._forward_hooks),
            tuple(module._forward_pre_hooks),
        )
        for module in network.modules()
    )
