"""Files that are replaced whole or not at all, and one sentence for a disk that is full."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_NO_SPACE = {
    errno.ENOSPC: "there is no space left on the disk",
    getattr(errno, "EDQUOT", errno.ENOSPC): "the disk quota of this user leaves no space",
    errno.EFBIG: "the limit on the size of a file (ulimit -f) leaves no space",
}


class WriteError(OSError):
    """A file could not be written; the message is one sentence."""

    def __str__(self) -> str:
        return self.strerror or ""


class _CheckedFile:
    """A binary file that keeps the first error of the operating system, which PyTorch replaces by one of its own."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Write the whole of ``data`` and return its number of bytes."""
        try:
            return self._file.write(data)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        """Hand everything to the operating system."""
        self._file.flush()


@contextlib.contextmanager
def replace_file(path: Path) -> Iterator[Any]:
    """Open a file for writing bytes that takes the name ``path`` at the end of the block.

    The bytes go to a temporary file beside it and are on the disk before that takes the name. So the name always
    belongs to a complete file, the old one or the new one. After an error the temporary file is removed.

    Raises:
        WriteError: If the file cannot be written, for instance because the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    checked = None
    try:
        with temporary.open("xb") as file:
            checked = _CheckedFile(file)
            yield checked
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _synchronise_folder(path.parent)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        cause = error if isinstance(error, OSError) else checked.error if checked is not None else None
        if cause is None:
            raise
        raise _write_error(path, cause) from cause


def remove_temporary_files(folder: Path, names: Iterable[str]) -> None:
    """Remove what a killed process left of ``replace_file`` for these names in a folder.

    Files with the names that earlier versions gave to temporary files are removed too. Only call it while no other
    process can write these files.
    """
    known = "|".join(re.escape(name) for name in names)
    temporary = re.compile(rf"\.({known})\.[0-9a-f]{{8}}\.tmp|({known})\.tmp|\.({known})\.[a-z0-9_]{{8}}")
    for path in folder.iterdir():
        if temporary.fullmatch(path.name) and path.is_file():
            path.unlink(missing_ok=True)


def _write_error(path: Path, error: OSError) -> WriteError:
    kept = "the file of that name is unchanged" if path.exists() else "no file of that name is left"
    if error.errno in _NO_SPACE:
        what = f"{_NO_SPACE[error.errno]} to write {path}; make space and try again, {kept}"
    else:
        what = f"{path} cannot be written: {error.strerror or error}; {kept}"
    return WriteError(error.errno or 0, what)


def _synchronise_folder(folder: Path) -> None:
    """Bring the new name itself to the disk."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
