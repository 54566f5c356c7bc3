"""Run scripts of this folder under interpreters that hold what we compare with.

The PyPI package ``effdet`` 0.4.1 has our import name and TensorFlow wants its own NumPy, so each lives in an
environment of its own: EFFDET_PEER_PYTHON and EFFDET_TENSORFLOW_PYTHON name their interpreters. Without them the tests
are skipped.
"""

from __future__ import annotations

import os
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
def ask_tensorflow(tmp_path: Path) -> Run:
    """Return TensorFlow's answer to a question; the question's name is that of a file in ``tensorflow_answers``.

    With EFFDET_TENSORFLOW_PYTHON set, TensorFlow answers again: the answer must be the recorded one, or is recorded if
    there is none.
    """

    def ask(name: str, arrays: Arrays) -> dict[str, np.ndarray]:
        file = HERE / "tensorflow_answers" / f"{name}.npz"
        if python := os.environ.get("EFFDET_TENSORFLOW_PYTHON"):
            answer = _runner(python, tmp_path)("make_tensorflow.py", arrays)
            if not file.exists():
                np.savez_compressed(file, **answer)
            with np.load(file) as recorded:
                assert answer.keys() == set(recorded)
                assert all(np.array_equal(answer[key], recorded[key]) for key in answer), f"delete {file} to renew it"
        with np.load(file) as recorded:
            return dict(recorded)

    return ask


def _runner(python: str, folder: Path) -> Run:
    def run(script: str, arrays: Arrays) -> dict[str, np.ndarray]:
        np.savez(folder / "in.npz", **arrays)
        command = [python, "-I", str(HERE / script), "in.npz", "out.npz"]  # -I: no package of ours by any path
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(folder / "out.npz") as found:
            return dict(found)

    return run
