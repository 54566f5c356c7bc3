import copy
import logging
import math
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.optim import SGD, AdamW

from effdet.training.checkpoint import tensors_of
from effdet.training.resume import changed_parts, check_same_data, check_state, check_steps, load_optimizer

PATH = Path("runs/a/last.ckpt")
KINDS = {
    "sgd": lambda parameters, **options: SGD(parameters, lr=0.1, momentum=0.9, fused=True, **options),
    "adamw": lambda parameters, **options: AdamW(parameters, lr=0.1, fused=True, **options),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))


def trained(kind, steps=2, *, channels_last=False, **options):
    model = network()
    if channels_last:
        model.to(memory_format=torch.channels_last)
    optimizer = KINDS[kind](model.parameters(), **options)
    for _ in range(steps):
        optimizer.zero_grad()
        model(torch.rand(2, 3, 8, 8)).square().sum().backward()
        optimizer.step()
    return model, optimizer


def good_state():
    model, optimizer = trained("sgd")
    return {
        "model": {name: tensor.clone() for name, tensor in tensors_of(model).items()},
        "ema": {"model": {name: tensor.clone() for name, tensor in tensors_of(model).items()}, "count": 2},
        "optimizer": optimizer.state_dict(),
        "scaler": {},
        "progress": {"step": 2, "history": [{"epoch": 1, "ap": 0.5}], "best": 0.5, "sums": {"loss": 1.5}},
        "data": {"images": 4, "steps_per_epoch": 2},
    }


def test_a_good_state_passes():
    check_state(good_state(), PATH)
    fresh = good_state()
    fresh["progress"] = {"step": 0, "history": [], "best": -math.inf, "sums": {}}
    check_state(fresh, PATH)


def put(*keys_and_value):
    *keys, last, value = keys_and_value

    def change(state):
        for key in keys:
            state = state[key]
        state[last] = value

    return change


def drop(*keys):
    def change(state):
        for key in keys[:-1]:
            state = state[key]
        del state[keys[-1]]

    return change


NAN = torch.full((4,), math.nan)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (drop("optimizer"), "its part 'optimizer' is missing or no dict"),
        (put("progress", [1]), "its part 'progress' is missing or no dict"),
        (drop("ema", "count"), "its part 'ema' must have the weights 'model' and the number of updates 'count'"),
        (put("ema", "model", None), "its part 'ema' must have the weights"),
        (put("model", "1.weight", 3.0), "1.weight of its part 'model' is no tensor"),
        (put("model", "1.running_var", NAN), "1.running_var of its part 'model' has values that are not finite"),
        (put("ema", "model", "1.bias", NAN), "1.bias of its part 'ema' has values that are not finite"),
        (drop("progress", "sums"), "its part 'progress' has no 'sums'"),
        (put("progress", "step", -1), "its number of steps must be 0 or more, got -1"),
        (put("progress", "step", 1.5), "its number of steps must be 0 or more, got 1.5"),
        (put("progress", "history", [None]), "its history must be a list with a row for each epoch"),
        (put("progress", "best", math.nan), r"its best AP must lie in \[-1, 1\], got nan"),
        (put("progress", "best", 37.5), r"its best AP must lie in \[-1, 1\], got 37.5"),
        (put("progress", "sums", "loss", math.inf), "the sums of its unfinished epoch must be finite numbers"),
    ],
)
def test_an_impossible_state_is_one_sentence_with_the_file_and_what_to_do(change, problem):
    state = good_state()
    change(state)
    with pytest.raises(ValueError, match=f"runs/a/last.ckpt cannot be resumed: {problem}.*; start a new run"):
        check_state(state, PATH)


def test_the_advice_names_the_best_model_where_there_is_one(tmp_path):
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(ValueError, match=r"start a new run from its best model: model\.weights=.*best\.safetensors"):
        check_state({}, tmp_path / "last.ckpt")


@pytest.mark.parametrize(("step", "epochs"), [(0, 0), (2, 0), (2, 1), (4, 1)])
def test_steps_of_an_epoch_that_is_not_finished_pass(step, epochs):
    check_steps({"step": step, "history": [{}] * epochs}, steps_per_epoch=2, path=PATH)


@pytest.mark.parametrize(("step", "epochs"), [(1, 1), (3, 0)])
def test_steps_must_belong_to_the_epochs(step, epochs):
    with pytest.raises(ValueError, match=f"{step} steps cannot belong to {epochs} finished epochs of 2 steps"):
        check_steps({"step": step, "history": [{}] * epochs}, steps_per_epoch=2, path=PATH)


# -- the data --------------------------------------------------------------------------------------------------------

DATA = {
    "images": 4,
    "steps_per_epoch": 2,
    "fingerprints": {"train": {"classes": "a", "images": "b", "boxes": "c"}, "val": {"classes": "a", "images": "d"}},
}


def test_the_same_data_pass():
    check_same_data(copy.deepcopy(DATA), DATA, PATH)


