"""Int8 in a process of its own, as NNCF makes OpenVINO cores of its own: see ``openvino_core``."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

MISSING = [name for name in ("nncf", "openvino", "onnxscript") if importlib.util.find_spec(name) is None]


@pytest.mark.slow
@pytest.mark.skipif(bool(MISSING), reason=f"could not import {', '.join(MISSING)}")
def test_int8_checks_pass():
    file = Path(__file__).with_name("int8_checks.py")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(file)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
