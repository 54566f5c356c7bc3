"""Exponential moving average of weights and BN statistics: the model that is evaluated and kept."""

from __future__ import annotations

import copy
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from effdet.training.checkpoint import load_tensors, tensors_of

ModelT = TypeVar("ModelT", bound=nn.Module)


class EMA(Generic[ModelT]):
    """A copy of a model that follows it: ``v ← dₜ·v + (1 - dₜ)·w`` with ``dₜ = min(decay, (1 + t)/(10 + t))``.

    t is the number of earlier updates, so the average changes fast at first. BN statistics, which are floating-point
    buffers, are averaged like the weights; integer counters are copied.

    Args:
        model: Model to follow; the copy starts equal to it.
        decay: Limit of dₜ, in [0, 1); 0 keeps the copy equal to the model.

    Attributes:
        model: The average, in eval mode and without gradients.
        count: Number of updates t.
    """

    def __init__(self, model: ModelT, decay: float = 0.9998) -> None:
        self.model: ModelT = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay
        self.count = 0
        self._followed: tuple[_Tensors, _Tensors] | None = None

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model's present weights."""
        decay = min(self.decay, (1 + self.count) / (10 + self.count))
        self.count += 1
        if self._followed is None or self._followed[1].module is not model:
            self._followed = _Tensors(self.model), _Tensors(model)
        averages, values = self._followed
        torch._foreach_lerp_(averages.present(floating=True), values.present(floating=True), 1 - decay)
        if counters := averages.present(floating=False):
            torch._foreach_copy_(counters, values.present(floating=False))

    def state_dict(self) -> dict[str, Any]:
        """Return the average and its count, as plain types and tensors."""
        return {"model": tensors_of(self.model), "count": self.count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the average and its count from a ``state_dict``."""
        load_tensors(self.model, state["model"])
        self.count = state["count"]


class _Tensors:
    """The parameters and buffers of a module, floating ones and integers apart; to look for them takes milliseconds."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self._places: dict[bool, list[tuple[dict[str, Any], str]]] = {True: [], False: []}
        for name, tensor in tensors_of(module).items():
            path, _, leaf = name.rpartition(".")
            owner = module.get_submodule(path)
            tensors = owner._parameters if leaf in owner._parameters else owner._buffers
            self._places[tensor.is_floating_point()].append((tensors, leaf))

    def present(self, *, floating: bool) -> list[Tensor]:
        return [tensors[leaf] for tensors, leaf in self._places[floating]]
