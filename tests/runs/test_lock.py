import os
import signal
import subprocess
import sys

import pytest

from effdet.runs.lock import RunInUseError, lock_run

HOLD = """
import os, sys, time
from pathlib import Path
from effdet.runs.lock import lock_run
with lock_run(Path(sys.argv[1])):
    child = None
    if sys.argv[2] == "with child":
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"!")
            time.sleep(60)  # a loader process that outlives the run
            os._exit(0)
        os.read(reader, 1)  # the child runs
    print(child, flush=True)
    time.sleep(60)
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


def hold(folder, how="alone"):
    """Return a process that holds the lock, and its child."""
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder), how], stdout=subprocess.PIPE, text=True)
    line = holder.stdout.readline().strip()
    return holder, None if line == "None" else int(line)


def test_a_second_process_is_refused_with_the_number_of_the_first(tmp_path):
    holder, _ = hold(tmp_path)
    try:
        message = f"must be used by one process at a time, but process {holder.pid} trains in it; wait for its end"
        with pytest.raises(RunInUseError, match=message), lock_run(tmp_path):
            pass
    finally:
        holder.kill()
        holder.communicate()


def test_the_number_is_all_that_the_file_holds(tmp_path, monkeypatch):
    """Windows locks a byte far behind the number, and leaves the place in the file there."""
    monkeypatch.setattr("effdet.runs.lock._try_lock", lambda file: os.lseek(file, 1000, os.SEEK_SET))
    with lock_run(tmp_path):
        assert (tmp_path / ".lock").read_bytes() == str(os.getpid()).encode()


@needs_fork
def test_a_kill_releases_the_lock_although_a_loader_process_lives_on(tmp_path):
    holder, child = hold(tmp_path, "with child")
    holder.kill()
    holder.wait()
    try:
        with lock_run(tmp_path):
            assert (tmp_path / ".lock").read_text() == str(os.getpid())
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_second_run_in_the_same_process_is_refused_and_the_end_releases(tmp_path):
    with lock_run(tmp_path), pytest.raises(RunInUseError, match=f"process {os.getpid()}"), lock_run(tmp_path):
        pass
    with lock_run(tmp_path):
        pass


def test_temporary_files_of_a_killed_run_are_removed(tmp_path):
    for name in (".best.safetensors.0123abcd.tmp", "last.ckpt.tmp", "notes.tmp"):
        (tmp_path / name).touch()
    with lock_run(tmp_path):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "notes.tmp"]


@pytest.mark.skipif(sys.platform == "win32", reason="fcntl")
def test_a_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    import errno

    def refuse(file):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("effdet.runs.lock._try_lock", refuse)
    with lock_run(tmp_path):
        pass
    assert "cannot be locked (No locks available): start no second process in it" in caplog.text
