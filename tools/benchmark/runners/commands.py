"""New processes from start to end, to measure how long a user waits for a command."""

from __future__ import annotations

import os
import subprocess


class Command:
    """Runs one command and waits for its end.

    Args:
        argv: The command.
        isolated: Leave this project out of the search path of modules.
    """

    def __init__(self, *, argv: list[str], isolated: bool) -> None:
        self.argv = argv
        self.environment = {**os.environ}
        if isolated:
            self.environment.pop("PYTHONPATH", None)

    def step(self) -> None:
        """Run it once.

        Raises:
            RuntimeError: If it fails; the message is the end of its stderr.
        """
        done = subprocess.run(self.argv, env=self.environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(self.argv[:3])} …: {done.stderr.strip()[-300:]}")

    def result(self) -> None:
        """Return nothing."""


TASKS = {"command": Command}
