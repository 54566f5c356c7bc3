"""The examples print what the model detects."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from effdet import EfficientDet, load
from effdet.deployment.export import ExportOptions, export
from effdet.deployment.mediapipe import as_mediapipe
from effdet.images.preprocessing import Preprocessing

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(scope="module")
def photos(photo_sets):
    return sorted((photo_sets / "bccd" / "images").iterdir())[:2]  # 640×480


def write_model(folder: Path, **options) -> Path:
    torch.manual_seed(0)
    model = EfficientDet("lite0", 2, image_size=(96, 128), class_names=["eins", "二"], **options).eval()
    export(model, folder / "model.tflite", ExportOptions(format="tflite", score_threshold=0.001))
    return folder / "model.tflite"


def printed(command: list[str]) -> list[tuple[str, float, list[float]]]:
    done = subprocess.run(command, capture_output=True, check=True, encoding="utf-8", env={"PYTHONUTF8": "1"})
    rows = [line.split("\t") for line in done.stdout.splitlines()]
    return [(name, float(score), [float(edge) for edge in edges]) for _, name, score, *edges in rows]


@pytest.mark.parametrize("fit", ["letterbox", "stretch"])
def test_litert_alone_detects_what_effdet_detects(fit, photos, tmp_path):
    pytest.importorskip("ai_edge_litert")
    file = write_model(tmp_path, preprocessing=Preprocessing(fit=fit))
    script = str(EXAMPLES / "raspberry_pi" / "detect.py")
    found = printed([sys.executable, script, str(file), *map(str, photos), "--score-threshold", "0"])
    expected = [one for every in load(file).predict(photos, score_threshold=0.0) for one in every]
    assert len(found) == len(expected) > 100
    # Pillow resizes with antialias, so scores move a little.
    for column in (lambda one: one.score,):
        ours = np.sort([column(one) for one in expected])
        np.testing.assert_allclose(np.sort([score for _, score, _ in found]), ours, atol=0.01)
    assert max(edges[2] for _, _, edges in found) > 600


def test_the_litert_example_needs_neither_torch_nor_effdet():
    for line in (EXAMPLES / "raspberry_pi" / "detect.py").read_text().splitlines():
        if line.startswith(("import ", "from ")):
            assert line.split()[1].split(".")[0] in {"argparse", "json", "zipfile", "numpy", "ai_edge_litert", "PIL"}


def test_the_mediapipe_example_detects_what_is_emulated(mediapipe_python, photos, tmp_path):
    pytest.importorskip("ai_edge_litert")
    file = write_model(tmp_path)
    script = str(EXAMPLES / "mediapipe_python" / "detect.py")
    found = printed([mediapipe_python, script, str(file), str(photos[0]), "--score-threshold", "0.001"])
    expected = as_mediapipe(load(file)).predict(photos[0], score_threshold=0.001)[0]
    assert len(found) == len(expected) > 50
