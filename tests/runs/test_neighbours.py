import logging
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from effdet.config import load_config
from effdet.runs import neighbours
from effdet.runs.neighbours import (
    Meter,
    idle_threads,
    own_processes,
    own_seconds,
    usable_processors,
    watch_neighbours,
)
from effdet.runs.train import train
from effdet.training.checkpoint import load_checkpoint

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CPUS = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []

pytestmark = pytest.mark.skipif(not (neighbours.PROC / "stat").exists(), reason="the system has no /proc/stat")

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


def write_own(folder, process, spent, children=()):
    """Write the files of a process in /proc: its ticks (user, system, and those of ended children), its children."""
    (folder / str(process) / "task" / "1").mkdir(parents=True, exist_ok=True)
    columns = ["R", *["7"] * 10, *map(str, spent), "7"]
    (folder / str(process) / "stat").write_text(f"{process} (a) name) {' '.join(columns)}\n")
    (folder / str(process) / "task" / "1" / "children").write_text("".join(f"{child} " for child in children))


def test_others_are_the_busy_ticks_of_this_process_s_processors_without_those_of_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(neighbours, "PROC", tmp_path)
    clock = iter([100.0, 110.0])
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    write_stat(tmp_path / "stat", 40)
    write_own(tmp_path, os.getpid(), (500, 100, 0, 0), [71, 72])
    write_own(tmp_path, 71, (50, 0, 0, 0))
    write_own(tmp_path, 72, (0, 0, 0, 0), [73])
    write_own(tmp_path, 73, (1, 2, 0, 0))
    meter = Meter()
    write_stat(tmp_path / "stat", 140)  # six columns of 100 ticks: 600 of each processor
    write_own(tmp_path, os.getpid(), (540, 110, 60, 5), [72])  # 71 has ended, after 65 ticks in all
    write_own(tmp_path, 73, (31, 12, 0, 0))
    own = 50 + 15 + 40
    assert meter.others() == pytest.approx((len(CPUS) * 600 - own) / os.sysconf("SC_CLK_TCK") / 10)


BUSY = "while True: pass"


@pytest.fixture
def neighbour():
    """A busy program of the same shell and process group, which this process did not start."""
    command = ["sh", "-c", '"$0" -c "$1" >/dev/null 2>&1 & echo $!', sys.executable, BUSY]
    number = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    yield number
    os.kill(number, signal.SIGKILL)


def test_a_busy_program_is_seen(neighbour):
    meter = Meter()
    time.sleep(1)
    assert meter.others() > 0.2


def test_only_what_this_process_started_is_its_own(neighbour):
    shell = ["sh", "-c", '"$0" -c "$1" & echo $!; wait', sys.executable, "import time; time.sleep(60)"]
    with subprocess.Popen(shell, stdout=subprocess.PIPE, text=True) as child:
        grandchild = int(child.stdout.readline())
        found = own_processes()
        os.kill(grandchild, signal.SIGKILL)
    assert {os.getpid(), child.pid, grandchild} <= set(found)
    assert neighbour not in found
    assert os.getpgid(neighbour) == os.getpgid(0)


def test_the_time_of_a_child_counts_while_it_runs_and_when_it_has_ended():
    before = own_seconds()
    burn = "import time\nwhile time.process_time() < 0.3: pass\nprint(flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        running = own_seconds() - before
        child.communicate(b"\n")
    assert running > 0.28
    assert own_seconds() - before > 0.28


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
    monkeypatch.setattr(neighbours, "PROC", tmp_path)
    monkeypatch.setattr(neighbours, "SECONDS", 0.01)
    monkeypatch.setattr(neighbours, "usable_processors", lambda: 2.0)
    write_stat(tmp_path / "stat", 0)
    caplog.set_level(logging.INFO, logger="effdet")
    with watch_neighbours(CPU):
        wait_for(lambda: caplog.messages)
        write_stat(tmp_path / "busy", 10**6)
        (tmp_path / "busy").rename(tmp_path / "stat")
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
