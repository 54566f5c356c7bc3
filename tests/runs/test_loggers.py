"""Tests of effdet/runs/loggers.py: each logger with its real package, offline."""

import json
import math
import struct

import pytest

from effdet.config import ConfigError, LoggerKind, load_config
from effdet.runs import loggers
from effdet.runs.log import RunLog
from effdet.runs.loggers import numbers_of_epoch, open_loggers
from effdet.runs.train import train
from effdet.training.loop import StepReport

ROW = {"epoch": 1, "step": 4, "lr": 0.1, "loss": 1.5, "class_loss": 1.0, "box_loss": 0.5, "images_per_second": 9.0}
ROW |= {"ap": 0.25, "ap of red cell": 0.5, "ap of %": 0.125, "ap of none": math.nan, "val_loss": 2.0}


def step_report(step):
    return StepReport(step=step, epoch=1, lr=0.1, loss=1.25, images_per_second=5.0, unreadable=())


@pytest.fixture
def folder(tmp_path):
    path = tmp_path / "runs" / "first"
    path.mkdir(parents=True)
    (path / "config.yaml").write_text("train: {lr: 0.1}\nrun: {name: first}\n")
    return path


def log_a_run(folder, kind, first_step=0):
    log = RunLog(folder, total_steps=8, loggers=[kind])
    with log.opened(first_step=first_step):
        log.step(step_report(first_step + 3))
        log.epoch([{**ROW, "step": first_step + 4}])


def test_epochs_have_the_names_that_a_reader_expects():
    assert numbers_of_epoch(ROW) == {
        "train/class_loss": 1.0,
        "train/box_loss": 0.5,
        "train/images_per_second": 9.0,
        "val/ap": 0.25,
        "val/ap/red cell": 0.5,
        "val/ap/%": 0.125,
        "val/loss": 2.0,
    }


def test_tensorboard_gets_steps_and_epochs(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log_a_run(folder, LoggerKind.tensorboard)
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/lr")] == [(3, pytest.approx(0.1))]
    assert [(e.step, e.value) for e in events.Scalars("val/loss")] == [(4, 2.0)]


def test_tensorboard_of_a_resumed_run_keeps_what_was_done_and_hides_what_is_done_again(folder):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    log_a_run(folder, LoggerKind.tensorboard)  # steps 3 and 4
    log_a_run(folder, LoggerKind.tensorboard, first_step=3)  # was stopped after step 3
    events = accumulator.EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/lr")] == [3, 6]
    assert [event.step for event in events.Scalars("val/loss")] == [7]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the package
def test_mlflow_gets_steps_and_epochs_and_a_resumed_run_goes_on(folder, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = folder.rename(folder.parent / "Ann's")  # a name that a search must quote
    log_a_run(folder, LoggerKind.mlflow)
    log_a_run(folder, LoggerKind.mlflow, first_step=4)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder.parent / 'mlflow.db'}")
    (run,) = client.search_runs([client.get_experiment_by_name("runs").experiment_id])
    assert run.info.run_name == "Ann's"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"train.lr": "0.1", "run.name": "first"}
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "train/loss")] == [
        (3, 1.25),
        (7, 1.25),
    ]
    assert run.data.metrics["val/ap/red cell"] == 0.5
    assert run.data.metrics["val/ap/_"] == 0.125


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the package
def test_wandb_gets_steps_and_epochs_offline(folder, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    log_a_run(folder, LoggerKind.wandb)
    wandb.teardown()  # waits for its process, which writes the last records after the run has finished
    (file,) = folder.rglob("run-*.wandb")
    step, epoch = logged_by_wandb(file)
    assert step.items() >= {"step": 3, "train/loss": 1.25, "train/lr": 0.1}.items()
    assert epoch.items() >= {"step": 4, "epoch": 1, "val/ap/red cell": 0.5, "val/ap/%": 0.125}.items()
    assert (folder / "wandb_id.txt").read_text() in file.name


def logged_by_wandb(file):
    """Return what a file of an offline run was given, a dict a call of ``log``; W&B itself has no reader in Python."""
    from wandb.proto.wandb_internal_pb2 import Record

    records = (Record.FromString(content) for content in records_of_leveldb_log(file.read_bytes()))
    return [
        {item.key or item.nested_key[0]: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.WhichOneof("record_type") == "history"
    ]


def records_of_leveldb_log(content):
    """Yield the records of a log of LevelDB, which is blocks of 32 KiB of pieces of records, after W&B's 7 bytes."""
    record = b""
    for start in range(0, len(content), 32768):
        block = content[max(start, 7) : start + 32768]
        while len(block) >= 7:
            _, size, part = struct.unpack("<IHB", block[:7])  # checksum, bytes, 1 whole, 2 first, 3 middle, 4 last
            record, block = record + block[7 : 7 + size], block[7 + size :]
            if part in (1, 4):
                yield record
                record = b""


@pytest.mark.parametrize(("kind", "extra"), [("wandb", "wandb"), ("mlflow", "mlflow"), ("tensorboard", "logging")])
def test_a_missing_package_is_named_before_the_training(kind, extra, tmp_path, demo_root, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=rf"run\.loggers {kind} needs {kind}: pip install .*\[{extra}\]'"):
        open_loggers([LoggerKind(kind)], tmp_path, 0)
    config = tmp_path / "c.yaml"
    config.write_text(f"data: {{root: '{demo_root}'}}\nrun: {{loggers: [{kind}], dir: '{tmp_path}/r', device: cpu}}\n")
    with pytest.raises(ImportError, match="or leave it out"):
        train(load_config(config))
    assert not (tmp_path / "r").exists()


def test_a_folder_with_the_name_of_a_package_is_no_package(tmp_path, monkeypatch):
    """W&B makes a folder "wandb" where it is started, and Python takes it for a package without content."""
    (tmp_path / "folder_of_a_logger").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(loggers.LOGGERS, LoggerKind.wandb, loggers.Kind("folder_of_a_logger", "wandb", None))
    with pytest.raises(ImportError, match=r"run\.loggers wandb needs folder_of_a_logger"):
        loggers.check_loggers([LoggerKind.wandb])


def test_without_loggers_there_are_none(tmp_path):
    assert open_loggers([], tmp_path, 0) == []


def test_an_unknown_logger_is_refused(tmp_path):
    (tmp_path / "c.yaml").write_text("run: {loggers: [comet]}\n")
    with pytest.raises(ConfigError, match=r"run\.loggers must be a list of tensorboard, wandb, mlflow or null"):
        load_config(tmp_path / "c.yaml")
