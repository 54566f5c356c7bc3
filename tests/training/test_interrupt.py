import os
import signal

import pytest

from effdet.training.interrupt import Interrupted, StopRequest

SIGNALS = [signal.SIGINT, signal.SIGTERM]


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


def test_the_handlers_come_back():
    before = [signal.getsignal(number) for number in SIGNALS]
    with StopRequest().listening():
        assert signal.getsignal(signal.SIGINT) not in before
    assert [signal.getsignal(number) for number in SIGNALS] == before
