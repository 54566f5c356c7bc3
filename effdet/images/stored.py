"""Where the bytes of an image are: in a file, or inside of an archive. Every image is opened through here."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.images.faults import ImageError


class StoredImage(NamedTuple):
    """The place of one image file; it is opened when it is read."""

    path: Path  # the file, or the archive that holds it
    name: str  # for messages and results
    start: int = 0  # in bytes
    length: int | None = None  # in bytes; None: to the end

    @classmethod
    def in_file(cls, path: str | Path) -> StoredImage:
        """Return the place of an image that is a file."""
        return cls(Path(path), str(path))

    def read(self) -> NDArray[np.uint8]:
        """Return the bytes of the image file, (L,).

        Raises:
            FileNotFoundError: If there is no such file.
            ImageError: If it is no regular file, ends too early, or cannot be read.
        """
        with self._opened() as file:
            data = np.fromfile(file, np.uint8, -1 if self.length is None else self.length)
        if self.length is not None and len(data) < self.length:
            raise ImageError(f"{self.name}: {self.path} ends before it; the archive is truncated or was replaced")
        return data

    def read_ends(self, count: int) -> tuple[bytes, bytes]:
        """Return the first and the last ``count`` bytes, or all of them twice where there are fewer.

        Raises:
            FileNotFoundError, ImageError: As ``read``.
        """
        with self._opened() as file:
            length = os.fstat(file.fileno()).st_size - self.start if self.length is None else self.length
            count = min(count, length)
            first = file.read(count)
            file.seek(self.start + length - count)
            return first, file.read(count)

    def read_start(self, count: int) -> bytes:
        """Return the first ``count`` bytes, or all of them where there are fewer.

        Raises:
            FileNotFoundError, ImageError: As ``read``.
        """
        with self._opened() as file:
            return file.read(count if self.length is None else min(count, self.length))

    def num_bytes(self) -> int:
        """Return how many bytes the image file has; 0 where there is none."""
        if not self.exists():
            return 0
        return self.path.stat().st_size if self.length is None else self.length

    def exists(self) -> bool:
        """Return whether there is a regular file."""
        return self.path.is_file()

    @contextmanager
    def _opened(self) -> Iterator[BinaryIO]:
        """Open a regular file at the place where the image begins; a FIFO or a device could block for ever."""
        try:
            mode = os.stat(self.path).st_mode
            if not stat.S_ISREG(mode):
                raise ImageError(f"{self.name}: must be a file, got a {_kind(mode)}")
            with self.path.open("rb", buffering=0) as file:
                file.seek(self.start)
                yield file
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.name}: no such image file") from None
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read: {error.strerror or error}") from error


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "named pipe", stat.S_ISSOCK: "socket"}
    return next((kind for holds, kind in kinds.items() if holds(mode)), "device")
