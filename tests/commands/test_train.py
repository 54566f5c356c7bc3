import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from effdet.commands import main
from effdet.commands.train import parser
from effdet.config import Config, ConfigError, RunConfig, TrainConfig, load_config
from effdet.runs.lock import lock_run
from effdet.training.checkpoint import load_checkpoint

TRAIN = str(Path(__file__).resolve().parents[2] / "tools" / "train.py")

CONFIG = """
model: {{name: lite0}}
data: {{root: {root}, image_size: [64, 64], workers: 0, augment: {{color: 0.5, mosaic: 0.5, scale: [0.5, 1.5]}}}}
train: {{epochs: 2, batch_size: 4, optimizer: adamw, lr: 0.004, checkpoint_minutes: 0.0001}}
eval: {{every: 1}}
run: {{dir: {runs}, name: tiny, device: cpu, threads: 1, report: false}}
"""


@pytest.fixture
def config(tmp_path, demo_root):
    return write_config(tmp_path, demo_root)


def write_config(folder, root):
    path = folder / "tiny.yaml"
    path.write_text(CONFIG.format(root=root, runs=folder / "runs"))
    return path


def train(*arguments):
    return main(["train", *map(str, arguments)])


def rows_of(run):
    with (run / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        del row["images_per_second"]
    return rows


def assert_same_run(a, b):
    """Every tensor and every number of two runs is the same, bit for bit."""
    first, second = (load_checkpoint(run / "last.ckpt") for run in (a, b))
    for part in ("model", "ema"):
        tensors = [state[part]["model"] if part == "ema" else state[part] for state in (first, second)]
        assert tensors[0].keys() == tensors[1].keys()
        for name, tensor in tensors[0].items():
            assert torch.equal(tensor, tensors[1][name]), name
    assert first["ema"]["count"] == second["ema"]["count"]
    for index, moments in first["optimizer"]["state"].items():
        for name, tensor in moments.items():
            assert torch.equal(tensor, second["optimizer"]["state"][index][name])
    assert rows_of(a) == rows_of(b)
    best = [load_file(run / "best.safetensors") for run in (a, b)]
    assert all(torch.equal(tensor, best[1][name]) for name, tensor in best[0].items())


# ---------------------------------------------------------------------- the command line


@pytest.mark.parametrize(
    ("words", "overrides", "resume"),
    [
        (["c.yaml"], [], None),
        (["c.yaml", "a.b=1", "c.d=2"], ["a.b=1", "c.d=2"], None),
        (["c.yaml", "--resume"], [], "newest"),
        (["c.yaml", "a.b=1", "--resume", "runs/x"], ["a.b=1"], "runs/x"),
        (["c.yaml", "--resume", "runs/x", "a.b=1"], ["a.b=1"], "runs/x"),
    ],
)
def test_overrides_stand_on_either_side_of_resume(words, overrides, resume):
    args = parser().parse_args(words)
    assert (str(args.config), args.overrides, args.resume) == ("c.yaml", overrides, resume)


def test_resuming_what_never_ran_is_one_sentence(config, capsys):
    assert train(config, "--resume") == 1
    assert "there is no run named 'tiny' to resume in" in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["--resume"], ["train.epochs=2"]])
def test_only_a_named_run_needs_no_config(words, capsys):
    assert train(*words) == 2
    assert "CONFIG is required; only --resume RUN goes without it" in capsys.readouterr().err


def test_resume_must_name_a_run(config, tmp_path, capsys):
    assert train(config, "--resume", tmp_path) == 1
    assert f"--resume must name a run folder with a last.ckpt, got {tmp_path}" in capsys.readouterr().err


def test_a_missing_config_is_one_sentence(capsys):
    assert train("nowhere.yaml") == 1
    assert "config file nowhere.yaml does not exist" in capsys.readouterr().err


