import hashlib
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from effdet import download as transfer
from effdet.models.architecture import Architecture
from effdet.weights.published_files import (
    PUBLISHED,
    cache_path,
    find_by_file_name,
    find_published,
    list_published,
    local_file,
)

ROOT = Path(__file__).resolve().parents[2]
DATA = bytes(range(256)) * 400
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(transfer, "_PAUSES", (0.05,) * 5)


@pytest.fixture
def published(file_server):
    """A published file on a server of our own, whose name ends in the first digits of its hash."""
    name = f"detector-{DIGEST[:8]}.pth"
    file_server.files[f"/{name}"] = DATA
    return replace(find_published("d0"), url=f"{file_server.url}/{name}", file_name=name)


# -- the table


@pytest.mark.parametrize(
    ("name", "file_name"),
    [
        ("d0", "tf_efficientdet_d0_34-f153e0cf.pth"),
        ("D0", "tf_efficientdet_d0_34-f153e0cf.pth"),
        ("tf_efficientdet_d0", "tf_efficientdet_d0_34-f153e0cf.pth"),
        ("efficientdet_d0", "efficientdet_d0-f3276ba8.pth"),
        ("efficientdet-d0", "efficientdet-d0.pth"),
        ("efficientdet-d8", "efficientdet-d8.pth"),
        ("d7x", "tf_efficientdet_d7x-f390b87c.pth"),
        ("lite3x", "tf_efficientdet_lite3x-8404c57b.pth"),
        ("efficientdet-lite0", "tf_efficientdet_lite0-dfacfc78.pth"),
        ("efficientdet_q1", "efficientdet_q1b-d0612140.pth"),
        ("d3_ap", "tf_efficientdet_d3_ap-e4a2feab.pth"),
        ("google/coco2/efficientdet-d0", "google-coco2-efficientdet-d0.tar.gz"),
        ("google/advprop/efficientdet-d5", "google-advprop-efficientdet-d5.tar.gz"),
        ("google/coco/efficientdet-lite4", "google-coco-efficientdet-lite4.tgz"),
    ],
)
def test_a_name_means_one_file(name, file_name):
    assert find_published(name).file_name == file_name


def test_a_model_without_published_weights_has_no_file():
    assert find_published("efficientdet_d2") is None
    assert find_published("mixdet_m") is None


def test_every_project_has_all_of_its_files_in_the_table():
    counts = {family: sum(file.family == family for file in PUBLISHED) for family in ("effdet", "zylo", "google")}
    assert counts == {"effdet": 32, "zylo": 9, "google": 25}
    assert len(set(list_published())) == len({file.file_name for file in PUBLISHED}) == len(PUBLISHED)


def test_effdet_files_tell_their_hash_and_the_others_do_not():
    assert all(len(file.sha256) == 8 for file in PUBLISHED if file.family == "effdet")
    assert not any(file.sha256 for file in PUBLISHED if file.family != "effdet")


def test_names_and_aliases_lead_to_one_file_each():
    names = [name for file in PUBLISHED for name in (file.name, *file.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("name", list_published())
def test_every_published_file_has_a_variant(name):
    assert Architecture.named(find_published(name).variant)


def test_a_file_is_found_by_what_its_publisher_calls_it():
    assert find_by_file_name("efficientdet_q1b-d0612140.pth").name == "efficientdet_q1"
    assert find_by_file_name("other.pth") is None


@pytest.mark.parametrize("name", list_published())
def test_the_page_of_checkpoints_has_a_row_for_every_file(name):
    file = find_published(name)
    names = ", ".join(f"`{name}`" for name in (file.name, *file.aliases))
    table = (ROOT / "docs" / "reference" / "checkpoints.md").read_text()
    [row] = [line for line in table.splitlines() if f"| {names} |" in line]
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert file.url.endswith(cells[1].strip("`"))
    assert float(cells[-1]) == file.ap


# -- downloading


def test_a_file_is_downloaded_once_and_keeps_its_name(published, file_server):
    path = local_file(published)
    assert path == Path(torch.hub.get_dir()) / "checkpoints" / published.file_name
    assert path.read_bytes() == DATA
    requests = len(file_server.requests)
    assert local_file(published) == path
    assert len(file_server.requests) == requests


def test_a_damaged_file_in_the_cache_is_replaced(published, caplog):
    path = cache_path(published)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA[:1000])
    assert local_file(published).read_bytes() == DATA
    assert "is damaged: its SHA-256 does not start with" in caplog.text


def test_another_file_under_that_name_is_refused_and_removed(published, file_server):
    file_server.files["/" + published.file_name] = b"<html>Moved</html>"
    with pytest.raises(ValueError, match=rf"must have a SHA-256 that starts with {DIGEST[:8]}, but what came has"):
        local_file(published)
    assert not list(cache_path(published).parent.glob("*.p*[!k]"))


def test_a_file_without_a_known_hash_is_taken_whole(published, file_server, caplog):
    caplog.set_level("INFO")
    file_server.files["/detector.pth"] = DATA
    file_server.cut_after = [50_000]
    path = local_file(replace(published, url=f"{file_server.url}/detector.pth", file_name="detector.pth"))
    assert path.read_bytes() == DATA
    assert f"its SHA-256 is {DIGEST}" in caplog.text


def test_offline_the_error_comes_at_once_and_says_what_to_put_where(published):
    offline = replace(published, url="http://127.0.0.1:9/detector.pth")  # the discard port: nobody listens
    with pytest.raises(FileNotFoundError) as caught:
        local_file(offline)
    for part in (str(cache_path(published)), "download http://127.0.0.1:9/detector.pth elsewhere", "put it there"):
        assert part in str(caught.value)
    assert not cache_path(published).parent.exists()


def test_a_file_in_the_cache_needs_no_server(published):
    path = cache_path(published)
    path.parent.mkdir(parents=True)
    path.write_bytes(DATA)
    assert local_file(replace(published, url="http://127.0.0.1:9/detector.pth")) == path


def test_a_killed_download_leaves_nothing_under_the_name_and_goes_on(published, file_server):
    file_server.pause = 0.02
    script = f"""
from effdet import download
download.CHUNK = 4096
from effdet.weights.published_files import PublishedFile, local_file
local_file({published!r})
"""
    process = subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, env=dict(os.environ))
    path = cache_path(published)
    part = path.with_name(path.name + ".part")
    while not (part.exists() and part.stat().st_size > 20_000):
        assert process.poll() is None, "finished before it could be killed"
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not path.exists()

    file_server.pause, kept = 0.0, part.stat().st_size
    assert local_file(published).read_bytes() == DATA
    assert file_server.requests[-1][1] == f"bytes={kept}-"
    assert not part.exists()


def test_two_at_a_time_download_once(published, file_server):
    file_server.pause = 0.005
    with ThreadPoolExecutor(2) as pool:
        paths = list(pool.map(local_file, [published, published]))
    assert paths[0] == paths[1]
    assert paths[0].read_bytes() == DATA
    assert [path for path, _ in file_server.requests] == ["/" + published.file_name]
