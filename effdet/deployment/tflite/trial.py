"""Try a ``.tflite`` file of unknown origin in a process of its own, which a damaged file may end."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TIMEOUT = 120  # seconds

_PROGRAM = """\
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
try:
    interpreter = Interpreter(model_path=sys.argv[1], num_threads=1)
    interpreter.allocate_tensors()
    for tensor in interpreter.get_input_details():
        interpreter.set_tensor(tensor["index"], np.zeros(tensor["shape"], tensor["dtype"]))
    interpreter.invoke()
except Exception as error:
    lines = str(error).strip().splitlines()
    sys.exit("refused: " + (lines[0] if lines else type(error).__name__))
"""


def check_runs(file: Path) -> None:
    """Run a file once, on zeros.

    LiteRT reads offsets in a file as they are, so a file made or damaged in the right place ends the process that opens
    it. A file of this package proves by its checksum that it is whole; any other is run here first.

    Raises:
        ValueError: If it cannot be run; the message has LiteRT's own words.
    """
    command = [sys.executable, "-c", _PROGRAM, str(file)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"LiteRT did not run it within {TIMEOUT} seconds") from error
    if done.returncode == 0:
        return
    lines = [line for line in done.stderr.decode(errors="replace").splitlines() if line.startswith("refused: ")]
    raise ValueError(lines[-1].removeprefix("refused: ") if lines else "it ends the process that runs it")
