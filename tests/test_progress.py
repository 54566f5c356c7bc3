"""Tests of effdet/progress.py: a bar on a real terminal, lines elsewhere."""

import io
import os
import pty
import subprocess
import sys
import threading

import pytest

from effdet.progress import ProgressBar, SafeStderr, report_nothing, track


class Terminal(io.StringIO):
    def isatty(self):
        return True


def on_terminal(code, **environment):
    """Run Python code with a pseudo-terminal as its stderr; return the exit status and what the terminal got."""
    ours, theirs = pty.openpty()
    received = []

    def read():
        try:
            while data := os.read(ours, 4096):
                received.append(data)
        except OSError:  # the other side is closed
            pass

    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", **environment}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=theirs, env=environment)
    os.close(theirs)
    reader = threading.Thread(target=read)
    reader.start()
    status = process.wait()
    reader.join()
    os.close(ours)
    return status, b"".join(received).decode("utf-8")


TRACK = "from effdet.progress import track; assert list(track([1, 2, 3], 'checking [b] é')) == [1, 2, 3]"


def test_a_terminal_gets_a_bar_that_reaches_the_end():
    status, text = on_terminal(TRACK)
    assert status == 0
    assert "checking [b] é" in text  # brackets are no markup
    assert "100%" in text
    assert "left" in text


def test_a_terminal_that_is_not_utf_8_gets_a_bar_too():
    status, text = on_terminal(TRACK, PYTHONIOENCODING="ascii")
    assert status == 0
    assert r"checking [b] \xe9" in text


def test_the_bar_starts_anew_with_each_job(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    with ProgressBar() as bar:
        assert bar.is_shown
        bar("a", 5, 10)
        bar("b", 10, 10)
        assert (bar._bar.tasks[0].completed, bar._bar.tasks[0].total) == (10, 10)
        bar("c", 1, 4)
        assert (bar._bar.tasks[0].description, bar._bar.tasks[0].completed, bar._bar.tasks[0].total) == ("c", 1, 4)
    assert not bar.is_shown


def test_a_terminal_that_is_closed_does_not_end_the_job(monkeypatch):
    class Closed(Terminal):
        def write(self, text):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    assert list(track("ab", "reading")) == ["a", "b"]


def test_no_terminal_gets_lines_at_the_ends_of_each_job_only(capsys):
    with ProgressBar(seconds_between_lines=1000) as report:
        assert not report.is_shown
        for what in ("checking", "unpacking"):
            for done in range(1, 5001):
                report(what, done, 5000)
    assert capsys.readouterr().err.splitlines() == [
        "checking: 1 of 5,000 (0%)",
        "checking: 5,000 of 5,000 (100%)",
        "unpacking: 1 of 5,000 (0%)",
        "unpacking: 5,000 of 5,000 (100%)",
    ]


def test_lines_come_at_the_rate_that_was_asked_for(capsys):
    with ProgressBar(seconds_between_lines=-1) as report:
        for done in range(4):
            report("checking", done, 9)
    assert len(capsys.readouterr().err.splitlines()) == 4


def test_no_terminal_gets_nothing_unless_lines_are_wanted(capsys):
    assert list(track("ab", "reading")) == ["a", "b"]
    report_nothing("reading", 1, 2)
    assert capsys.readouterr().err == ""


def test_an_unknown_total_can_be_reported(capsys):
    with ProgressBar(seconds_between_lines=10) as report:
        report("downloading", 5, 0)
    assert capsys.readouterr().err == "downloading: 5\n"


def test_stderr_without_a_reader_does_not_end_the_program():
    code = """
import os, subprocess, sys
from effdet.progress import SafeStderr
sys.stderr = SafeStderr(sys.stderr)
sys.stdin.readline()  # until the reader has gone
print("lost", file=sys.stderr)
print("lost", file=sys.stderr, flush=True)
os.write(2, b"lost")
subprocess.run([sys.executable, "-c", "import sys; sys.stderr.write('lost')"], check=True)
print("done")
"""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes, text=True) as process:
        process.stderr.close()
        process.stdin.write("\n")
        process.stdin.close()
        assert process.stdout.read() == "done\n"
    assert process.returncode == 0


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs the device /dev/full")
def test_a_log_on_a_full_disk_does_not_end_the_program():
    with open("/dev/full", "w") as full:
        stderr = SafeStderr(full)
        print("lost", file=stderr, flush=True)
        print("lost", file=stderr, flush=True)
