import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from effdet.config import load_config
from effdet.runs import neighbours
from effdet.runs.neighbours import Meter, idle_threads, usable_processors, watch_neighbours
from effdet.runs.train import train
from effdet.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

pytestmark = pytest.mark.skipif(not neighbours.STAT.exists(), reason="the system has no /proc/stat")

WAITING = """
import time, torch
from effdet.runs.neighbours import idle_threads

def seconds_of_waiting():
    numbers = torch.ones(8 * 32768)
    before = time.process_time()
    for _ in range(20):
        numbers.add_(1)
        time.sleep(0.01)
    return time.process_time() - before

print(seconds_of_waiting())
with idle_threads(2, 2):
    seconds_of_waiting()
    print(seconds_of_waiting())
seconds_of_waiting()
print(seconds_of_waiting())
"""


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def write_stat(file, ticks):
    """Write a /proc/stat in which every processor was idle for 1000 ticks and busy for these, in each busy column."""
    rows = [f"cpu{number} {ticks} {ticks} {ticks} 1000 5 {ticks} {ticks} {ticks} 0 0" for number in (*CPUS, 998)]
    file.write_text("\n".join([f"cpu  {' '.join(['99999999'] * 10)}", *rows, "intr 1", ""]))


@pytest.mark.skipif(len(CPUS) != 2, reason="counts on two processors")
def test_threads_sleep_at_once_while_there_are_idle_ones():
    environment = {name: value for name, value in os.environ.items() if name not in neighbours.CHOICES}
    environment |= {"OMP_NUM_THREADS": "2", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", WAITING], env=environment, capture_output=True, text=True, check=True)
    alone, beside, again = map(float, done.stdout.split())
    assert beside < alone / 2
    assert beside < again / 2


def test_others_are_the_busy_ticks_of_this_process_s_processors_without_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "STAT", tmp_path / "stat")
    clock, own = iter([100.0, 110.0]), iter([7.0, 9.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "process_time", lambda: next(own))
    write_stat(neighbours.STAT, 40)
    meter = Meter()
    write_stat(neighbours.STAT, 140)  # six columns of 100 ticks of 1/100 s: 6 s of each processor
    ticks_a_second = os.sysconf("SC_CLK_TCK")
    assert meter.others() == pytest.approx((len(CPUS) * 600 / ticks_a_second - 2) / 10)


def test_a_busy_program_is_seen():
    meter = Meter()
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as program:
        time.sleep(1)
        others = meter.others()
        program.kill()
    assert others > 0.2


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, len(CPUS)),
        ({"cpu.max": "max 100000\n"}, len(CPUS)),
        ({"cpu.max": "50000 100000\n"}, 0.5),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, len(CPUS)),
        ({"cpu/cpu.cfs_quota_us": "75000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 0.75),
    ],
)
def test_usable_processors_are_those_of_affinity_and_cgroup(files, expected, tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "CGROUP", tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert usable_processors() == expected


@pytest.mark.parametrize(("threads", "processors", "count"), [(2, 2, 1), (4, 4, 1), (2, 5, 4), (3, 8, 3), (2, 0.5, 1)])
def test_teams_are_so_many_that_threads_are_more_than_processors(threads, processors, count, two_threads):
    with idle_threads(threads, processors):
        assert [thread.name for thread in threading.enumerate()].count("effdet-idle") == count
        assert threads + count * (threads - 1) > processors
    assert "effdet-idle" not in [thread.name for thread in threading.enumerate()]


def wait_for(condition):
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_idle_threads_come_and_go_with_the_neighbours(tmp_path, monkeypatch, caplog, two_threads):
    for name in neighbours.CHOICES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(neighbours, "STAT", tmp_path / "stat")
    monkeypatch.setattr(neighbours, "SECONDS", 0.01)
    monkeypatch.setattr(neighbours, "usable_processors", lambda: 2.0)
    write_stat(neighbours.STAT, 0)
    caplog.set_level(logging.INFO, logger="effdet")
    with watch_neighbours(CPU):
        wait_for(lambda: caplog.messages)
        write_stat(tmp_path / "busy", 10**6)
        (tmp_path / "busy").rename(neighbours.STAT)
        wait_for(lambda: len(caplog.messages) == 3)  # after ten looks that find the same ticks
    first, crowded, quiet = caplog.messages
    assert first == "other programs use 0.0 of 2 processors, this run has 2 threads"
    assert crowded.endswith("of 2 processors, this run has 2 threads: waiting threads sleep at once")
    assert quiet == "other programs use 0.0 of 2 processors, this run has 2 threads: waiting threads spin again"
    assert not {"effdet-idle", "effdet-neighbours"} & {thread.name for thread in threading.enumerate()}


def test_the_choice_of_the_user_stays(monkeypatch, caplog, two_threads):
    monkeypatch.setenv("GOMP_SPINCOUNT", "77")
    caplog.set_level(logging.INFO, logger="effdet")
    with watch_neighbours(CPU):
        assert "effdet-neighbours" not in [thread.name for thread in threading.enumerate()]
    assert caplog.messages == ["waiting threads behave as the environment says: GOMP_SPINCOUNT=77"]


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nothing_is_watched_with_one_thread_or_on_a_gpu(device, caplog):
    caplog.set_level(logging.INFO, logger="effdet")
    with watch_neighbours(torch.device(device)):
        assert "effdet-neighbours" not in [thread.name for thread in threading.enumerate()]
    assert caplog.messages == []


CONFIG = """
model: {{name: lite0}}
data: {{root: {root}, image_size: [64, 64], workers: 0}}
train: {{epochs: 1, batch_size: 8, optimizer: adamw, lr: 0.004}}
eval: {{every: 1}}
run: {{dir: {runs}, name: tiny, device: cpu, threads: 2, report: false}}
"""


@pytest.mark.slow
def test_weights_do_not_depend_on_how_threads_wait(tmp_path, demo_root):
    file = tmp_path / "tiny.yaml"
    file.write_text(CONFIG.format(root=demo_root, runs=tmp_path))
    alone = train(load_config(file)).folder
    with idle_threads(2, 2):
        beside = train(load_config(file)).folder
    command = [sys.executable, "tools/train.py", str(file), "run.name=passive"]
    subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_WAIT_POLICY": "passive"}, check=True, capture_output=True)
    assert "OMP_WAIT_POLICY=passive" in (tmp_path / "passive" / "log.txt").read_text()
    expected = load_checkpoint(alone / "last.ckpt")["model"]
    for folder in (beside, tmp_path / "passive"):
        found = load_checkpoint(folder / "last.ckpt")["model"]
        assert expected.keys() == found.keys()
        assert [name for name, tensor in expected.items() if not torch.equal(tensor, found[name])] == []
