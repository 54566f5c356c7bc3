import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.detector.efficientdet import EfficientDet
from effdet.detector.views import Views
from effdet.runs.image_listing import list_sources
from effdet.runs.predict import predict_to_folder
from effdet.runs.shared_prediction import predict_shared

ROOT = Path(__file__).resolve().parents[2]
THRESHOLD = 0.0  # the scores of a random model are low


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return EfficientDet("lite0", num_classes=3, image_size=(64, 64), category_ids=(2, 5, 7)).eval()


@pytest.fixture
def photos(tmp_path):
    """Write 12 images, of which two cannot be read."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(12):
        Image.new("RGB", (40 + number, 30), (number * 20, 100, 50)).save(folder / f"{number:02}.png")
    (folder / "03.png").write_bytes(b"no image")
    (folder / "07.png").write_bytes((folder / "07.png").read_bytes()[:-20])
    return folder


def joined(folder):
    results = json.loads((folder / "results.json").read_text())
    images = json.loads((folder / "images.json").read_text())
    failures = list(csv.reader((folder / "failures.csv").read_text().splitlines()))
    return results, images, failures


def test_processes_together_give_what_one_gives(model, photos, tmp_path):
    options = {"score_threshold": THRESHOLD, "batch_size": 2}
    done = [predict_shared(model, [photos], tmp_path / "two", rank=r, world_size=2, **options) for r in (1, 0)]
    assert [part.num_new for part in done] == [6, 6]
    assert [part.is_complete for part in done] == [False, True]
    predict_shared(model, [photos], tmp_path / "one", **options)
    for name in ("results.json", "images.json", "failures.csv"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()
    results, images, failures = joined(tmp_path / "one")
    assert [row["file_name"] for row in images["images"]] == [
        str(photos / f"{number:02}.png") for number in range(12) if number not in (3, 7)
    ]
    assert images["images"][3] == {"id": 5, "file_name": str(photos / "04.png"), "width": 44, "height": 30}
    assert [category["id"] for category in images["categories"]] == [2, 5, 7]
    assert failures[0] == ["image", "reason"]
    assert [Path(row[0]).name for row in failures[1:]] == ["03.png", "07.png"]
    assert {row["category_id"] for row in results} <= {2, 5, 7}


def test_results_are_those_of_a_plain_prediction(model, photos, tmp_path):
    plain = predict_to_folder(model, [photos], tmp_path / "plain", score_threshold=THRESHOLD, draw=False)
    predict_shared(model, [photos], tmp_path / "shared", score_threshold=THRESHOLD)
    shared = joined(tmp_path / "shared")[0]
    rows = json.loads((tmp_path / "plain" / "results.json").read_text())
    assert plain.num_detections == len(shared) > 0
    assert [{**row, "image_id": 0} for row in rows] == [{**row, "image_id": 0} for row in shared]


def test_views_of_other_than_8_bit_images_are_those_of_a_plain_prediction(tmp_path):
    torch.manual_seed(0)
    model = EfficientDet("lite0", num_classes=3, image_size=(64, 64), value_range=(0, 1000)).eval()
    values = np.random.default_rng(0).integers(0, 1000, (80, 100), dtype=np.uint16)
    (tmp_path / "photos").mkdir()
    Image.fromarray(values).save(tmp_path / "photos" / "a.png")
    options = {"score_threshold": THRESHOLD, "views": Views(tiles=(64, 64))}
    predict_to_folder(model, [tmp_path / "photos"], tmp_path / "plain", draw=False, **options)
    predict_shared(model, [tmp_path / "photos"], tmp_path / "shared", **options)
    rows = json.loads((tmp_path / "plain" / "results.json").read_text())
    assert rows == joined(tmp_path / "shared")[0] != []


def test_a_second_call_does_what_is_left_with_any_number_of_processes(model, photos, tmp_path):
    whole = tmp_path / "whole"
    predict_shared(model, [photos], whole, score_threshold=THRESHOLD)
    predict_shared(model, [photos], tmp_path / "out", rank=0, world_size=3, score_threshold=THRESHOLD)
    file = tmp_path / "out" / "parts" / "00000-of-00003.jsonl"
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join(lines[:2]) + lines[2][:10])  # as after a kill
    done = predict_shared(model, [photos], tmp_path / "out", rank=0, world_size=3, score_threshold=THRESHOLD)
    assert done.num_new == 2
    assert file.read_bytes().count(b"\n") == 4
    last = predict_shared(model, [photos], tmp_path / "out", score_threshold=THRESHOLD)
    assert (last.num_new, last.is_complete) == (8, True)
    assert (whole / "results.json").read_bytes() == (tmp_path / "out" / "results.json").read_bytes()
    assert predict_shared(model, [photos], tmp_path / "out", score_threshold=THRESHOLD).num_new == 0


def test_annotations_give_the_ids(model, photos, tmp_path):
    content = {
        "images": [{"id": 100 + number, "file_name": f"{number:02}.png"} for number in range(11)],
        "categories": [{"id": 9, "name": name} for name in model.class_names[:1]]
        + [{"id": 20 + n, "name": name} for n, name in enumerate(model.class_names[1:])],
    }
    (tmp_path / "list.json").write_text(json.dumps(content))
    predict_shared(model, [photos], tmp_path / "out", score_threshold=THRESHOLD, annotations=tmp_path / "list.json")
    _, images, failures = joined(tmp_path / "out")
    assert [row["id"] for row in images["images"]] == [100 + n for n in range(11) if n not in (3, 7)]
    assert "is not among the images of" in failures[-1][1]


def test_other_images_or_settings_need_another_folder(model, photos, tmp_path):
    predict_shared(model, [photos], tmp_path / "out", score_threshold=THRESHOLD)
    with pytest.raises(ValueError, match="must be continued with the images and settings that it was begun with"):
        predict_shared(model, [photos], tmp_path / "out", score_threshold=0.5)
    (photos / "new.png").write_bytes(b"")
    with pytest.raises(ValueError, match="must be continued with the images and settings that it was begun with"):
        predict_shared(model, [photos], tmp_path / "out", score_threshold=THRESHOLD)
    with pytest.raises(ValueError, match=r"rank must lie in \[0, 2\), got 2"):
        predict_shared(model, [photos], tmp_path / "out", rank=2, world_size=2)


def test_sources_of_all_kinds_are_listed(photos, tmp_path, http_address, monkeypatch):
    (tmp_path / "shards").mkdir()
    with tarfile.open(tmp_path / "shards" / "a.tar", "w") as tar:
        for name in ("00.png", "01.png", "02.png"):
            tar.add(photos / name, name)
    web = f"{http_address}/photos/05.png"
    (tmp_path / "list.txt").write_text(f"{photos / '00.png'}\n\n{tmp_path / 'shards'}\n{web}\n{photos / '00.png'}\n")
    failures = []
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sources = [tmp_path / "list.txt", f"{photos}/1*.png", f"file://{photos}", tmp_path / "gone.jpg"]
    images = list_sources(sources, failures.append)
    names = [image.name.removeprefix(str(tmp_path)) for image in images]
    assert names[:7] == [
        "/photos/00.png",
        *(f"/shards/a.tar/0{n}.png" for n in range(3)),
        web,
        "/photos/10.png",
        "/photos/11.png",
    ]
    assert len(names) == 7 + 12
    assert [len(failures), "gone.jpg" in failures[0]] == [1, True]
    assert all(image.source() is not None for image in images)


@pytest.fixture
def http_address(tmp_path):
    import functools
    import http.server
    import threading

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Handler, directory=str(tmp_path))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def start(arguments, tmp_path, photos, launcher=()):
    """Start the command in a session of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [str(ROOT / "tools" / "predict.py"), "--weights", str(tmp_path / "w.safetensors"), str(photos)]
    options = ["--score-threshold", str(THRESHOLD), "--out", str(tmp_path / "out"), "--device", "cpu", *arguments]
    return subprocess.Popen(
        [sys.executable, *launcher, *script, *options],
        env=environment,
        start_new_session=True,
        stdout=subprocess.PIPE,
        text=True,
    )


