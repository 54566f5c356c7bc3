import csv
import io
import logging
import sys

import pytest
import torch

import effdet
from effdet.config import LoggerKind
from effdet.runs import log, loggers
from effdet.runs.log import LOSS_COLUMNS, SCORE_COLUMNS, RunLog, keep_lines, log_start
from effdet.training.loop import StepReport


def row(epoch, **scores):
    losses = {"loss": 2.5, "class_loss": 1.0, "box_loss": 1.5}
    return {"epoch": epoch, "step": 10 * epoch, "lr": 0.01, **losses, "images_per_second": 20.0, **scores}


def report(step, *, lr, loss, speed):
    return StepReport(step, epoch=1, lr=lr, loss=loss, images_per_second=speed, unreadable=())


def read_table(folder):
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_has_a_row_an_epoch_and_empty_cells_without_evaluation(tmp_path):
    scores = {name: 0.01 * index for index, name in enumerate(SCORE_COLUMNS)}
    RunLog(tmp_path).write_table([row(1), row(2, **scores)])
    first, second = read_table(tmp_path)
    assert tuple(first) == (*LOSS_COLUMNS, *SCORE_COLUMNS)
    assert len(SCORE_COLUMNS) == 12
    assert (first["epoch"], first["loss"], first["ap"]) == ("1", "2.5", "")
    assert [second[name] for name in ("step", "ap", "ap50", "ar_large")] == ["20", "0", "0.01", "0.11"]


def test_each_evaluation_has_the_ap_of_each_class(tmp_path):
    rows = [
        {"epoch": 1, "step": 7, "ap": 0.25, "ap of cat": 0.5, "ap of a, b": float("nan")},
        {"epoch": 2, "step": 14},
        {"epoch": 3, "step": 21, "ap": 0.5, "ap of cat": 0.75, "ap of a, b": 0.25},
    ]
    RunLog(tmp_path).write_table(rows)
    lines = (tmp_path / "per_class.csv").read_text().splitlines()
    assert lines == ['epoch,step,ap,cat,"a, b"', "1,7,0.25,0.5,", "3,21,0.5,0.75,0.25"]
    assert "of cat" not in (tmp_path / "metrics.csv").read_text()


def test_the_score_columns_are_the_numbers_of_the_evaluation():
    from effdet.evaluation.coco import CocoMetrics

    assert tuple(CocoMetrics.__dataclass_fields__)[:12] == SCORE_COLUMNS


def test_the_log_file_holds_earlier_lines_and_those_of_the_run(tmp_path):
    logger = logging.getLogger("effdet.somewhere")
    logging.getLogger("effdet").setLevel(logging.INFO)
    try:
        with keep_lines() as early:
            logger.info("before the folder")
        logger.info("between")
        with RunLog(tmp_path).opened(early=early):
            logger.info("in the run")
        logger.info("after")
    finally:
        logging.getLogger("effdet").setLevel(logging.NOTSET)
    lines = (tmp_path / "log.txt").read_text().splitlines()
    assert [line.split(" ", 2)[2] for line in lines] == ["before the folder", "in the run"]
    assert logging.getLogger("effdet").handlers == []


def test_a_plain_line_comes_every_so_often_with_the_time_left(tmp_path, caplog, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    run = RunLog(tmp_path, total_steps=100)
    with caplog.at_level(logging.INFO, "effdet"), run.opened(first_step=10):
        for step in range(11, 41):
            now[0] += 2.0
            run.step(report(step, lr=0.01, loss=1.25, speed=7.0))
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "step 25/100  epoch 1  loss 1.2500  lr 1.00e-02  7.0 images/s  0:02:30 left",
        "step 40/100  epoch 1  loss 1.2500  lr 1.00e-02  7.0 images/s  0:02:00 left",
    ]


def test_each_epoch_has_a_line_with_its_scores(tmp_path, caplog):
    with caplog.at_level(logging.INFO, "effdet"):
        RunLog(tmp_path, total_steps=20).epoch([row(1), row(2, ap=0.5, ap50=0.75)])
    (record,) = caplog.records
    assert (
        "epoch 2  loss 2.5000 (class 1.0000, box 1.5000)  20.0 images/s  AP 0.5000  AP50 0.7500" in record.getMessage()
    )
    assert len(read_table(tmp_path)) == 2


def test_other_processes_are_silent_and_write_nothing(tmp_path, caplog, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = RunLog(None, total_steps=5)
    with caplog.at_level(logging.INFO, "effdet"), run.opened():
        run.step(report(1, lr=0.1, loss=1.0, speed=1.0))
        run.epoch([row(1)])
    assert caplog.records == []
    assert list(tmp_path.iterdir()) == []


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_with_loss_and_speed_instead_of_lines(tmp_path, monkeypatch, caplog):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(log, "LINE_SECONDS", 0.0)
    run = RunLog(tmp_path, total_steps=10)
    with caplog.at_level(logging.INFO, "effdet"), run.opened():
        run.step(report(5, lr=0.01, loss=1.25, speed=7.0))
    text = terminal.getvalue()
    assert "epoch 1  loss 1.2500  lr 1.00e-02  7.0 images/s" in text
    assert "5/10" in text
    assert caplog.records == []


def test_tensorboard_gets_losses_and_scores(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = RunLog(tmp_path, total_steps=20)
    with run.opened():
        run.step(report(3, lr=0.01, loss=1.25, speed=7.0))
        run.epoch([row(1, ap=0.5)])
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(3, 1.25)]
    assert [(e.step, e.value) for e in events.Scalars("val/ap")] == [(10, 0.5)]


def test_training_goes_on_without_tensorboard(tmp_path, monkeypatch):
    monkeypatch.setattr(loggers.importlib.util, "find_spec", lambda name: None)
    with RunLog(tmp_path).opened():
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["log.txt"]


class Unreachable:
    """A logger whose server is gone after the first step."""

    def __init__(self, folder, first_step):
        self.steps = []

    def step(self, report):
        self.steps.append(report.step)
        if len(self.steps) > 1:
            raise ConnectionError("no route to host")

    def epoch(self, row):
        raise AssertionError("a logger that failed gets no more reports")

    def close(self):
        raise ConnectionError("still no route to host")


def test_a_logger_that_fails_is_left_out_and_the_training_goes_on(tmp_path, caplog, monkeypatch):
    kind = loggers.Kind("json", "none", Unreachable)  # the package that it needs is always there
    monkeypatch.setitem(loggers.LOGGERS, LoggerKind.mlflow, kind)
    run = RunLog(tmp_path, total_steps=20, loggers=[LoggerKind.mlflow])
    with caplog.at_level("INFO", "effdet"), run.opened():
        for step in (1, 2, 3):
            run.step(report(step, lr=0.01, loss=1.25, speed=7.0))
        run.epoch([row(1, ap=0.5)])
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [
        "Unreachable failed, and gets no more numbers of this run: no route to host",
        "Unreachable could not be closed: still no route to host",
    ]
    assert read_table(tmp_path)[0]["ap"] == "0.5"


def test_the_first_lines_tell_command_versions_and_machine(caplog, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["tools/train.py", "my config.yaml", "train.lr=0.1"])
    with caplog.at_level(logging.INFO, "effdet"):
        log_start(torch.device("cpu"))
    command, versions = [record.getMessage() for record in caplog.records]
    assert command == "started by: tools/train.py 'my config.yaml' train.lr=0.1"
    assert f"effdet {effdet.__version__}, torch {torch.__version__}, Python 3." in versions
    assert "cpu: 1 threads" in versions
