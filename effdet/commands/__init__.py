"""The command line: ``effdet NAME ...``, or ``python tools/NAME.py ...`` in a clone.

Each command is a module of this package with ``parser() -> ArgumentParser`` and ``run(args) -> int``. A module is
imported only when its command is called, and imports torch only inside ``run``, so ``--help`` answers at once.

Exit status: 0 done, 1 failed, 2 the command line or the config is wrong, 130 interrupted. An expected failure is one
sentence on stderr; an error in the code of this package keeps its traceback. A reader of stderr that goes away does not
end a command.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import logging
import os
import re
import select
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

import effdet
from effdet.progress import SafeStderr

COMMANDS = {
    "train": "train from a config file",
    "config": "print a config that comes with the package, to start your own from",
    "evaluate": "print the COCO numbers of a model, or of a results file",
    "report": "write a page that shows what a detector learned, or compare runs",
    "predict": "detect objects in images, folders or videos",
    "app": "serve a page that shows what a detector finds in photos",
    "convert": "convert weights of other EfficientDet projects to ours, or ours to PyPI's effdet",
    "export": "write a model as a file for another runtime: ONNX, OpenVINO, TFLite and others",
    "data": "check, show, split and convert a data set; draw the demo set; download COCO",
    "compare_necks": "print size and speed of every neck and fusion beside the paper's",
    "fusion_weights": "draw the fusion weights of runs over training",
    "adapt": "make a trained detector narrower until it is fast enough",
    "benchmark": "measure how fast your weights are on this machine",
    "search": "search for an architecture that is accurate and cheap on your data",
    "scale": "fit a network to a budget; repeat the papers' compound scaling on your data",
    "inspect_data": "the old name of data",
}

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_PACKAGE = str(Path(__file__).resolve().parents[1])


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        argv: The command's name, then its arguments; None takes them from ``sys.argv``.
    """
    _open_closed_streams()
    with _streams_that_survive():
        status = _dispatch(list(sys.argv[1:] if argv is None else argv))
        return status if _flush_stdout() else FAILED


def _dispatch(argv: list[str]) -> int:
    try:
        if not argv or argv[0].startswith("-") or _module_name(argv[0]) not in COMMANDS:
            _front_parser().parse_args(argv or ["--help"])
            return OK
        return _run(_module_name(argv[0]), argv[1:])
    except SystemExit as stop:
        if isinstance(stop.code, str):
            raise  # a message that is still to be printed
        return stop.code or OK  # argparse has printed its message


def program(name: str) -> str:
    """Return how the user called the command: ``effdet NAME``, or ``tools/NAME.py`` in a clone."""
    script = Path(sys.argv[0])
    in_clone = script.parent.absolute().name == "tools" and script.stem == name
    return f"tools/{name}.py" if in_clone else f"effdet {_command_name(name)}"


def _command_name(module: str) -> str:
    return module.replace("_", "-")


def _module_name(command: str) -> str:
    return command.replace("-", "_")


def _front_parser() -> argparse.ArgumentParser:
    """Return the parser of ``effdet`` alone, which only knows the names of the commands."""
    width = max(map(len, COMMANDS))
    lines = (f"  {_command_name(name):{width}}  {what}" for name, what in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="effdet",
        description="EfficientDet: train, evaluate and use it.",
        epilog="\n".join(["commands:", *lines, "", "'effdet COMMAND --help' describes one command."]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"effdet {effdet.__version__}")
    parser.add_argument("command", choices=COMMANDS, metavar="COMMAND", help="one of the commands below")
    parser.add_argument("arguments", nargs="*", metavar="...", help="its arguments")
    return parser


def _run(name: str, argv: list[str]) -> int:
    try:
        command = importlib.import_module(f"effdet.commands.{name}")
        parser: argparse.ArgumentParser = command.parser()
        parser.prog = program(name)
        args = parser.parse_args([_with_home(word) for word in argv])
        with _log_to_stderr():
            status: int = command.run(args)
        return status
    except KeyboardInterrupt:
        print(f"{program(name)}: interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _stdout_is_closed():
            return FAILED
        if _is_out_of_memory(error):
            print(f"{program(name)}: error: {_LESS_MEMORY}", file=sys.stderr)
            return FAILED
        if not _is_expected(error):
            raise
        print(f"{program(name)}: error: {_sentence(error)}", file=sys.stderr)
        return USAGE if _is_config_error(error) else FAILED


def _with_home(word: str) -> str:
    """Return a word of the command line with the home folder for ``~``, which a shell leaves as it is in --out=~/x."""
    option, path = re.fullmatch(r"(--[\w-]+=)?(.*)", word, re.DOTALL).groups(default="")  # type: ignore[union-attr]
    return option + os.path.expanduser(path) if path == "~" or path.startswith("~/") else word


def _is_expected(error: Exception) -> bool:
    """Whether the message alone tells the user what to do.

    True for errors of the operating system, and for those that this package raises itself. If a library raises an error
    of the same type, this package called it wrongly, and the traceback is needed.
    """
    if isinstance(error, OSError):
        return True
    if isinstance(error, NotImplementedError | RecursionError):
        return False
    if isinstance(error, ImportError):  # a missing extra, but not a missing piece of our own
        return not (error.name or "").startswith("effdet")
    return isinstance(error, ValueError | FloatingPointError | RuntimeError) and _raised_here(error)


_LESS_MEMORY = "the GPU has too little memory for this; a smaller batch size or a smaller input needs less"


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.OutOfMemoryError)


def _raised_here(error: Exception) -> bool:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return frame is not None and frame.tb_frame.f_code.co_filename.startswith(_PACKAGE + os.sep)


def _is_config_error(error: Exception) -> bool:
    from effdet.config import ConfigError

    return isinstance(error, ConfigError)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error).strip() or type(error).__name__


def _stdout_is_closed() -> bool:
    """Return whether the reader of stdout, ``head`` for instance, has gone."""
    return not _flush_stdout() or _has_no_reader(sys.stdout)


def _flush_stdout() -> bool:
    """Return whether stdout takes what is left in its buffer; if not, that is dropped.

    A reader that has gone is no reason for a word; anything else, such as a full disk, is.
    """
    try:
        sys.stdout.flush()
    except OSError as error:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)
        if not isinstance(error, BrokenPipeError):
            print(f"effdet: error: stdout cannot be written: {error.strerror}", file=sys.stderr)
        return False
    return True


def _has_no_reader(stream: TextIO) -> bool:
    """Return whether a stream is a pipe that nobody reads; a long text may be lost in it without a second error."""
    try:
        poll = select.poll()
        poll.register(stream.fileno(), 0)  # errors only
    except (AttributeError, OSError, ValueError):  # a system without poll, a stream without a descriptor
        return False
    return any(event & select.POLLERR for _, event in poll.poll(0))


def _open_closed_streams() -> None:
    """Open standard streams that the caller has closed, so that what goes there is dropped.

    Otherwise the next files that are opened have their numbers, and messages of libraries end up in a checkpoint.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115 - for the whole process


@contextlib.contextmanager
def _streams_that_survive() -> Iterator[None]:
    """Let stdout escape the letters that its encoding lacks, and let a reader of stderr go away."""
    stderr = sys.stderr
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    sys.stderr = SafeStderr(stderr)
    try:
        yield
    finally:
        sys.stderr = stderr


class _StderrHandler(logging.Handler):
    """Write log lines to whatever ``sys.stderr`` is at the moment; a progress display may have replaced it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
    logger, handler = logging.getLogger("effdet"), _StderrHandler()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