def test_missing_demo_data_names_the_command_that_draws_it(config, tmp_path, capsys):
    assert train(config, f"data.root={tmp_path}/data/demo") == 1
    assert f"draw it with: tools/data.py demo --root {tmp_path}/data/demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model.num_classes=80", "model.num_classes must be that of the data, 5 in "),
        ("train.precision=fp16", "train.precision fp16 needs run.device cuda, got cpu"),
        ("model.name=d99", "d99"),
        ("train.epoch=3", "unknown key 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_a_config_that_cannot_be_leaves_no_run_behind(config, tmp_path, capsys, override, message):
    assert train(config, override) in (1, 2)
    captured = capsys.readouterr().err
    assert message in captured
    assert "Traceback" not in captured
    assert not (tmp_path / "runs").exists()


def test_two_kinds_of_first_weights_are_too_many(config, capsys):
    assert train(config, "model.weights=a.safetensors", "model.backbone_weights=imagenet") == 2
    assert "model.weights is a whole detector: leave out model.backbone_weights" in capsys.readouterr().err


def test_weights_of_another_variant_are_refused(config, tmp_path, capsys):
    from effdet.detector.efficientdet import EfficientDet

    EfficientDet("lite0", 5).save_pretrained(tmp_path / "lite0.safetensors")
    assert train(config, "model.name=d0", f"model.weights={tmp_path}/lite0.safetensors") == 2
    assert "model.architecture say d0, but model.weights holds lite0" in capsys.readouterr().err


def test_a_run_from_another_projects_weights_has_their_name_and_goes_on(config, tmp_path):
    from effdet.detector.efficientdet import EfficientDet
    from effdet.weights.effdet import to_effdet

    torch.save(
        to_effdet(EfficientDet("tf_efficientdet_lite0", 90).network.state_dict(), "tf_efficientdet_lite0"),
        tmp_path / "tf_efficientdet_lite0.pth",
    )
    assert train(config, f"model.weights={tmp_path}/tf_efficientdet_lite0.pth", "train.epochs=1") == 0
    run = tmp_path / "runs" / "tiny"
    assert "with a new class head for 5 classes" in (run / "log.txt").read_text()
    assert load_config(run / "config.yaml").model.name == "tf_efficientdet_lite0"
    (tmp_path / "tf_efficientdet_lite0.pth").unlink()
    assert train("--resume", run, "train.epochs=2") == 0  # the folder has the config
    best = EfficientDet.from_pretrained(run)
    assert (best.name, best.num_classes) == ("tf_efficientdet_lite0", 5)


def test_the_batch_must_be_shared_evenly():
    from effdet.runs.build import build_loader
    from effdet.training.distributed import World

    three = World(torch.device("cpu"), rank=0, size=3)
    setting = Config(train=TrainConfig(batch_size=8, accumulate=2))
    with pytest.raises(ConfigError, match=r"divisible by train.accumulate × processes = 6, got 8; the nearest is 6"):
        build_loader(setting, None, None, three)


def test_batch_norm_needs_more_than_one_value(config, tmp_path, capsys):
    assert train(config, "train.batch_size=1") == 2
    assert (
        "a forward pass needs two images, or one that is larger than the coarsest stride 128" in capsys.readouterr().err
    )
    assert not (tmp_path / "runs").exists()


# ---------------------------------------------------------------------- whole runs


@pytest.mark.slow
def test_a_run_leaves_everything_to_read_use_and_resume(config, tmp_path, capsys):
    from effdet.detector.efficientdet import EfficientDet

    assert train(config) == 0
    run = tmp_path / "runs" / "tiny"
    names = {path.name for path in run.iterdir()}
    expected = {
        "best.safetensors",
        "config.yaml",
        "curves.png",
        "first_batch.png",
        "last.ckpt",
        "log.txt",
        "metrics.csv",
        "predictions.png",
    }
    assert expected <= names
    assert not [name for name in names if name.endswith(".tmp")]

    resolved = load_config(run / "config.yaml")
    assert (resolved.model.num_classes, resolved.train.epochs, resolved.run) == (
        5,
        2,
        RunConfig(dir=str(tmp_path / "runs"), name="tiny", device="cpu", threads=1, report=False),
    )
    rows = rows_of(run)
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(row["ap"]) <= 1 for row in rows)
    assert [row["step"] for row in rows] == ["4", "8"]
    assert "starts from random weights" in (run / "log.txt").read_text()
    assert "done: best AP" in (run / "log.txt").read_text()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "16 images to train, 8 to validate, 5 classes" in captured.err
    with Image.open(run / "predictions.png") as picture:
        assert picture.width > 600

    model = EfficientDet.from_pretrained(run / "best.safetensors")
    assert model.num_classes == 5
    assert model.image_size == (64, 64)

    assert train(config, f"model.weights={run}/best.safetensors", "train.epochs=1") == 0  # a second run of the name
    assert "starts from the detector in" in (tmp_path / "runs" / "tiny-2" / "log.txt").read_text()
    before = (run / "metrics.csv").read_text()
    capsys.readouterr()
    assert train(config, "--resume", run) == 0  # nothing is left to do
    assert "continues at step 8 of 8" in capsys.readouterr().err
    assert (run / "metrics.csv").read_text() == before


@pytest.mark.slow
def test_a_corrupt_image_is_left_out_by_name_and_many_of_them_stop_the_start(tmp_path, demo_root, capsys):
    root = tmp_path / "data"
    shutil.copytree(demo_root, root)
    content = json.loads((root / "train.json").read_text())
    files = [next(root.rglob(image["file_name"])) for image in content["images"]]
    files[3].write_bytes(files[3].read_bytes()[:500])
    config = write_config(tmp_path, root)
    assert train(config, "train.epochs=1") == 0
    error = capsys.readouterr().err
    assert error.count(files[3].name) == 1
    assert "15 images to train" in error
    assert files[3].name in (tmp_path / "runs" / "tiny" / "log.txt").read_text()

    files[5].write_bytes(b"")
    assert train(config) == 1
    assert files[5].name in capsys.readouterr().err