@pytest.mark.parametrize(
    ("split", "part", "words"),
    [
        ("train", "boxes", "but boxes of the train split changed since runs/a/last.ckpt was written"),
        ("train", "classes", "but classes of the train split changed"),
        ("val", "images", "but images of the val split changed"),
    ],
)
def test_what_changed_in_the_data_is_said(split, part, words):
    now = copy.deepcopy(DATA)
    now["fingerprints"][split][part] = "z"
    with pytest.raises(ValueError, match=f"a resumed run must keep its data, {words}.*start a new run"):
        check_same_data(DATA, now, PATH)


def test_another_number_of_images_is_refused():
    with pytest.raises(ValueError, match=r"must keep its data and batches, .*'images': 4.*got .*'images': 5"):
        check_same_data(DATA, {**DATA, "images": 5}, PATH)


def test_an_old_checkpoint_without_fingerprints_goes_on_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        check_same_data({"images": 4, "steps_per_epoch": 2}, DATA, PATH)
    assert "without a fingerprint of the data" in caplog.text


@pytest.mark.parametrize(
    ("saved", "now", "changed"),
    [
        ({"train": "a", "val": "b"}, {"train": "a", "val": "b"}, []),
        ({"train": "a", "val": "b"}, {"train": "a", "val": "c"}, ["the val split"]),
        ({"train": "a"}, {"train": {"boxes": "a"}}, ["the train split"]),
        ({"train": {"boxes": "a"}}, {"train": {"boxes": "b", "classes": "c"}}, ["boxes, classes of the train split"]),
    ],
)
def test_changed_parts(saved, now, changed):
    assert changed_parts(saved, now) == changed


# -- the optimizer ---------------------------------------------------------------------------------------------------


def load(optimizer, saved, **options):
    load_optimizer(optimizer, saved, **{"step": 2, "scaler": {}, "path": PATH, **options})


@pytest.mark.parametrize("kind", KINDS)
def test_moments_come_back_and_settings_stay(kind):
    _, source = trained(kind, weight_decay=0.1)
    _, target = trained(kind, steps=0, weight_decay=0.5)
    load(target, copy.deepcopy(source.state_dict()))
    assert target.param_groups[0]["weight_decay"] == 0.5
    for moments, expected in zip(target.state.values(), source.state.values(), strict=True):
        assert moments.keys() == expected.keys()
        assert all(torch.equal(moments[name], expected[name]) for name in moments if expected[name] is not None)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_moments_take_the_memory_layout_of_their_parameters(kind, channels_last):
    _, source = trained(kind, channels_last=not channels_last)
    model, target = trained(kind, steps=0, channels_last=channels_last)
    load(target, copy.deepcopy(source.state_dict()))
    name = "momentum_buffer" if kind == "sgd" else "exp_avg"
    assert target.state[model[0].weight][name].stride() == model[0].weight.stride()
    assert torch.equal(target.state[model[0].weight][name], next(iter(source.state.values()))[name])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda state, name: state.clear(), "is missing"),
        (lambda state, name: state.pop(3), r"of a tensor of shape \(4,\) is missing"),
        (lambda state, name: state[0].pop(name), r"{name} of a tensor of shape \(4, 3, 3, 3\) is missing"),
        (
            lambda state, name: state[0].update({name: torch.zeros(2)}),
            r"{name} must have shape \(4, 3, 3, 3\), got \(2",
        ),
        (lambda state, name: state[1].update({name: NAN}), r"{name} of a tensor of shape \(4,\) must hold finite"),
        (lambda state, name: state.update({99: {}}), "moments of 1 unknown tensors"),
    ],
)
def test_a_damaged_state_is_refused_before_anything_is_changed(kind, change, problem):
    _, source = trained(kind)
    _, target = trained(kind, steps=0)
    saved = copy.deepcopy(source.state_dict())
    name = "momentum_buffer" if kind == "sgd" else "exp_avg_sq"
    change(saved["state"], name)
    with pytest.raises(ValueError, match="the state of its optimizer is damaged, .*" + problem.format(name=name)):
        load(target, saved)
    assert not target.state


def test_an_empty_state_is_right_before_the_first_step_and_while_the_scaler_skips():
    _, target = trained("sgd", steps=0)
    empty = target.state_dict()
    load(target, empty, step=0)
    load(target, empty, step=3, scaler={"scale": 2.0**13})  # halved three times, each time a step was skipped
    with pytest.raises(ValueError, match="momentum_buffer of a tensor"):
        load(target, empty, step=4, scaler={"scale": 2.0**13})


def test_another_kind_of_optimizer_is_named():
    with pytest.raises(ValueError, match=r"holds the state of the optimizer adamw, but train\.optimizer is sgd; keep"):
        load(trained("sgd", steps=0)[1], trained("adamw")[1].state_dict())


def test_another_number_of_parameters_names_the_setting():
    model, _ = trained("sgd", steps=0)
    target = KINDS["sgd"]([model[0].weight])
    with pytest.raises(ValueError, match=r"when 6 tensors were trained, now 1 are; keep train\.freeze"):
        load(target, trained("sgd")[1].state_dict())


def test_no_state_at_all_is_refused():
    with pytest.raises(ValueError, match="it has no state of an optimizer"):
        load(trained("sgd", steps=0)[1], {"state": {}})
