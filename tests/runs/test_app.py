"""Tests of effdet/runs/app.py: its functions, and the page that gradio really serves."""

import builtins
import gc
import io
import json
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.commands import main
from effdet.detector.efficientdet import EfficientDet
from effdet.runs.app import WEAKEST, build_app, detect, heading, show, start_app
from tests.report.browser import browser

pytestmark = pytest.mark.filterwarnings("ignore")  # of gradio


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = EfficientDet("lite0", 2, image_size=64, class_names=["cat", "dog"])
    with torch.no_grad():
        model.network.class_head.output_conv.bias.zero_()
        model.network.class_head.output_conv.weight.mul_(30)
    return model.eval()


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photos") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def served(model):
    pytest.importorskip("gradio", reason="needs the extra app")
    page = start_app(model, port=0, max_megabytes=1, wait=False)
    yield page
    page.close()
    gc.collect()  # event loops that gradio leaves open would warn in another test


def test_the_threshold_decides_what_is_shown(model, photo):
    pytest.importorskip("gradio", reason="needs the extra app")
    found = detect(model, str(photo))
    assert found.scores.min() >= WEAKEST
    threshold = float(found.scores.median())
    drawn, rows, button = show(str(photo), found, threshold)
    kept = found.above(threshold)
    assert drawn.shape == (60, 80, 3)
    assert [row[0] for row in rows] == [kept.class_name(label) for label in kept.labels.tolist()]
    assert 0 < len(rows) < len(found)
    file = button.value["path"] if isinstance(button.value, dict) else button.value
    content = json.loads(Path(file).read_text(encoding="utf-8"))
    assert content["scores"] == pytest.approx(kept.scores.tolist())
    assert detect(model, None) is None
    assert show(None, None, 0.5)[:2] == (None, [])


def test_the_heading_names_classes_as_text():
    assert heading("lite0", ["cat", "<b>"]) == "<h2>lite0 detector</h2><p>It finds: cat, &lt;b&gt;</p>"
    assert heading("d0", ["cat"] * 90).endswith("cat, cat and 70 more</p>")


@pytest.mark.slow
def test_the_page_is_for_this_machine_and_refuses_large_files(served):
    assert served.local_url.startswith("http://127.0.0.1:")
    assert served.analytics_enabled is False

    def send(count):
        body = (
            b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
            + bytes(count)
            + b"\r\n--x--\r\n"
        )
        kind = {"Content-Type": "multipart/form-data; boundary=x"}
        request = urllib.request.Request(f"{served.local_url}gradio_api/upload", body, kind)
        with urllib.request.urlopen(request) as answer:
            return answer.status

    assert send(1000) == 200
    with pytest.raises(urllib.error.HTTPError, match="413"):
        send(3_000_000)


@pytest.mark.slow
def test_a_visitor_sends_a_photo_and_downloads_what_is_found(served, model, photo):
    expected = detect(model, str(photo)).above(0.3)
    with browser() as chromium:
        page, asked, errors = chromium.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(served.local_url)
        page.wait_for_selector("input[type=file]", state="attached", timeout=60_000)
        page.set_input_files("input[type=file]", str(photo))
        page.wait_for_selector("button:has-text('download JSON'):not([disabled])", timeout=60_000)
        with page.expect_download() as download:
            page.click("button:has-text('download JSON')")
        content = json.loads(Path(download.value.path()).read_text(encoding="utf-8"))
    assert content["labels"] == expected.labels.tolist()
    assert errors == []
    assert [url for url in asked if not url.startswith((served.local_url, "data:", "blob:"))] == []


@pytest.mark.slow
def test_the_camera_takes_a_picture_that_is_not_mirrored(served, photo_sets, tmp_path):
    real = photo_sets / "bccd" / "images" / "BloodImage_00000.jpg"
    film = tmp_path / "camera.mjpeg"
    film.write_bytes(3 * real.read_bytes())
    camera = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
    with browser(*camera, f"--use-file-for-fake-video-capture={film}") as chromium:
        page = chromium.new_page()
        page.goto(served.local_url)
        page.click("button[aria-label='Capture from camera']", timeout=60_000)
        page.click("text=Click to Access Webcam", timeout=60_000)
        page.click("button[aria-label='capture photo']", timeout=60_000)
        page.wait_for_selector("button:has-text('download JSON'):not([disabled])", timeout=60_000)
        address = page.get_attribute("[data-testid='detailed-image'], .image-frame img", "src")
        taken = Image.open(io.BytesIO(page.request.get(address).body())).convert("RGB").resize((64, 48))
    seen, expected = np.asarray(taken, float), np.asarray(Image.open(real).resize((64, 48)), float)
    assert 2 * abs(seen - expected).mean() < abs(seen - expected[:, ::-1]).mean()


def test_a_missing_gradio_names_the_extra(model, monkeypatch):
    plain = builtins.__import__

    def without(name, *rest):
        if name == "gradio":
            raise ImportError(name)
        return plain(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"the app needs gradio: pip install .*\[app\]"):
        build_app(model)


def test_numbers_that_cannot_be_are_refused(model, capsys):
    with pytest.raises(ValueError, match="port must be a number from 0 to 65535, got 70000"):
        start_app(model, port=70000)
    with pytest.raises(ValueError, match="max_megabytes must be 1 or more, got 0"):
        start_app(model, max_megabytes=0)
    for option, sentence in (
        ("--port=-1", "--port must be a number from 0 to 65535, got -1"),
        ("--max-megabytes=0", "--max-megabytes must be 1 or more, got 0"),
    ):
        assert main(["app", "--weights", "w", option]) == 2
        assert sentence in capsys.readouterr().err
