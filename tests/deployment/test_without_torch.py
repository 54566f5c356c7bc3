"""A loaded export predicts in a process in which PyTorch cannot be imported."""

import json
import subprocess
import sys

import pytest

import effdet
from effdet.deployment.export import ExportOptions, export

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")

PREDICT = """
import json, sys
for module in ("torch", "torchvision", "timm"):
    sys.modules[module] = None  # importing it is an error
import effdet
weights, runtime, photo, options = sys.argv[1:]
[found] = effdet.load(weights, runtime=runtime).predict(photo, score_threshold=0.0, **json.loads(options))
boxes, labels, scores = found.numpy()
print(json.dumps([boxes.tolist(), labels.tolist(), scores.tolist(), found.to_coco(5)]))
"""


@pytest.mark.parametrize(
    ("file_name", "runtime", "options"),
    [
        ("m.onnx", "onnxruntime", {}),
        ("m.onnx", "openvino", {}),
        ("m.onnx", "onnxruntime", {"tiles": 60, "flip": True}),
        ("inside.onnx", "onnxruntime", {}),
    ],
)
def test_prediction_needs_no_torch(files, demo_root, file_name, runtime, options):
    photo = str(sorted((demo_root / "images").glob("val_*.jpg"))[0])
    [expected] = effdet.load(files / file_name, runtime=runtime).predict(photo, score_threshold=0.0, **options)
    command = [sys.executable, "-c", PREDICT, str(files / file_name), runtime, photo]
    done = subprocess.run([*command, json.dumps(options)], capture_output=True, text=True, check=True)
    boxes, labels, scores, rows = json.loads(done.stdout)
    assert boxes == expected.boxes.tolist()
    assert labels == expected.labels.tolist()
    assert scores == expected.scores.tolist()
    assert rows == expected.to_coco(5)
    assert len(rows) > 0


@pytest.fixture(scope="module")
def files(trained, tmp_path_factory):
    """A folder with a small network as an ONNX file, and as one with NMS inside."""
    folder, model = tmp_path_factory.mktemp("exports"), trained("small")
    export(model, folder / "m.onnx", ExportOptions())
    export(model, folder / "inside.onnx", ExportOptions(postprocess=True))
    return folder
