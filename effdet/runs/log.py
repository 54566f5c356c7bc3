"""What a run reports while it trains: metrics.csv, log.txt, TensorBoard events and lines on the terminal."""

from __future__ import annotations

import contextlib
import csv
import io
import logging
import logging.handlers
import math
import os
import platform
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from effdet.atomic_write import replace_file
from effdet.config import LoggerKind
from effdet.progress import ProgressBar
from effdet.runs.loggers import Logger, open_loggers
from effdet.training.loop import StepReport

logger = logging.getLogger(__name__)

LOSS_COLUMNS = ("epoch", "step", "lr", "loss", "class_loss", "box_loss", "images_per_second")
SCORE_COLUMNS = (
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
)
VAL_LOSS_COLUMNS = ("val_loss", "val_class_loss", "val_box_loss")  # with eval.loss
CLASS_PREFIX = "ap of "  # of a row's key, before the name of a class
LINE_SECONDS = 30.0  # between two plain progress lines


@contextlib.contextmanager
def keep_lines() -> Iterator[list[logging.LogRecord]]:
    """Collect what is logged before there is a run folder, for its log.txt."""
    handler = logging.handlers.BufferingHandler(capacity=10_000)
    logging.getLogger("effdet").addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logging.getLogger("effdet").removeHandler(handler)


def log_start(device: torch.device) -> None:
    """Log what began the run, by which versions and on which machine."""
    own = sys.modules["effdet"].__version__  # the front door is open already, as Python imports it first
    versions = f"effdet {own}, torch {torch.__version__}, Python {platform.python_version()}"
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} threads"
    logger.info("started by: %s", shlex.join(sys.argv))
    logger.info("%s; %s, %s cores, %s: %s", versions, platform.platform(), os.cpu_count(), device.type, where)


class RunLog:
    """Reports of a run: metrics.csv, log.txt, the terminal, and loggers such as TensorBoard.

    On a terminal a progress bar shows time left, loss, learning rate and images per second; elsewhere a plain line
    tells the same every 30 seconds. Lines go to the logger ``effdet``, which writes to stderr.

    Args:
        folder: The run folder; None makes every method silent, as on all processes but the main one.
        total_steps: Optimizer steps of the whole run.
        loggers: Kinds of loggers that get the numbers, too; None: TensorBoard where it is installed.
    """

    def __init__(
        self, folder: Path | None, *, total_steps: int = 0, loggers: Sequence[LoggerKind] | None = None
    ) -> None:
        self.folder, self.total_steps, self.logger_kinds = folder, total_steps, loggers
        self._first_step = 0
        self._started = self._last_line = time.monotonic()
        self._bar = ProgressBar()
        self._loggers: list[Logger] = []

    @contextlib.contextmanager
    def opened(self, *, first_step: int = 0, early: Sequence[logging.LogRecord] = ()) -> Iterator[None]:
        """Open log.txt, the loggers and the progress bar for the time of a run.

        Args:
            first_step: Steps that an earlier part of the run has done.
            early: Lines of ``keep_lines``.
        """
        if self.folder is None:
            yield
            return
        self._first_step = first_step
        self._started = self._last_line = time.monotonic()
        with contextlib.ExitStack() as stack:
            stack.enter_context(_log_file(self.folder / "log.txt", early))
            self._loggers = open_loggers(self.logger_kinds, self.folder, first_step)
            for sink in self._loggers:
                stack.callback(_close, sink)
            self._bar = stack.enter_context(ProgressBar())
            self._bar("starting", first_step, self.total_steps)
            yield

    def step(self, report: StepReport) -> None:
        """Report a step."""
        if self.folder is None:
            return
        step, total = report.step, self.total_steps
        self._tell("step", report)
        speed = f"{report.images_per_second:.1f} images/s"
        text = f"epoch {report.epoch}  loss {report.loss:.4f}  lr {report.lr:.2e}  {speed}"
        if self._bar.is_shown:
            self._bar(f"step {step}/{total}  {text}", step, total)
        elif time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            logger.info("step %d/%d  %s  %s left", step, total, text, self._time_left(step))

    def epoch(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write the table of all epochs so far and report the last one."""
        if self.folder is None:
            return
        self.write_table(rows)
        row = rows[-1]
        self._tell("epoch", row)
        scores = "".join(f"  {name.upper()} {row[name]:.4f}" for name in ("ap", "ap50") if name in row)
        losses = f"loss {row['loss']:.4f} (class {row['class_loss']:.4f}, box {row['box_loss']:.4f})"
        if "val_loss" in row:
            losses += f"  validation loss {row['val_loss']:.4f}"
        self._last_line = time.monotonic()
        logger.info(
            "epoch %d  %s  %.1f images/s%s  %s left",
            *(row["epoch"], losses, row["images_per_second"], scores, self._time_left(int(row["step"]))),
        )

    def _tell(self, method: str, report: StepReport | Mapping[str, float]) -> None:
        """Report to every logger. One that fails gets no more reports, and the training goes on."""
        for sink in list(self._loggers):
            try:
                getattr(sink, method)(report)
            except Exception as error:  # a server that is gone or a full disk: each package raises its own kinds
                self._loggers.remove(sink)
                logger.warning("%s failed, and gets no more numbers of this run: %s", type(sink).__name__, error)

    def write_table(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Write metrics.csv and per_class.csv anew, atomically.

        The first has one row an epoch, with empty score columns where nothing was evaluated; the other one row for each
        evaluation, with the AP of each class.
        """
        if self.folder is None:
            return
        on_request = VAL_LOSS_COLUMNS if any("val_loss" in row for row in rows) else ()
        _write_csv(self.folder / "metrics.csv", [*LOSS_COLUMNS, *SCORE_COLUMNS, *on_request], rows)
        classes = [
            name for name in dict.fromkeys(name for row in rows for name in row) if name.startswith(CLASS_PREFIX)
        ]
        if classes:
            evaluated = [row for row in rows if "ap" in row]
            _write_csv(self.folder / "per_class.csv", ["epoch", "step", "ap", *classes], evaluated)

    def _time_left(self, step: int) -> str:
        seconds = (time.monotonic() - self._started) / max(1, step - self._first_step) * (self.total_steps - step)
        minutes, seconds = divmod(round(seconds), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"


def _close(sink: Logger) -> None:
    """Close a logger; one that cannot write its last numbers leaves a warning and no error."""
    try:
        sink.close()
    except Exception as error:  # as in ``RunLog._tell``
        logger.warning("%s could not be closed: %s", type(sink).__name__, error)


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, float]]) -> None:
    """Write columns of rows; a class's AP is under its name, and empty where it has no ground truth."""
    text = io.StringIO(newline="")
    table = csv.writer(text)
    table.writerow(name.removeprefix(CLASS_PREFIX) for name in columns)
    table.writerows([_short(row.get(name)) for name in columns] for row in rows)
    with replace_file(path) as file:
        file.write(text.getvalue().encode())


def _short(value: float | None) -> float | str:
    if value is None or math.isnan(value):
        return ""
    return value if isinstance(value, int) else f"{value:.6g}"


@contextlib.contextmanager
def _log_file(path: Path, early: Sequence[logging.LogRecord]) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
    for record in early:
        handler.handle(record)
    logging.getLogger("effdet").addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger("effdet").removeHandler(handler)
        handler.close()
