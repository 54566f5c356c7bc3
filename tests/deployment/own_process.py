import subprocess
import sys
from pathlib import Path


def check_in_own_process(name: str) -> None:
    """Run a file of tests beside this one in a pytest of its own; its output is the message where one fails."""
    file = Path(__file__).with_name(name)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", str(file)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
