"""What a run does about its data, its folder and its checkpoint before it goes on; real runs of seconds."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from effdet import EfficientDet, load_config, train
from effdet.runs.lock import RunInUseError, lock_run
from effdet.training.checkpoint import load_checkpoint, save_checkpoint

pytestmark = pytest.mark.slow

TRAIN = str(Path(__file__).resolve().parents[2] / "tools" / "train.py")

CONFIG = """
model: {{name: lite0}}
data: {{root: {root}, image_size: [64, 96], workers: 0}}
train: {{epochs: 1, batch_size: 8, lr: 0.01}}
eval: {{every: 1}}
run: {{dir: {runs}, name: tiny, device: cpu, threads: 1, report: false}}
"""


def config_for(folder, root, *overrides):
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(root=root, runs=folder / "runs"))
    return load_config(path, list(overrides))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, demo_root):
    """Folder with a run of one epoch and its data; copy it to change it."""
    folder = tmp_path_factory.mktemp("finished")
    shutil.copytree(demo_root, folder / "data")
    train(config_for(folder, folder / "data"))
    return folder


@pytest.fixture
def place(finished, tmp_path):
    """A copy of ``finished``."""
    shutil.copytree(finished, tmp_path / "copy")
    return tmp_path / "copy"


def resume(place, *overrides):
    overrides = overrides or ("train.epochs=2",)
    return train(config_for(place, place / "data", *overrides), resume=place / "runs" / "tiny")


def change_annotations(file, change):
    content = json.loads(file.read_text())
    change(content)
    file.write_text(json.dumps(content))


def permute_classes(content):
    names = [category["name"] for category in content["categories"]]
    for category, name in zip(content["categories"], names[1:] + names[:1], strict=True):
        category["name"] = name


def move_boxes(content):
    for annotation in content["annotations"]:
        annotation["bbox"][2] /= 2


@pytest.mark.parametrize(
    ("split", "change", "words"),
    [
        ("train", permute_classes, "classes of the train split"),
        ("train", move_boxes, "boxes of the train split changed"),
        ("val", move_boxes, "boxes of the val split changed"),
    ],
)
def test_a_run_does_not_go_on_with_other_annotations(place, split, change, words):
    change_annotations(place / "data" / f"{split}.json", change)
    with pytest.raises(ValueError, match=f"a resumed run must keep its data, but .*{words}"):
        resume(place)


def test_a_run_does_not_go_on_with_other_photos_of_the_same_names(place):
    for photo in (place / "data").rglob("*.jpg"):
        photo.write_bytes(photo.read_bytes() + b"\0")
    with pytest.raises(ValueError, match="but images of the train split and images of the val split changed"):
        resume(place)


def test_data_may_move_to_another_folder(place):
    (place / "data").rename(place / "moved")
    result = train(config_for(place, place / "moved", "train.epochs=2"), resume=place / "runs" / "tiny")
    assert [row["epoch"] for row in result.history] == [1, 2]


def test_a_run_of_an_earlier_version_goes_on_with_a_warning(place, caplog):
    checkpoint = place / "runs" / "tiny" / "last.ckpt"
    state = load_checkpoint(checkpoint)
    del state["data"]["fingerprints"], state["description"]
    save_checkpoint(checkpoint, state)
    assert [row["epoch"] for row in resume(place).history] == [1, 2]
    assert "without a fingerprint of the data" in caplog.text


def test_two_processes_do_not_train_in_one_folder(place):
    before = (place / "runs" / "tiny" / "last.ckpt").read_bytes()
    with lock_run(place / "runs" / "tiny"), pytest.raises(RunInUseError, match="used by one process at a time"):
        resume(place)
    assert (place / "runs" / "tiny" / "last.ckpt").read_bytes() == before


def test_what_a_kill_left_is_removed(place):
    left = place / "runs" / "tiny" / ".best.safetensors.0123abcd.tmp"
    left.touch()
    resume(place)
    assert not left.exists()


def test_the_checkpoint_is_the_same_kind_of_model_as_the_best(finished):
    best, last = (
        EfficientDet.from_pretrained(finished / "runs/tiny" / name) for name in ("best.safetensors", "last.ckpt")
    )
    assert last.description() == best.description()
    assert last.image_size == (64, 96)


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
def test_a_full_disk_is_one_sentence_and_leaves_the_checkpoint(place):
    run = place / "runs" / "tiny"
    before = (run / "last.ckpt").read_bytes()
    config_for(place, place / "data")
    result = subprocess.run(
        [sys.executable, TRAIN, str(place / "tiny.yaml"), "--resume", str(run), "train.epochs=2"],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)),
    )
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    assert f"leaves no space to write {run}/last.ckpt; make space and try again" in result.stderr
    assert (run / "last.ckpt").read_bytes() == before
    assert not list(run.glob(".*.tmp"))
