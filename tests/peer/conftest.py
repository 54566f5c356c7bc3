"""Run scripts of this folder under interpreters that hold what we compare with.

The PyPI package ``effdet`` 0.4.1 has our import name and TensorFlow wants its own NumPy, so each lives in an
environment of its own: EFFDET_PEER_PYTHON and EFFDET_TENSORFLOW_PYTHON name their interpreters. Without them the tests
are skipped.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent

Arrays = Mapping[str, Any]
Run = Callable[[str, Arrays], dict[str, np.ndarray]]


@pytest.fixture
def run_peer(peer_python: str, tmp_path: Path) -> Run:
    """Send arrays through a script of this folder under the interpreter that has PyPI's effdet."""
    return _runner(peer_python, tmp_path)


@pytest.fixture
def run_tensorflow(tensorflow_python: str, tmp_path: Path) -> Run:
    """Send arrays through a script of this folder under the interpreter that has TensorFlow."""
    return _runner(tensorflow_python, tmp_path)


def _runner(python: str, folder: Path) -> Run:
    def run(script: str, arrays: Arrays) -> dict[str, np.ndarray]:
        np.savez(folder / "in.npz", **arrays)
        command = [python, "-I", str(HERE / script), "in.npz", "out.npz"]  # -I: no package of ours by any path
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(folder / "out.npz") as found:
            return dict(found)

    return run