def start(config, *arguments):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, TRAIN, str(config), *arguments]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for(path, process, seconds=120):
    """Wait until the process has written a file, and fail loudly if it ends before."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"{path} did not come"
        time.sleep(0.01)


def wait_for_step(run, process, step, seconds=240):
    """Wait until the checkpoint of a run has so many steps, and return how many it has."""
    wait_for(run / "last.ckpt", process)
    deadline = time.monotonic() + seconds
    while (done := load_checkpoint(run / "last.ckpt")["progress"]["step"]) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, f"step {step} did not come"
        time.sleep(0.05)
    return done


def assert_group_is_gone(process):
    """The loader processes of a killed run see that it is gone and end, too."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)
    raise AssertionError("loader processes outlived the run by 30 seconds")


@pytest.mark.slow
def test_a_run_killed_twice_ends_like_an_unbroken_one(tmp_path, demo_root):
    config = write_config(tmp_path, demo_root)
    long = "train.epochs=6"
    process = start(config, long, "run.name=unbroken")
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors

    run = tmp_path / "runs" / "tiny"
    for arguments, step in (([long, "data.workers=1"], 2), (["--resume"], 6)):  # both in the middle of an epoch
        process = start(config, *arguments)
        done = wait_for_step(run, process, step)
        process.kill()
        process.communicate()
        assert done < 24, "the run was over before it was killed"
        assert_group_is_gone(process)

    process = start(config, "--resume")
    errors = process.communicate(timeout=300)[1]
    assert process.returncode == 0, errors
    assert f"resuming {run}" in errors
    assert_same_run(tmp_path / "runs" / "unbroken", run)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_run_says_how_to_go_on_and_exits_with_130(tmp_path, demo_root, number):
    config, run = write_config(tmp_path, demo_root), tmp_path / "runs" / "tiny"
    process = start(config, "train.epochs=200", "eval.every=200", "data.workers=1", "train.checkpoint_minutes=1e-4")
    before = wait_for_step(run, process, 1)
    os.killpg(process.pid, number)  # as a terminal does: the loader processes get it, too
    errors = process.communicate(timeout=120)[1]
    assert process.returncode == 130, errors
    assert f"continue it with: --resume {run}" in errors
    assert "Traceback" not in errors
    after = load_checkpoint(run / "last.ckpt")["progress"]["step"]
    assert after >= before
    assert f"stopped at step {after};" in errors


def empty_most_images(root):
    """Leave boxes in two training images, and one validation image in the set: ranks get none of them."""
    for name, kept_images, kept_boxes in (("train", 16, 2), ("val", 1, 1)):
        content = json.loads((root / f"{name}.json").read_text())
        content["images"] = content["images"][:kept_images]
        with_boxes = sorted({annotation["image_id"] for annotation in content["annotations"]})
        ids = {image["id"] for image in content["images"]} & set(with_boxes[:kept_boxes])
        content["annotations"] = [a for a in content["annotations"] if a["image_id"] in ids]
        (root / f"{name}.json").write_text(json.dumps(content))


LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", TRAIN]


@pytest.mark.slow
@pytest.mark.parametrize("what", ["kill torchrun", "stop the main process"])
def test_two_processes_stop_together_and_write_their_checkpoint(tmp_path, demo_root, what):
    config, run = write_config(tmp_path, demo_root), tmp_path / "runs" / "tiny"
    command = [*LAUNCHER, str(config), "train.epochs=200", "eval.every=200", "data.workers=1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launcher = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    before = wait_for_step(run, launcher, 1)
    if what == "kill torchrun":
        launcher.kill()
    else:
        os.kill(int((run / ".lock").read_text()), signal.SIGTERM)
    errors = launcher.communicate(timeout=240)[1]  # until the last process has closed it
    after = load_checkpoint(run / "last.ckpt")["progress"]["step"]
    assert after >= before
    assert f"stopped at step {after}; continue it with" in (run / "log.txt").read_text()
    assert "of this run has" not in errors  # no process has lost another
    with lock_run(run):
        pass


@pytest.mark.slow
def test_two_processes_train_with_a_rank_without_boxes_and_one_without_images_to_score(tmp_path, demo_root):
    root = tmp_path / "data"
    shutil.copytree(demo_root, root)
    empty_most_images(root)
    config = write_config(tmp_path, root)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def launch(*arguments):
        result = subprocess.run(
            [*LAUNCHER, str(config), *arguments], env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr
        return result.stderr

    errors = launch("train.batch_size=8", "train.accumulate=2")
    run = tmp_path / "runs" / "tiny"
    assert [row["step"] for row in rows_of(run)] == ["2", "4"]
    assert float(rows_of(run)[1]["ap"]) >= 0
    assert errors.count("done: best AP") == 1  # rank 0 alone speaks
    assert "strides" not in errors  # PyTorch's warning about gradients in another memory layout
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    assert "continues at step 4 of 6" in launch("--resume", "train.epochs=3")
    assert len(rows_of(run)) == 3
