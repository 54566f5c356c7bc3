import pytest
import torch

from effdet.config import Precision
from effdet.runs.device import choose_device, choose_precision


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("cpu:0") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("name", ["gpu", "meta", ""])
def test_an_unknown_device_is_refused(name):
    with pytest.raises(ValueError, match=rf"run\.device must be auto, cpu, cuda, cuda:N or mps, got '{name}'"):
        choose_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_one_sentence():
    with pytest.raises(ValueError, match=r"run\.device is 'cuda:1', but torch finds no CUDA device\(s\) here; use run"):
        choose_device("cuda:1")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an MPS device")
def test_a_missing_mps_device_is_one_sentence():
    with pytest.raises(
        ValueError, match=r"run\.device is 'mps', but torch finds no MPS device here; use run\.device=cpu"
    ):
        choose_device("mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_the_message_names_the_option_that_the_user_gave():
    with pytest.raises(ValueError, match=r"--device is 'cuda', .*; use --device cpu, or auto"):
        choose_device("cuda", option="--device")


def test_processes_of_torchrun_take_the_device_of_their_number(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert choose_device("cuda") == choose_device("auto") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"torch finds 2 CUDA device\(s\) here"):
        choose_device("cuda")


def test_the_precision_of_a_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0) if device.index else (7, 5))
    cpu, turing, ampere = (torch.device(*where) for where in (("cpu",), ("cuda", 0), ("cuda", 1)))
    assert [choose_precision(Precision.auto, where).value for where in (cpu, turing, ampere)] == [
        "fp32",
        "fp32",
        "bf16",
    ]
    assert choose_precision(Precision.bf16, cpu) is Precision.bf16
    assert choose_precision(Precision.fp16, turing) is Precision.fp16
