import os
import socket

import pytest
import torch
import torch.multiprocessing as mp
from torch import nn

from effdet.training.distributed import World, choose_device, join_world


def test_one_process_is_alone(monkeypatch):
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    network = nn.Linear(1, 1)
    with join_world("cpu") as world:
        assert world == World(torch.device("cpu"), rank=0, size=1)
        assert world.is_main
        assert world.sum(torch.tensor([3.0])).tolist() == [3]
        assert world.gather([1, 2]) == [1, 2]
        assert world.broadcast("x") == "x"
        assert world.wrap(network) is network
        world.copy_buffers(network)


def test_devices():
    assert choose_device("cpu") == torch.device("cpu")
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")


def test_an_unknown_device_is_refused():
    with pytest.raises(ValueError, match=r"run\.device must be auto, cpu, cuda or cuda:N, got 'gpu'"):
        choose_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_cuda_device_is_one_sentence():
    with pytest.raises(ValueError, match=r"run\.device is 'cuda:1', but torch finds no CUDA device here"):
        choose_device("cuda:1")


def two_processes(rank, port, folder):
    os.environ |= {"WORLD_SIZE": "2", "RANK": str(rank), "LOCAL_RANK": str(rank), "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with join_world("cpu") as world:
        assert (world.rank, world.size, world.local_size, world.is_main) == (rank, 2, 2, rank == 0)
        own = torch.tensor([1.0 + rank])
        assert world.sum(own).tolist() == [3]
        assert own.tolist() == [1.0 + rank]  # the argument stays as it is
        assert world.gather([f"row of {rank}"] if rank else []) == ([] if rank else ["row of 1"])
        assert world.broadcast({"ap": rank + 0.5}) == {"ap": 0.5}

        norm = nn.BatchNorm1d(1)
        norm.running_mean.fill_(7 + rank)
        world.copy_buffers(norm)
        assert norm.running_mean.tolist() == [7]

        network = world.wrap(nn.Linear(1, 1, bias=False))
        network(torch.tensor([[1.0 + rank]])).sum().backward()
        assert network.module.weight.grad.item() == 1.5  # the mean of 1 and 2
    (folder / str(rank)).touch()


@pytest.mark.slow
def test_two_processes_agree(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    mp.spawn(two_processes, (port, tmp_path), nprocs=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1"]
