import contextlib
import socket
import threading
import time

import pytest

from effdet import download as transfer
from effdet.download import fetch, is_reachable, part_of

DATA = bytes(range(256)) * 400  # 102,400 bytes


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(transfer, "_PAUSES", (0.05,) * 5)


@pytest.fixture
def server(file_server):
    file_server.files["/w.pth"] = DATA
    return file_server


def test_the_server_says_the_size_of_a_file_that_is_not_known(server, tmp_path):
    seen = []
    fetch(f"{server.url}/w.pth", tmp_path / "w", report=lambda what, done, total: seen.append((what, done, total)))
    assert (tmp_path / "w").read_bytes() == DATA
    assert seen[-1] == ("downloading w", len(DATA), len(DATA))


def test_a_lost_connection_is_taken_up_where_it_broke(server, tmp_path):
    server.cut_after = [30_000, 20_000]
    fetch(f"{server.url}/w.pth", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == DATA
    starts = [int(asked[6:-1]) if asked else 0 for _, asked in server.requests]
    assert len(starts) == 3
    assert starts == sorted(starts)
    assert starts[1] > 0


def test_what_an_earlier_attempt_left_is_not_asked_for_again(server, tmp_path):
    (tmp_path / "w").write_bytes(DATA[:70_000])
    fetch(f"{server.url}/w.pth", tmp_path / "w")
    assert server.requests == [("/w.pth", "bytes=70000-")]
    assert (tmp_path / "w").read_bytes() == DATA


def test_an_attempt_that_stopped_at_the_last_byte_is_whole(server, tmp_path):
    (tmp_path / "w").write_bytes(DATA)
    fetch(f"{server.url}/w.pth", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == DATA
    assert server.sent == 0


def test_more_than_the_server_has_is_thrown_away(server, tmp_path):
    (tmp_path / "w").write_bytes(DATA + b"more")
    fetch(f"{server.url}/w.pth", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == DATA


def test_a_server_that_knows_no_ranges_sends_everything_again(server, tmp_path):
    server.knows_ranges = False
    (tmp_path / "w").write_bytes(b"x" * 70_000)
    fetch(f"{server.url}/w.pth", tmp_path / "w")
    assert (tmp_path / "w").read_bytes() == DATA


def test_a_missing_file_is_an_error_at_once(server, tmp_path):
    with pytest.raises(OSError, match="cannot be downloaded: the server says 404"):
        fetch(f"{server.url}/other.pth", tmp_path / "w")
    assert len(server.requests) == 1


def test_a_server_that_never_begins_is_asked_once(tmp_path):
    with pytest.raises(OSError, match=r"cannot be downloaded: Connection refused$"):
        fetch("http://127.0.0.1:9/w.pth", tmp_path / "w")  # the discard port: nobody listens
    assert not (tmp_path / "w").exists()


def test_a_server_that_goes_away_for_good_leaves_what_came(server, tmp_path):
    server.cut_after = [40_000] + [0] * 10
    with pytest.raises(OSError, match=r"[\d,]+ of 102,400 bytes are kept, start again to go on"):
        fetch(f"{server.url}/w.pth", tmp_path / "w")
    assert 0 < len((tmp_path / "w").read_bytes()) <= 40_000


def test_a_server_that_offers_another_size_is_refused(server, tmp_path):
    with pytest.raises(ValueError, match="must have 7 bytes, but the server offers 102,400"):
        fetch(f"{server.url}/w.pth", tmp_path / "w", size=7)


def test_an_unfinished_file_has_a_name_of_its_own(tmp_path):
    assert part_of(tmp_path / "w.pth") == tmp_path / "w.pth.part"


def test_a_server_that_refuses_connections_is_not_reachable():
    assert not is_reachable("http://127.0.0.1:9")


def test_a_host_without_an_address_is_not_reachable():
    assert not is_reachable("http://nowhere.invalid")


def test_any_answer_makes_a_server_reachable(server):
    assert is_reachable(server.url)  # which answers 501 to HEAD


def test_a_silent_server_is_given_up(monkeypatch, server):
    def wait_in_vain(*_, **__):
        time.sleep(1)
        raise TimeoutError

    monkeypatch.setattr(transfer, "_PROBE_SECONDS", 0.2)
    monkeypatch.setattr(transfer.urllib.request, "urlopen", wait_in_vain)
    assert not is_reachable(server.url)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://[::1/w.pth", r"http://\[::1/w.pth must be an address of the web: Invalid IPv6 URL"),
        ("http://host:port/w", "http://host:port/w must be an address of the web: Port"),
        ("http://bücher.example/w", "the host in http://bücher.example/w must be written in ASCII"),
        ("http://host/ä", "must be in ASCII without spaces"),
        ("http://host/a b", "must be in ASCII without spaces"),
        ("http://host/a\nb", r"http://host/a\\nb must be in ASCII without spaces"),
        ("file:///etc/passwd", "must be an address that begins with http:// or https://"),
        ("http:///w", "must be an address that begins with http:// or https:// and a host"),
    ],
)
def test_what_is_no_address_is_one_sentence(tmp_path, url, message):
    with pytest.raises(ValueError, match=message):
        fetch(url, tmp_path / "w")
    assert not is_reachable(url)


def test_a_server_that_drips_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(transfer, "_PATIENCE", 0.3)
    listener = socket.create_server(("127.0.0.1", 0))

    def drip():
        connection, _ = listener.accept()
        with connection, contextlib.suppress(OSError):
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.02)

    threading.Thread(target=drip, daemon=True).start()
    with (
        listener,
        pytest.raises(OSError, match=r"cannot be downloaded: the server sends \d+ bytes a second, less than 1000; "),
    ):
        fetch(f"http://127.0.0.1:{listener.getsockname()[1]}/w", tmp_path / "w")
    assert (tmp_path / "w").stat().st_size > 0
