"""The commands of the first pages run one after the other, as a newcomer gives them; trainings are made short."""

import re
import shlex
import shutil
from pathlib import Path

import pytest

from effdet.commands import main

ROOT = Path(__file__).resolve().parents[2]
SHORT = [
    *("train.epochs=1", "data.max_train_images=4", "data.max_val_images=2", "data.workers=0", "run.report=false"),
    *("data.long_side=null", "data.max_long_side=null", "data.image_size=[64,96]", "model.backbone_weights=null"),
]


def commands(page):
    """Return the words of every call of effdet in the bash blocks of a page."""
    blocks = re.findall(r"^```bash\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    lines = [shlex.split(line, comments=True) for block in blocks for line in block.replace("\\\n", "").splitlines()]
    return [words[1:] for words in lines if words and words[0] == "effdet"]


@pytest.mark.sweep
@pytest.mark.parametrize("page", ["start/first_data_set.md", "migration/tflite_model_maker.md"])
def test_the_commands_of_a_page_run_one_after_the_other(page, tmp_path, monkeypatch):
    photos = ROOT / "tests" / "photos" / "bccd"
    shutil.copytree(photos / "images", tmp_path / "data" / "custom" / "images")
    for part in ("train",) if page.startswith("start/") else ("train", "val"):  # the page divides the set itself
        shutil.copy(photos / f"{part}.json", tmp_path / "data" / "custom")
    shutil.copytree(photos / "images", tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    calls = commands(ROOT / "docs" / page)
    assert len(calls) >= 4
    for words in calls:
        if words[0] == "train":
            words = [word for word in words if word != "train.epochs=50"] + SHORT
        if "--calibration" in words:  # needs 100 photos
            words = [word for word in words if word not in ("--precision", "int8", "--calibration", "data/custom")]
        assert main(words) == 0, shlex.join(words)
