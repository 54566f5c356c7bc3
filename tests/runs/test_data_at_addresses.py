"""The same config trains, evaluates and is checked on a folder, and on shards at an address."""

import pytest

from effdet.config import load_config
from effdet.data.conversion import convert
from effdet.runs.check_data import check_data
from effdet.runs.evaluate import evaluate
from effdet.runs.train import train

CONFIG = """
model: {{name: lite0}}
data: {{root: "{root}", image_size: [64, 64], workers: 0, max_train_images: 4, max_val_images: 2}}
train: {{epochs: 1, batch_size: 4, optimizer: adamw, lr: 0.004}}
eval: {{every: 1}}
run: {{dir: "{runs}", name: tiny, device: cpu, threads: 1, report: false}}
"""


@pytest.fixture
def places(photo_sets, tmp_path, monkeypatch):
    """Return a folder with photos, and an address with the same photos in shards."""
    fsspec = pytest.importorskip("fsspec")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    convert(photo_sets / "bccd", tmp_path / "shards", to="shards")
    fsspec.filesystem("memory").put(str(tmp_path / "shards"), "/bccd_shards", recursive=True)
    return photo_sets / "bccd", "memory://bccd_shards"


@pytest.mark.slow
def test_training_evaluation_and_doctor_give_the_same(places, tmp_path):
    def results(root):
        config = tmp_path / "tiny.yaml"
        config.write_text(CONFIG.format(root=root, runs=tmp_path / "runs"))
        run = train(load_config(config))
        found = check_data(root, config, quick=True, estimate=False)
        texts = [finding.text for finding in found.findings if "that the" not in finding.text]
        row = {key: value for key, value in run.history[-1].items() if "seconds" not in key and "per_second" not in key}
        return row, evaluate(run.best, root, split="val").ap, found.has_errors, len(texts)

    plain, address = places
    assert results(address) == results(plain)
