"""Fixtures and settings that every test shares."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import sys
import threading
import time
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

# Set before any test imports the libraries that read them; child processes inherit them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tools"))  # where the tests of tools/benchmark/ find it
torch.set_num_threads(1)  # sums keep their order, and pytest-xdist workers do not fight for cores


@pytest.fixture(autouse=True, scope="session")
def signals_as_in_a_terminal():
    """Undo what ``nohup`` sets: runs that tests start would ignore SIGHUP, too."""
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(scope="session")
def photo_sets() -> Path:
    """Folder of two small sets of real photos, bccd and coco_open, each in COCO format; read only."""
    return ROOT / "tests" / "photos"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Folder with whole checkpoints of other projects, which lies beside the project; read only."""
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the folder ../shared/data with checkpoints of other projects")
    return folder


@pytest.fixture(scope="session")
def peer_python() -> str:
    """Interpreter of an environment with PyPI's effdet 0.4.1."""
    return _interpreter("EFFDET_PEER_PYTHON", "PyPI's effdet 0.4.1; `make peer-env` makes one")


@pytest.fixture(scope="session")
def mediapipe_python() -> str:
    """Interpreter of an environment with mediapipe."""
    return _interpreter("EFFDET_MEDIAPIPE_PYTHON", "mediapipe; `make mediapipe-env` makes one")


def _interpreter(variable: str, what: str) -> str:
    python = os.environ.get(variable)
    if not python:  # an empty value is the same as none
        pytest.skip(f"needs {variable}, an interpreter with {what}")
    return python


NOT_IN_A_CLONE = {"shared_data", "peer_python", "mediapipe_python"}


def pytest_report_header(config: pytest.Config) -> str:
    """Say loudly which tests this run leaves out."""
    return (
        f"tests by their marks: {config.option.markexpr or 'all'}. `make test-outside` runs those that need PyPI's "
        "effdet, MediaPipe or ../shared/data, `make test-sweeps` those over many cases"
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that need what a clone does not hold; ``-m outside`` runs these alone."""
    for item in items:
        if NOT_IN_A_CLONE & set(getattr(item, "fixturenames", ())):
            item.add_marker("outside")


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small drawn data set of 16 training and 8 validation images; read only, copy it to change it."""
    from effdet.data.demo import draw_demo

    root = tmp_path_factory.mktemp("demo")
    draw_demo(root, num_train=16, num_val=8, seed=0)
    return root


@pytest.fixture(scope="session")
def like_trained():
    """A function (model, photos): it gives a random model real statistics in every BN and scores that spread.

    Without them, signals die on the way through a random network, and a wrong graph goes unseen.
    """
    from effdet.detector.batches import make_batch

    def change(model, photos):
        for norm in (module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.momentum = None
        images = model.network_input(make_batch(photos, model.letterbox))
        with torch.no_grad():
            model.network.train()(images)
            predictions = model.network.eval()(images)
            model.network.class_head.output_conv.weight.mul_(1.5 / predictions.class_logits.std())
            model.network.box_head.output_conv.weight.mul_(0.2 / predictions.box_deltas.std())
        return model.eval()

    return change


class FileServer(ThreadingHTTPServer):
    """A file server on loopback whose moods are attributes."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _FileHandler)
        self.files = {}  # path → content
        self.knows_ranges = True
        self.cut_after = []  # bytes after which the next connections are cut
        self.status = None  # answer everything with this status
        self.statuses = []  # of the next answers
        self.pause = 0.0  # seconds between pieces of 4 KiB
        self.lie_about_range = ""
        self.content_type = ""
        self.requests = []  # (path, Range header or None)
        self.sent = 0
        self.url = f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request, client_address):
        pass  # the clients of these tests go away in the middle


class _FileHandler(BaseHTTPRequestHandler):
    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.requests.append((self.path, asked))
        status = server.statuses.pop(0) if server.statuses else server.status
        path = urllib.parse.unquote(self.path.partition("?")[0])
        if status or path not in server.files:
            self.send_error(status or 404)
            return
        data = server.files[path]
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked and server.knows_ranges else 0
        if start >= len(data):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(data)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(data) - start))
        if start:
            self.send_header("Content-Range", server.lie_about_range or f"bytes {start}-{len(data) - 1}/{len(data)}")
        if server.content_type:
            self.send_header("Content-Type", server.content_type)
        self.end_headers()
        self.send_body(data[start:], server.cut_after.pop(0) if server.cut_after else None)

    def send_body(self, body, cut_after):
        for position in range(0, len(body), 4096):
            piece = body[position : position + 4096]
            if cut_after is not None and position + len(piece) > cut_after:
                self.wfile.flush()
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()  # with a reset, as when a router goes down
                return
            self.server.sent += len(piece)  # before the client has it, and looks at this number
            self.wfile.write(piece)
            time.sleep(self.server.pause)

    def log_message(self, *args):
        pass


@pytest.fixture
def file_server():
    server = FileServer()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