def count_lines(tmp_path):
    return sum(file.read_bytes().count(b"\n") for file in (tmp_path / "out" / "parts").glob("*.jsonl"))


def wait_for_lines(process, count, tmp_path):
    deadline = time.monotonic() + 300
    while count_lines(tmp_path) < count:
        assert time.monotonic() < deadline, "no results came"
        assert process.poll() is None
        time.sleep(0.01)


def test_a_killed_process_goes_on(model, photos, tmp_path):
    for number in range(12, 200):
        shutil.copy(photos / "00.png", photos / f"{number:02}.png")
    model.save_pretrained(tmp_path / "w.safetensors")
    started = start(["--resume"], tmp_path, photos)
    wait_for_lines(started, 5, tmp_path)
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    done = count_lines(tmp_path)
    assert done < 200
    assert not (tmp_path / "out" / "results.json").exists()
    left = predict_shared(model, [str(photos)], tmp_path / "out", score_threshold=THRESHOLD)
    assert (left.num_new, left.is_complete) == (200 - done, True)
    assert len(joined(tmp_path / "out")[1]["images"]) == 198


@pytest.mark.sweep
def test_a_killed_prediction_under_torchrun_goes_on(model, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(300):
        Image.new("RGB", (40, 30), (number % 250, 100, 50)).save(photos / f"{number:03}.png")
    (photos / "005.png").write_bytes(b"no image")
    model.save_pretrained(tmp_path / "w.safetensors")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    started = start([], tmp_path, photos, torchrun)
    wait_for_lines(started, 20, tmp_path)
    os.killpg(started.pid, signal.SIGKILL)
    for line in subprocess.run(["pgrep", "-f", str(tmp_path / "out")], capture_output=True, text=True).stdout.split():
        os.kill(int(line), signal.SIGKILL)  # torchrun starts its processes in groups of their own
    started.communicate()
    done = count_lines(tmp_path)
    assert done < 300
    assert not (tmp_path / "out" / "results.json").exists()
    again = start([], tmp_path, photos, torchrun)
    printed, _ = again.communicate(timeout=600)
    assert again.returncode == 0
    assert f"{done:,} are done" in printed
    results, images, failures = joined(tmp_path / "out")
    assert len(images["images"]) == 299
    assert [Path(row[0]).name for row in failures[1:]] == ["005.png"]
    shutil.rmtree(tmp_path / "out")
    predict_shared(model, [photos], tmp_path / "out", score_threshold=THRESHOLD)
    assert sorted(map(json.dumps, results)) == sorted(map(json.dumps, joined(tmp_path / "out")[0]))
