"""One process at a time writes a run folder."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from effdet.atomic_write import remove_temporary_files

logger = logging.getLogger(__name__)

LOCK = ".lock"
# What ``replace_file`` writes:
WRITTEN = ("last.ckpt", "best.safetensors", "metrics.csv", "per_class.csv", "fusion_weights.csv", "config.yaml")


class RunInUseError(RuntimeError):
    """Another process trains in the run folder."""


@contextlib.contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes out of a run folder for the time of the block.

    The operating system holds the lock and releases it when the process ends, however it ends. The file ``.lock`` stays
    and holds the number of the process. Temporary files that a killed process left are removed at the start.

    Raises:
        RunInUseError: If another process holds the lock; the message has its number.
    """
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(file, folder)
        _locked.add(file)
        os.truncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, str(os.getpid()).encode())
        remove_temporary_files(folder, WRITTEN)
        yield
    finally:
        _locked.discard(file)
        os.close(file)


def _lock(file: int, folder: Path) -> None:
    try:
        _try_lock(file)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            logger.warning("%s cannot be locked (%s): start no second process in it", folder, error.strerror)
            return
        holder = (folder / LOCK).read_text(encoding="ascii", errors="replace")
        who = f"process {holder}" if holder.isdigit() else "another process"
        raise RunInUseError(
            f"{folder} must be used by one process at a time, but {who} trains in it; wait for its end, or stop it"
        ) from None


if sys.platform == "win32":
    import msvcrt

    def _try_lock(file: int) -> None:
        os.lseek(file, 1 << 30, os.SEEK_SET)  # behind the number, which others may read
        msvcrt.locking(file, msvcrt.LK_NBLCK, 1)

else:
    import fcntl

    def _try_lock(file: int) -> None:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)

    # A forked process shares the lock: a loader process that outlives a killed run would hold it for some seconds.
    os.register_at_fork(after_in_child=lambda: _close_all(_locked))

_locked: set[int] = set()  # open files of this process


def _close_all(files: set[int]) -> None:
    for file in files:
        with contextlib.suppress(OSError):
            os.close(file)
    files.clear()
