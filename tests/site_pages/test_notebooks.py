"""The notebooks run, on the photos of tests/photos, and hold no outputs."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))

NEEDS = {"from_photos_to_a_phone": ("onnxscript", "ai_edge_litert", "flatbuffers")}


@pytest.mark.slow
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run(file, monkeypatch):
    for module in ("nbclient", "nbformat", "ipykernel", *NEEDS.get(file.stem, ())):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"needs {module}, of the extras docs and edge")
    monkeypatch.setenv("PYTHONWARNINGS", "ignore")  # of Jupyter's own packages
    code = (
        "import sys, nbclient, nbformat\n"
        "notebook = nbformat.read(sys.argv[1], as_version=4)\n"
        "nbclient.NotebookClient(notebook, timeout=300, resources={'metadata': {'path': sys.argv[2]}}).execute()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(file), str(file.parent)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_hold_no_outputs(file):
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
