import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import save_file

from effdet import EfficientDet
from effdet.weights import hub

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """The part of the Hugging Face hub that stores one model repository, on loopback."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.repository = "ann/blood"
        self.files = {}  # of the repository
        self.created = []
        self.commits = []  # (revision, first line, paths)
        self.cards = []
        self.downloads = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_HEAD(self):
        self._answer_file(with_body=False)

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            self._send(json.dumps({"id": self.server.repository, "sha": COMMIT, "siblings": []}).encode())
        else:
            self._answer_file(with_body=True)

    def do_POST(self):
        body = self._body()
        if self.path == "/api/repos/create":
            self.server.created.append(json.loads(body))
            self._send(json.dumps({"url": f"{self.server.url}/{self.server.repository}"}).encode())
        elif self.path == "/api/validate-yaml":  # the front matter of the README
            self.server.cards.append(json.loads(body)["content"])
            self._send(json.dumps({"errors": [], "warnings": []}).encode())
        elif "/preupload/" in self.path:
            files = [{"path": item["path"], "uploadMode": "regular"} for item in json.loads(body)["files"]]
            files = [item | {"shouldIgnore": False, "oid": None} for item in files]
            self._send(json.dumps({"files": files}).encode())
        elif "/commit/" in self.path:
            lines = [json.loads(line) for line in body.splitlines()]
            given = {line["value"]["path"]: line["value"]["content"] for line in lines if line["key"] == "file"}
            self.server.files |= {path: base64.b64decode(content) for path, content in given.items()}
            summary = lines[0]["value"]["summary"]
            self.server.commits.append((self.path.rpartition("/")[2], summary, sorted(given)))
            url = f"{self.server.url}/{self.server.repository}/commit/{COMMIT}"
            self._send(json.dumps({"commitUrl": url, "commitOid": COMMIT}).encode())
        else:
            self._send(b"{}", 404)

    def _answer_file(self, *, with_body):
        found = re.fullmatch(rf"/{self.server.repository}/resolve/([^/]+)/(.+)", self.path.partition("?")[0])
        if found is None:
            code = "RepoNotFound" if "/resolve/" in self.path else ""
            self._send(b"", 404 if code else 200, {"X-Error-Code": code} if code else {})
        elif found[2] not in self.server.files:
            self._send(b"", 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            data = self.server.files[found[2]]
            if with_body:
                self.server.downloads.append((found[1], found[2]))
            tag = f'"{hashlib.sha1(data).hexdigest()}"'
            self._send(data, 200, {"ETag": tag, "X-Repo-Commit": COMMIT}, with_body=with_body)

    def _body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _send(self, data, status=200, headers=None, *, with_body=True):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if with_body and self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch, tmp_path):
    with Hub() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        template = server.url + constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def model():
    torch.manual_seed(0)
    return EfficientDet("lite0", 2, image_size=(128, 96), class_names=["cat", "dog"], category_ids=[3, 7])


def assert_same(a, b):
    assert (a.name, a.class_names, a.category_ids, a.image_size) == (
        b.name,
        b.class_names,
        b.category_ids,
        b.image_size,
    )
    first, second = a.state_dict(), b.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_model_that_was_pushed_comes_back(server, model):
    url = model.push_to_hub("ann/blood", private=True, message="Cats and dogs", token="hf_test")
    assert url == f"{server.url}/ann/blood/commit/{COMMIT}"
    assert server.created[0]["name"] == "blood"
    assert server.created[0].get("visibility", server.created[0].get("private")) in (True, "private")  # by version
    assert server.commits == [("main", "Cats and dogs", ["README.md", "config.json", "model.safetensors"])]
    assert 'from_pretrained("hf-hub:ann/blood")' in server.files["README.md"].decode()
    assert_same(EfficientDet.from_pretrained("hf-hub:ann/blood"), model)


def test_a_readme_that_somebody_wrote_is_kept(server, model):
    server.files["README.md"] = b"Mine."
    model.push_to_hub("ann/blood", token="hf_test")
    assert server.files["README.md"] == b"Mine."


def test_what_was_downloaded_once_is_found_without_the_hub(server, model, monkeypatch):
    model.push_to_hub("ann/blood", token="hf_test")
    assert_same(EfficientDet.from_pretrained("hf-hub:ann/blood@v1"), model)
    assert ("v1", "model.safetensors") in server.downloads
    downloads = len(server.downloads)
    EfficientDet.from_pretrained("hf-hub:ann/blood@v1")
    assert len(server.downloads) == downloads  # not twice
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert_same(EfficientDet.from_pretrained("hf-hub:ann/blood@v1"), model)


def test_a_repository_without_our_description_is_read_by_its_names(server, model, tmp_path):
    save_file(model.network.state_dict(), tmp_path / "w")
    server.files["model.safetensors"] = (tmp_path / "w").read_bytes()
    loaded = EfficientDet.from_pretrained("hf-hub:ann/blood")
    assert (loaded.name, loaded.num_classes, loaded.class_names) == ("lite0", 2, ("0", "1"))


def test_a_repository_without_weights_is_refused(server):
    with pytest.raises(FileNotFoundError, match=r"hf-hub:ann/blood has neither config\.json nor model\.safetensors"):
        EfficientDet.from_pretrained("hf-hub:ann/blood")
    server.files["config.json"] = b"{}"
    with pytest.raises(FileNotFoundError, match=r"hf-hub:ann/blood has no model\.safetensors"):
        EfficientDet.from_pretrained("hf-hub:ann/blood")


def test_a_repository_that_does_not_exist_is_named(server):
    with pytest.raises(FileNotFoundError, match=rf"ann/other cannot be fetched from {server.url}: "):
        EfficientDet.from_pretrained("hf-hub:ann/other")


@pytest.mark.parametrize("offline", [True, False], ids=["told so", "refused"])
def test_offline_the_error_says_what_to_do(offline, monkeypatch, tmp_path, model):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # the discard port: nobody listens
    with pytest.raises(FileNotFoundError, match=r"config\.json of ann/blood is not in the cache .* cannot be rea"):
        EfficientDet.from_pretrained("hf-hub:ann/blood")
    with pytest.raises(ConnectionError, match=r"cannot be reached; save_pretrained\(FOLDER\) writes the same files"):
        model.push_to_hub("ann/blood")


def test_a_missing_file_of_a_known_repository_is_none(server):
    assert hub.fetch_file("ann/blood", "config.json") is None
