from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture
def write_tiny_config(tmp_path: Path, demo_root: Path) -> Callable[[str], Path]:
    """Write the config of a run on small demo images, with this ``train`` section; return its file."""

    def write(train: str) -> Path:
        path = tmp_path / "tiny.yaml"
        path.write_text(
            f"model: {{name: lite0}}\n"
            f"data: {{root: {demo_root}, image_size: [64, 64], workers: 0}}\n"
            f"train: {{{train}}}\n"
            f"run: {{dir: {tmp_path / 'runs'}, device: cpu, threads: 1, report: false}}\n"
        )
        return path

    return write
