import argparse
import collections
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet.weights.pickles import read_state

STATE = {"conv.weight": torch.arange(6.0).reshape(2, 3), "bn.num_batches_tracked": torch.tensor(3)}
AVERAGED = {name: tensor + 1 for name, tensor in STATE.items()}


class RunsACommand:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


class EvaluatesText:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return eval, (f"open({str(self.target)!r}, 'w').close()",)


def training_checkpoint(**more):
    """Everything that effdet's training command puts into a file (through timm's CheckpointSaver), and more."""
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.1, momentum=0.9)
    parameter.sum().backward()
    optimizer.step()
    return {
        "epoch": 3,
        "arch": "efficientdet",
        "state_dict": collections.OrderedDict(STATE),
        "optimizer": optimizer.state_dict(),
        "version": 2,
        "args": argparse.Namespace(model="tf_efficientdet_d1", lr=0.1, out=Path("runs"), mean=None, flags=[True]),
        "metric": np.float64(0.25),
        "more": {"int": np.int64(1), "array": np.arange(3.0), "counts": collections.defaultdict(list, {"a": [1]})},
        **more,
    }


def assert_equal_states(given, expected):
    assert given.keys() == expected.keys()
    assert all(torch.equal(given[name], expected[name]) for name in expected)


zipped = pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before-torch-1.6"])


@zipped
@pytest.mark.parametrize("wrap", [lambda state: state, torch.nn.ParameterDict], ids=["tensors", "parameters"])
def test_plain_state_dict_comes_back(tmp_path, zipped, wrap):
    state = dict(STATE) if wrap is not torch.nn.ParameterDict else {"a": torch.nn.Parameter(torch.ones(2))}
    torch.save(state, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    tensors, arch, part = read_state(tmp_path / "x.pth")[:3]
    assert_equal_states(tensors, state)
    assert (arch, part) == ("", "")
    assert not any(tensor.requires_grad for tensor in tensors.values())


@zipped
def test_training_checkpoint_gives_weights_and_the_model_option(tmp_path, zipped):
    torch.save(training_checkpoint(), tmp_path / "x.pth.tar", _use_new_zipfile_serialization=zipped)
    tensors, arch, part = read_state(tmp_path / "x.pth.tar")[:3]
    assert_equal_states(tensors, STATE)
    assert (arch, part) == ("tf_efficientdet_d1", "state_dict")


def test_numpy_1_names_are_read_as_well(tmp_path):
    path = tmp_path / "x.pth.tar"
    torch.save(training_checkpoint(), path, _use_new_zipfile_serialization=False)
    old = path.read_bytes().replace(b"numpy._core.multiarray", b"numpy.core.multiarray")
    assert old != path.read_bytes()
    path.write_bytes(old)
    assert_equal_states(read_state(path).tensors, STATE)


def test_averaged_weights_come_first_and_are_named(tmp_path):
    torch.save(training_checkpoint(state_dict_ema=AVERAGED), tmp_path / "x.pth.tar")
    tensors, _, part = read_state(tmp_path / "x.pth.tar")[:3]
    assert_equal_states(tensors, AVERAGED)
    assert part == "state_dict_ema"


@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"model": STATE, "epoch": torch.tensor(3)}, "model"),
        ({"ema": {"state_dict": STATE, "decay": 0.9}, "model": AVERAGED}, "ema"),
        ({"ema": None, "model_state_dict": STATE}, "model_state_dict"),
        ({"state_dict": {**STATE, "note": "text"}}, "state_dict"),
    ],
)
def test_weights_are_found_under_every_usual_key(tmp_path, content, part):
    torch.save(content, tmp_path / "x.ckpt")
    state = read_state(tmp_path / "x.ckpt")
    assert_equal_states(state.tensors, STATE)
    assert state.part == part


@pytest.mark.parametrize(
    ("content", "arch"),
    [
        ({"state_dict": STATE, "arch": "tf_efficientdet_d0"}, "tf_efficientdet_d0"),
        ({"state_dict": STATE, "hyper_parameters": {"model_name": "d0"}}, "d0"),
        ({"state_dict": STATE, "arch": 3}, ""),
    ],
)
def test_arch_is_what_the_file_says(tmp_path, content, arch):
    torch.save(content, tmp_path / "x.ckpt")
    assert read_state(tmp_path / "x.ckpt").arch == arch


@zipped
@pytest.mark.parametrize(("bomb", "name"), [(RunsACommand, "system"), (EvaluatesText, "eval")])
@pytest.mark.parametrize("place", [lambda b: {"state_dict": STATE, "args": b}, lambda b: b], ids=["beside", "alone"])
def test_a_file_that_runs_something_is_refused_and_runs_nothing(tmp_path, zipped, bomb, name, place):
    target = tmp_path / "ran"
    torch.save(place(bomb(target)), tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match=rf"x.pth was not loaded: it wants to run or build '\S*{name}'"):
        read_state(tmp_path / "x.pth")
    assert not target.exists()
    pickle.loads(pickle.dumps(bomb(target)))  # the bomb is real
    assert target.exists()


def test_a_whole_pickled_model_is_refused_by_name(tmp_path):
    torch.save(torch.nn.Sequential(torch.nn.Linear(1, 1)), tmp_path / "x.pt")
    with pytest.raises(ValueError, match=r"build 'torch.nn.modules.container.Sequential'.*save the model's state_dict"):
        read_state(tmp_path / "x.pt")


def test_no_kind_stays_allowed_afterwards(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    torch.save(training_checkpoint(), tmp_path / "x.pth")
    read_state(tmp_path / "x.pth")
    assert set(torch.serialization.get_safe_globals()) == before
    with pytest.raises(pickle.UnpicklingError, match="weights_only"):
        torch.load(tmp_path / "x.pth", weights_only=True)


@zipped
def test_a_truncated_file_is_called_unreadable(tmp_path, zipped):
    path = tmp_path / "x.pth"
    torch.save(STATE, path, _use_new_zipfile_serialization=zipped)
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ValueError, match=r"x.pth is not a readable file of weights: "):
        read_state(path)


@pytest.mark.parametrize("content", [b"", b"<html>not found</html>", b"version https://git-lfs.github.com/spec/v1\n"])
def test_other_content_is_called_unreadable(tmp_path, content):
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"x.pth is not a readable file of weights: "):
        read_state(tmp_path / "x.pth")


@pytest.mark.parametrize(("content", "held"), [({"a": 1, "b": "x"}, "a, b"), ([1, 2], "list"), ({}, "")])
def test_a_file_without_weights_says_what_it_holds(tmp_path, content, held):
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(
        ValueError, match=rf"must hold a state dict, plain or under one of .*; it holds {re.escape(held)}$"
    ):
        read_state(tmp_path / "x.pth")


def test_absent_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"weights .*x.pth do not exist"):
        read_state(tmp_path / "x.pth")
