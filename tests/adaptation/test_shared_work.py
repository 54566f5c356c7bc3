import os
import signal
import subprocess
import sys
import time

import pytest

WORKER = """
import sys, time
from pathlib import Path
from effdet.adaptation.shared_work import do_all

folder, seconds = Path(sys.argv[1]), float(sys.argv[2])

def work(place):
    with open(folder / "log", "a") as log:
        log.write(place.name)
    time.sleep(seconds)
    (place / "done").write_text(str(len(place.name)))

places = [folder / name for name in "abcd"]
do_all({place: lambda place=place: work(place) for place in places}, "done")
"""


def start(folder, seconds):
    return subprocess.Popen([sys.executable, "-c", WORKER, str(folder), str(seconds)], stderr=subprocess.DEVNULL)


@pytest.mark.slow
def test_processes_share_the_work(tmp_path):
    workers = [start(tmp_path, 0.3) for _ in range(2)]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    assert sorted((tmp_path / "log").read_text()) == list("abcd")  # each piece was done once


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
def test_the_work_of_a_killed_process_is_taken_over(tmp_path):
    killed = start(tmp_path, 600)
    end = time.monotonic() + 120
    while not (tmp_path / "log").exists() and time.monotonic() < end:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait(30)
    assert start(tmp_path, 0).wait(120) == 0
    assert (tmp_path / "log").read_text() == "aabcd"
