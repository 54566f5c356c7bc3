"""Check a checkpoint before a run resumes from it. All checks happen before the run is changed."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from effdet.training.checkpoint import advise_new_run

logger = logging.getLogger(__name__)

_PARTS = ("model", "ema", "optimizer", "scaler", "progress", "data")
_FIRST_SCALE = 2.0**16  # of PyTorch's gradient scaler


def check_state(state: Mapping[str, Any], path: Path) -> None:
    """Raise an error if a checkpoint is incomplete or holds impossible values.

    Args:
        state: Result of ``load_checkpoint``.
        path: The file, for the message.

    Raises:
        ValueError: If a part is missing or of the wrong kind, a weight is not finite or a number is impossible.
    """
    problem = next(_problems(state), None)
    if problem is not None:
        raise ValueError(f"{path} cannot be resumed: {problem}; {advise_new_run(path)}")


def _problems(state: Mapping[str, Any]) -> Iterator[str]:
    """Yield the problems of a checkpoint. Each check requires that the earlier ones found none."""
    for part in _PARTS:
        if not isinstance(state.get(part), dict):
            yield f"its part '{part}' is missing or no dict"
    if not isinstance(state["ema"].get("model"), dict) or not _is_count(state["ema"].get("count")):
        yield "its part 'ema' must have the weights 'model' and the number of updates 'count'"
    for part, tensors in (("model", state["model"]), ("ema", state["ema"]["model"])):
        for name, tensor in tensors.items():
            if not isinstance(tensor, Tensor):
                yield f"{name} of its part '{part}' is no tensor"
            if not _is_finite(tensor):
                yield f"{name} of its part '{part}' has values that are not finite"
    yield from _progress_problems(state["progress"])


def _progress_problems(progress: Mapping[str, Any]) -> Iterator[str]:
    for name in ("step", "history", "best", "sums"):
        if name not in progress:
            yield f"its part 'progress' has no '{name}'"
    if not _is_count(progress["step"]):
        yield f"its number of steps must be 0 or more, got {progress['step']}"
    rows = progress["history"]
    if not isinstance(rows, list) or not all(isinstance(row, dict) and "epoch" in row for row in rows):
        yield "its history must be a list with a row for each epoch"
    best = progress["best"]
    if not isinstance(best, float) or not (best == -math.inf or -1 <= best <= 1):
        yield f"its best AP must lie in [-1, 1], got {best}"
    sums = progress["sums"]
    if not isinstance(sums, dict) or not all(isinstance(v, float) and math.isfinite(v) for v in sums.values()):
        yield "the sums of its unfinished epoch must be finite numbers"


def check_steps(progress: Mapping[str, Any], *, steps_per_epoch: int, path: Path) -> None:
    """Check that the number of steps fits the number of finished epochs.

    Raises:
        ValueError: If it does not fit.
    """
    step, epochs = progress["step"], len(progress["history"])
    if not epochs * steps_per_epoch <= step <= (epochs + 1) * steps_per_epoch:
        raise ValueError(
            f"{path} cannot be resumed: {step} steps cannot belong to {epochs} finished epochs of {steps_per_epoch} "
            f"steps; {advise_new_run(path)}"
        )


# -- the data --------------------------------------------------------------------------------------------------------


def check_same_data(saved: Mapping[str, Any], now: Mapping[str, Any], path: Path) -> None:
    """Check that the data and the batches are those that the checkpoint was written with.

    Args:
        saved: From the checkpoint: ``images``, ``steps_per_epoch``, and ``fingerprints`` of ``train`` and ``val``, each
            a dict from the name of a part of the data to its checksum. Earlier versions wrote no fingerprints.
        now: The same values of this run.
        path: The checkpoint, for the message.

    Raises:
        ValueError: If something differs; the message says what.
    """
    numbers = [{name: data.get(name) for name in ("images", "steps_per_epoch")} for data in (saved, now)]
    if numbers[0] != numbers[1]:
        raise ValueError(
            f"a resumed run must keep its data and batches, {numbers[0]}, got {numbers[1]}; "
            "keep the images, train.batch_size, train.accumulate and the number of processes"
        )
    if not now.get("fingerprints"):
        return
    if not saved.get("fingerprints"):
        logger.warning(
            "%s was written by an earlier version, without a fingerprint of the data: make sure that images, boxes and "
            "classes are those that the run began with",
            path,
        )
        return
    changed = changed_parts(saved["fingerprints"], now["fingerprints"])
    if changed:
        raise ValueError(
            f"a resumed run must keep its data, but {' and '.join(changed)} changed since {path} was written; "
            f"bring the data back, or {advise_new_run(path)}"
        )


def changed_parts(saved: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Return the parts of the data whose fingerprints differ, for instance "boxes of the train split"."""
    changed = []
    for split, after in now.items():
        before = saved.get(split)
        if before == after:
            continue
        parts = [name for name in after if before.get(name) != after[name]] if isinstance(before, dict) else []
        changed.append(f"{', '.join(parts)} of the {split} split" if parts else f"the {split} split")
    return changed


