import logging
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import effdet
from effdet.config import load_config
from effdet.detector.efficientdet import EfficientDet
from effdet.runs import build
from effdet.runs.train import Run, train
from effdet.training.checkpoint import load_checkpoint, tensors_of

ROOT = Path(__file__).parents[2]

CONFIG = """
model: {{name: lite0}}
data: {{root: {root}, image_size: [64, 64], workers: 0, augment: {{color: 0.5, mosaic: 0.5, scale: [0.5, 1.5]}}}}
train: {{epochs: 1, batch_size: 8, optimizer: adamw, lr: 0.004}}
eval: {{every: 1}}
run: {{dir: {runs}, name: tiny, device: cpu, threads: 1, report: false}}
"""


@pytest.fixture
def config(tmp_path, demo_root):
    path = tmp_path / "tiny.yaml"
    path.write_text(CONFIG.format(root=demo_root, runs=tmp_path / "runs"))
    return path


def tensors(folder):
    state = load_checkpoint(folder / "last.ckpt")
    return {**state["model"], **{f"average {name}": tensor for name, tensor in state["ema"]["model"].items()}}


def assert_same_weights(a, b):
    first, second = tensors(a), tensors(b)
    assert first.keys() == second.keys()
    assert [name for name, tensor in first.items() if not torch.equal(tensor, second[name])] == []


def state_of_process():
    logger = logging.getLogger("effdet")
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)]
    return (*handlers, logger.level, logger.handlers[:], torch.get_num_threads(), torch.backends.cudnn.benchmark)


def test_train_calls_back_after_each_epoch(config):
    rows = []
    run = train(load_config(config, ["train.epochs=2"]), after_epoch=lambda history: rows.append(dict(history[-1])))
    assert rows == run.history
    assert all(row["ap"] >= 0 for row in rows)


def test_train_is_public():
    assert effdet.train is train
    assert effdet.Run is Run


@pytest.mark.slow
def test_a_run_from_python_equals_that_of_the_command_whatever_the_process_did_before(config, tmp_path):
    command = [sys.executable, "tools/train.py", str(config), "run.name=command"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    torch.manual_seed(99)
    torch.rand(1000)
    expected = torch.rand(1)
    torch.manual_seed(99)
    torch.rand(1000)
    before = state_of_process()
    with torch.no_grad():
        first = train(load_config(config, ["run.name=first"]))
    assert state_of_process() == before
    assert torch.equal(torch.rand(1), expected)

    results = []
    thread = threading.Thread(target=lambda: results.append(train(load_config(config, ["run.name=second"]))))
    thread.start()
    thread.join()
    for folder in (first.folder, results[0].folder):
        assert_same_weights(tmp_path / "runs" / "command", folder)

    assert first.folder == tmp_path / "runs" / "first"
    assert [row["epoch"] for row in first.history] == [1]
    assert 0 <= first.history[0]["ap"] <= 1
    assert isinstance(first.best, EfficientDet)
    average = load_checkpoint(first.folder / "last.ckpt")["ema"]["model"]
    assert all(torch.equal(tensor, average[name]) for name, tensor in tensors_of(first.best).items())
    assert not first.best.training
    assert "done: best AP" in (first.folder / "log.txt").read_text()


@pytest.mark.slow
def test_overrides_of_every_resume_are_kept(config, tmp_path):
    run = train(load_config(config)).folder

    def resume(*overrides):
        return train(load_config(run / "config.yaml", overrides), resume=run)

    resume("train.epochs=2", "train.weight_decay=0.5")
    last = resume("train.epochs=3")
    kept = load_config(run / "config.yaml").train
    assert (kept.epochs, kept.weight_decay) == (3, 0.5)
    assert load_checkpoint(run / "last.ckpt")["optimizer"]["param_groups"][0]["weight_decay"] == 0.5
    assert len(last.history) == 3
    log = (run / "log.txt").read_text(encoding="utf-8")
    assert "settings that differ from those before: train.epochs: 1 → 2, train.weight_decay: " in log


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.freeze=stem", r"was written when \d+ tensors were trained, now \d+ are; keep train\.freeze"),
        ("train.optimizer=sgd", r"holds the state of the optimizer adamw, but train\.optimizer is sgd; keep train"),
    ],
)
@pytest.mark.slow
def test_a_resume_that_cannot_be_is_one_sentence_and_changes_nothing(config, override, message):
    run = train(load_config(config)).folder
    before = (run / "config.yaml").read_text(), (run / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=message):
        train(load_config(run / "config.yaml", ["train.epochs=2", override]), resume=run)
    assert ((run / "config.yaml").read_text(), (run / "last.ckpt").read_bytes()) == before


class Glutton(nn.Module):
    def forward(self, images):
        return torch.empty(2**60)  # more than any machine has


def build_glutton(make):
    def build_trainer(*args, **kwargs):
        trainer = make(*args, **kwargs)
        trainer.network = Glutton()
        return trainer

    return build_trainer


def test_too_little_memory_is_one_sentence_with_advice(config, monkeypatch):
    monkeypatch.setattr(build, "build_trainer", build_glutton(build.build_trainer))
    with pytest.raises(RuntimeError, match=r"this machine has too little memory .* lower train\.batch_size"):
        train(load_config(config))


def test_too_little_memory_on_cuda_is_one_sentence_with_advice(config, monkeypatch):
    def forward(self, images):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has ...")

    monkeypatch.setattr(build, "build_trainer", build_glutton(build.build_trainer))
    monkeypatch.setattr(Glutton, "forward", forward)
    with pytest.raises(RuntimeError, match=r"the CUDA device has too little memory .* raise train\.accumulate"):
        train(load_config(config))


def test_a_run_to_continue_must_be_there(config, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"must name a run folder with a last\.ckpt, got .*nowhere"):
        train(load_config(config), resume=tmp_path / "nowhere")


def test_fp16_needs_cuda(config):
    with pytest.raises(ValueError, match=r"train\.precision fp16 needs run\.device cuda, got cpu; use bf16 or fp32"):
        train(load_config(config, ["train.precision=fp16"]))
