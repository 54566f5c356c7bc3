"""The script of ``make gpu-check``, tried on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_gpu_check_runs_on_a_cpu_and_goes_on_where_it_stopped(tmp_path):
    command = [sys.executable, "tools/gpu_check", "--device", "cpu", "--quick", "--json", str(tmp_path / "gpu.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    parts = ["--parts", "machine", "equality", "exports"]
    first = subprocess.run([*command, *parts], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert first.returncode == 0, first.stdout + first.stderr
    results = json.loads((tmp_path / "gpu.json").read_text())
    assert all(row.get("ok") is not False for part in results["finished"] for row in results[part])
    again = subprocess.run([*command, *parts], cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert again.stdout.count("done before") == 3
