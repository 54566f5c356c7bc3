"""The tests that need a GPU: graphs and kernels beside what they replace."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
NO_TESTS_RAN = 5  # pytest.ExitCode.NO_TESTS_COLLECTED


def run(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Run tests/test_cuda.py, which skips without a GPU: that is right on a CPU, and a fault on any other device."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/test_cuda.py"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    last = (result.stdout.strip().splitlines() or [result.stderr])[-1]
    passed = result.returncode == 0 or (args.device == "cpu" and result.returncode == NO_TESTS_RAN)
    return [{"check": "tests/test_cuda.py", "value": last.strip("= "), "ok": passed}]