# -- the optimizer ---------------------------------------------------------------------------------------------------


def load_optimizer(
    optimizer: Optimizer, saved: Mapping[str, Any], *, step: int, scaler: Mapping[str, Any], path: Path
) -> None:
    """Load the moments of a checkpoint into an optimizer. Its settings, such as weight decay, are not changed.

    PyTorch does not check shapes, and its fused optimizers access memory beyond a moment that is too small. So this
    function checks the shapes, and gives each moment the memory layout of its parameter.

    Args:
        optimizer: SGD or AdamW.
        saved: ``state_dict`` of an optimizer of the same parameters.
        step: Number of steps that the run has done.
        scaler: ``state_dict`` of the gradient scaler, which may have skipped steps; empty without one.
        path: The checkpoint, for the message.

    Raises:
        ValueError: If the moments are those of another optimizer or of other parameters, missing, or not finite.
    """
    groups, own = saved.get("param_groups"), optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or not groups or not isinstance(saved.get("state"), dict):
        raise ValueError(f"{path} cannot be resumed: it has no state of an optimizer; {advise_new_run(path)}")
    kinds = [_kind(group[0]) for group in (groups, own)]
    if kinds[0] != kinds[1]:
        raise ValueError(
            f"{path} holds the state of the optimizer {kinds[0]}, but train.optimizer is {kinds[1]}; "
            f"keep train.optimizer={kinds[0]}, or {advise_new_run(path)}"
        )
    sizes = [[len(group["params"]) for group in part] for part in (groups, own)]
    if sizes[0] != sizes[1]:
        raise ValueError(
            f"{path} was written when {sum(sizes[0])} tensors were trained, now {sum(sizes[1])} are; "
            f"keep train.freeze, or {advise_new_run(path)}"
        )
    skipped_all = bool(scaler) and math.log2(_FIRST_SCALE / scaler.get("scale", _FIRST_SCALE)) >= step
    _check_moments(optimizer, saved, may_be_empty=step == 0 or skipped_all, path=path)
    optimizer.load_state_dict({"state": saved["state"], "param_groups": own})
    for parameter, moments in optimizer.state.items():
        for name, moment in moments.items():
            if isinstance(moment, Tensor) and moment.shape == parameter.shape:
                moments[name] = torch.empty_like(parameter).copy_(moment)


def _check_moments(optimizer: Optimizer, saved: Mapping[str, Any], *, may_be_empty: bool, path: Path) -> None:
    state = saved["state"]
    if may_be_empty and not state:
        return
    groups = zip(optimizer.param_groups, saved["param_groups"], strict=True)
    pairs = [(i, p, old) for group, old in groups for i, p in zip(old["params"], group["params"], strict=True)]
    unknown = set(state) - {index for index, _, _ in pairs}
    problem = f"moments of {len(unknown)} unknown tensors" if unknown else None
    for index, parameter, group in pairs:
        problem = problem or _moment_problem(state.get(index), parameter, _moment_names(group))
    if problem:
        raise ValueError(
            f"{path} cannot be resumed: the state of its optimizer is damaged, {problem}; {advise_new_run(path)}"
        )


def _moment_problem(moments: Any, parameter: Tensor, names: tuple[str, ...]) -> str | None:
    moments = {} if moments is None else moments
    for name in names:
        moment = moments.get(name) if isinstance(moments, dict) else None
        if not isinstance(moment, Tensor):
            return f"{name} of a tensor of shape {tuple(parameter.shape)} is missing"
        wanted = () if name == "step" else tuple(parameter.shape)
        if tuple(moment.shape) != wanted:
            return f"{name} must have shape {wanted}, got {tuple(moment.shape)}"
        if not moment.is_floating_point() or not _is_finite(moment):
            return f"{name} of a tensor of shape {tuple(parameter.shape)} must hold finite numbers"
    return None


def _moment_names(group: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the values that an optimizer stores for each parameter of a group."""
    if _kind(group) == "adamw":
        return ("step", "exp_avg", "exp_avg_sq")
    return ("momentum_buffer",) if group.get("momentum") else ()


def _kind(group: Mapping[str, Any]) -> str:
    return "adamw" if "betas" in group else "sgd"


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor).all())
