import os
import signal
import subprocess
import sys
import threading

import pytest

from effdet.training.interrupt import Interrupted, StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_and_the_second_stops(number):
    stop = StopRequest()
    with stop.listening():
        assert not stop.made
        os.kill(os.getpid(), number)
        assert stop.made
        with pytest.raises(Interrupted):
            os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_stops_at_once_where_nothing_would_be_lost(number):
    stop = StopRequest()
    with stop.listening():
        with pytest.raises(Interrupted), stop.granted_at_once():
            os.kill(os.getpid(), number)
        assert not stop.at_once
        os.kill(os.getpid(), number)  # outside of that block it is a request again
        assert stop.made


@pytest.mark.parametrize("at_once", [False, True])
def test_a_dying_loader_process_is_no_error_after_a_signal(at_once):
    def complain(number, frame):
        raise RuntimeError("DataLoader worker is killed by signal")

    before = signal.signal(signal.SIGCHLD, complain)
    try:
        stop = StopRequest(at_once=at_once)
        with stop.listening():
            try:
                os.kill(os.getpid(), signal.SIGTERM)
            except Interrupted:
                assert at_once
            os.kill(os.getpid(), signal.SIGCHLD)
        assert signal.getsignal(signal.SIGCHLD) is complain
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_a_repeated_signal_is_no_second_request_of_a_patient_one():
    stop = StopRequest(patient=True)
    with stop.listening():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.made
        assert not stop.agreed


def test_a_request_made_before_ends_a_block_that_loses_nothing():
    stop = StopRequest(made=True)
    with pytest.raises(Interrupted), stop.granted_at_once():
        raise AssertionError("the block began")


def test_waiting_ends_with_the_request():
    stop = StopRequest()
    assert not stop.wait(seconds=0)
    timer = threading.Timer(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with stop.listening():
        timer.start()
        assert stop.wait(seconds=60)
    timer.join()


def test_an_ignored_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as under nohup
    try:
        stop = StopRequest()
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.made
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


CLOSED_TERMINAL = """
import logging, os, pty, sys
from effdet.training.interrupt import StopRequest
folder = sys.argv[1]
pid, terminal = pty.fork()
if pid == 0:
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    stop = StopRequest()
    with stop.listening():
        print("ready", flush=True)
        stop.wait(seconds=60)
        print("words to a terminal that is gone", flush=True)
        print("more words", file=sys.stderr, flush=True)
        open(folder + "/stopped", "w").write(str(stop.made))
    os._exit(0)
while b"ready" not in os.read(terminal, 100):
    pass
os.close(terminal)
os.waitpid(pid, 0)
"""


def test_a_closed_terminal_is_a_request_and_writing_to_it_no_error(tmp_path):
    subprocess.run([sys.executable, "-c", CLOSED_TERMINAL, str(tmp_path)], check=True)
    assert (tmp_path / "stopped").read_text() == "True"


def test_the_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest().listening():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in SIGNALS] == before
