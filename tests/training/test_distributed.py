import os
import signal
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import nn

from effdet.training import peers
from effdet.training.distributed import World, is_connection_error, join_world
from effdet.training.interrupt import StopRequest

sys.path.insert(0, str(Path(__file__).parent))
from processes import Processes

SHORT = timedelta(seconds=8)  # a limit that a busy machine keeps while all processes work


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


def test_a_process_that_has_ended_in_order_is_not_missed(monkeypatch, caplog):
    monkeypatch.setattr(peers, "BEAT", 0.01)
    monkeypatch.setattr(peers, "SILENCE", 0.05)
    store = dist.HashStore()
    main, second = (peers.Peers(store, rank, size=3, timeout=60) for rank in (0, 1))
    with main.watched():
        with second.watched():
            pass
        end = time.monotonic() + 60
        while not caplog.messages and time.monotonic() < end:  # of process 2, which never gave a sign
            time.sleep(0.01)
        time.sleep(0.2)
    assert caplog.messages == ["process 2 gives no sign of life for 0 s; the others wait for it"]


def test_errors_of_gloo_are_connection_errors_and_others_are_not():
    assert is_connection_error(RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:534] Closed by peer"))
    assert is_connection_error(torch.distributed.DistNetworkError("recv failed"))
    assert not is_connection_error(RuntimeError("shape mismatch"))
    assert not is_connection_error(ValueError("gloo"))


# -- several processes -----------------------------------------------------------------------------------------------


def agree(rank):
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


def let_main_work_long(rank):
    with join_world("cpu", timeout=SHORT) as world:
        if world.is_main:
            time.sleep(2 * SHORT.total_seconds())  # longer than a process may stand still
        return world.broadcast("scores" if world.is_main else None)


def fail_on_one(rank, operation):
    with join_world("cpu") as world:
        if rank == 1:
            raise ValueError("image 7 cannot be read")
        while True:
            world.sum(torch.ones(1)) if operation == "sum" else world.broadcast("value")


def work_forever(rank, operation, folder):
    with join_world("cpu", timeout=SHORT) as world:
        while True:
            world.sum(torch.ones(1)) if operation == "sum" else world.broadcast("value")
            (folder / f"{rank}.works").touch()


def stop_one_while_the_other_waits(rank):
    stop = StopRequest(patient=True)
    with join_world("cpu") as world, stop.listening(), stop.granted_at_once():
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        world.broadcast("value")


@pytest.fixture
def start():
    """Start processes that end with the test."""
    started = []

    def begin(*arguments, **options):
        started.append(Processes(*arguments, **options))
        return started[-1]

    yield begin
    for processes in started:
        processes.close()


def wait_for(paths, seconds=120):
    deadline = time.monotonic() + seconds
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline, f"{paths} did not come"
        time.sleep(0.01)


@pytest.mark.slow
def test_two_processes_agree(start):
    processes = start(agree)
    assert [processes.answer(rank) for rank in range(2)] == [("returned", None)] * 2


@pytest.mark.slow
def test_the_main_process_may_work_longer_than_a_process_may_stand_still(start):
    processes = start(let_main_work_long)
    assert [processes.answer(rank) for rank in range(2)] == [("returned", "scores")] * 2


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["sum", "broadcast"])
def test_the_error_of_one_process_is_a_sentence_on_the_others(start, operation):
    processes = start(fail_on_one, operation)
    assert processes.answer(1) == ("ValueError", "image 7 cannot be read")
    assert processes.answer(0) == ("PeerError", "process 1 of this run has failed: image 7 cannot be read")


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["sum", "broadcast"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_a_process_that_ends_or_stands_still_is_named(start, tmp_path, operation, number):
    processes = start(work_forever, operation, tmp_path)
    wait_for([tmp_path / "0.works", tmp_path / "1.works"])
    os.kill(processes.pid(1), number)
    kind, sentence = processes.answer(0)
    assert kind == "PeerError"
    assert sentence.startswith("process 1 of this run has ended or stands still, without a message")


@pytest.mark.slow
def test_a_process_that_stops_while_others_wait_does_not_leave_alone(start):
    processes = start(stop_one_while_the_other_waits)
    assert [processes.answer(rank)[0] for rank in range(2)] == ["Interrupted"] * 2


# -- torchrun --------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, sys, time
from pathlib import Path
import torch
from effdet.training.distributed import join_world
from effdet.training.interrupt import StopRequest
folder, what = Path(sys.argv[1]), sys.argv[2]
stop = StopRequest(patient=True)
try:
    with join_world("cpu") as world, stop.listening():
        (folder / f"{world.rank}.pid").write_text(str(os.getpid()))
        while not stop.made:
            if what == "fail" and world.rank == 1:
                raise ValueError("image 7 cannot be read")
            world.sum(torch.ones(1)) if what == "fail" else time.sleep(0.01)
        (folder / f"{world.rank}.stopped").touch()
except (ValueError, RuntimeError) as error:
    print("program: error:", error, file=sys.stderr)
    sys.exit(1)
"""


def torchrun(folder, what):
    (folder / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    command += [str(folder / "program.py"), str(folder), what]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.mark.slow
def test_torchrun_says_at_its_end_what_failed_and_no_rank_prints_a_traceback(tmp_path):
    errors = torchrun(tmp_path, "fail").communicate(timeout=240)[1]
    assert errors.count("program: error: image 7 cannot be read") == 1
    assert errors.count("program: error: process 1 of this run has failed: image 7 cannot be read") == 1
    assert "gloo" not in errors
    summary = errors[errors.index("Root Cause") :]
    assert "traceback : image 7 cannot be read" in summary


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_processes_stop_when_torchrun_is_killed(tmp_path):
    launcher = torchrun(tmp_path, "wait")
    wait_for([tmp_path / "0.pid", tmp_path / "1.pid"])
    launcher.kill()
    wait_for([tmp_path / "0.stopped", tmp_path / "1.stopped"])
    launcher.communicate()
