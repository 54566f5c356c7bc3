"""Unpack an archive of a checkpoint, bounded in what it may take, and without its paths and links."""

from __future__ import annotations

import gzip
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from effdet.weights.limits import MAX_FILE, first_line, short

ARCHIVES = (".tar.gz", ".tgz", ".tar")

_CHUNK = 1 << 20  # bytes
_MAX_HEADER = 1 << 22  # bytes that are read at once; a member's data come in smaller parts
_MAX_MEMBERS = 10_000
_SMALL = 1 << 28  # bytes that an archive of any size may unpack to
_LARGEST_RATIO = 20  # unpacked to packed size; weights seldom exceed 1.2, moments of an optimizer that never ran do


@contextmanager
def unpacked(path: Path, *, is_part: Callable[[str], bool]) -> Iterator[Path]:
    """Unpack an archive to a temporary folder and yield the folder; yield any other path unchanged.

    Only plain files are unpacked, by the last part of their names, so that nothing leaves the folder.

    Args:
        path: A ``.tar`` or ``.tar.gz`` file, or something else.
        is_part: Whether a file of this name is needed.

    Raises:
        ValueError: If it is damaged, or unpacks to much more than its size lets expect.
    """
    if not (path.is_file() and path.name.endswith(ARCHIVES)):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        try:
            _unpack(path, Path(folder), is_part)
        except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
            raise ValueError(f"{path} is not a readable archive: {first_line(error)}") from error
        yield Path(folder)


def _unpack(path: Path, folder: Path, is_part: Callable[[str], bool]) -> None:
    most = min(MAX_FILE, max(_SMALL, _LARGEST_RATIO * path.stat().st_size))
    with path.open("rb") as packed:
        is_packed = packed.read(2) == b"\x1f\x8b"
        packed.seek(0)
        content = gzip.GzipFile(fileobj=packed) if is_packed else packed
        with tarfile.open(fileobj=_Bounded(content, most), mode="r:") as archive:  # type: ignore[call-overload]
            for number, member in enumerate(archive):
                if number == _MAX_MEMBERS:
                    raise ValueError(f"it has more than {_MAX_MEMBERS:,} members")
                name = PurePosixPath(member.name).name
                if not member.isfile() or name.startswith(".") or not is_part(name):
                    continue
                if member.issparse() or member.size > most:
                    raise ValueError(f"its member {short(name)} claims {member.size:,} bytes, most of them a hole")
                source = archive.extractfile(member)
                assert source is not None
                with (folder / name).open("wb") as out:
                    shutil.copyfileobj(source, out, _CHUNK)


class _Bounded:
    """A file that is read in order and refuses to give more than so many bytes, in all or at once."""

    def __init__(self, file: BinaryIO | gzip.GzipFile, most: int) -> None:
        self._file, self._most = file, most

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes."""
        if not 0 <= size <= _MAX_HEADER:
            raise ValueError(f"one of its headers claims {size:,} bytes")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, position: int) -> int:
        """Go to a place."""
        self._check(position)
        return self._file.seek(position)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def _check(self, position: int) -> None:
        if position > self._most + _MAX_HEADER:
            raise ValueError(
                f"it unpacks to more than {self._most:,} bytes, which no archive of weights of its size does"
            )
