"""Where the bytes of an image are: in a file, or inside of an archive. Every image is opened through here."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.images.faults import ImageError, printable
from effdet.images.remote_files import address_of, read_address

_DO_NOT_WAIT = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class StoredImage(NamedTuple):
    """The place of one image file; it is opened when it is read."""

    path: Path  # the file, or the archive that holds it
    name: str  # for messages and results
    start: int = 0  # in bytes
    length: int | None = None  # in bytes; None: to the end

    @classmethod
    def in_file(cls, path: str | Path) -> StoredImage:
        """Return the place of an image that is a file."""
        path = path if isinstance(path, Path) else Path(path)  # a copy would be parsed anew, for each of millions
        return cls(path, address_of(path) or str(path))

    @property
    def address(self) -> str | None:
        """Where the file really is, if ``path`` only stands for it; see ``effdet.images.remote_files``."""
        return address_of(self.path)

    def read(self) -> NDArray[np.uint8]:
        """Return the bytes of the image file, (L,).

        Raises:
            FileNotFoundError: If there is no such file.
            ImageError: If it is no regular file, ends too early, or cannot be read.
        """
        if self.address is not None:
            return np.frombuffer(self._fetch(0, self.length), np.uint8)
        with os.fdopen(self._open(), "rb", buffering=0) as file:
            try:
                file.seek(self.start)
                data = np.fromfile(file, np.uint8, -1 if self.length is None else self.length)
            except OSError as error:
                raise ImageError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        if self.length is not None and len(data) < self.length:
            raise ImageError(f"{self.name}: {self.path} ends before it; the archive is truncated or was replaced")
        return data

    def read_bytes(self) -> bytes:
        """Return the bytes of the image file; see ``read``."""
        return self.read().tobytes()

    def read_ends(self, count: int) -> tuple[bytes, bytes]:
        """Return the first and the last ``count`` bytes, or all of them twice where there are fewer.

        Raises:
            FileNotFoundError, ImageError: As ``read``.
        """
        if self.address is not None:
            length = self.num_bytes()
            count = min(count, length)
            return self._fetch(0, count), self._fetch(length - count, count)
        file = self._open()
        try:
            length = os.fstat(file).st_size - self.start if self.length is None else self.length
            count = min(count, length)
            return os.pread(file, count, self.start), os.pread(file, count, self.start + length - count)
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        finally:
            os.close(file)

    def read_start(self, count: int) -> bytes:
        """Return the first ``count`` bytes, or all of them where there are fewer.

        Raises:
            FileNotFoundError, ImageError: As ``read``.
        """
        if self.address is not None:
            return self._fetch(0, count if self.length is None else min(count, self.length))
        file = self._open()
        try:
            return os.pread(file, count if self.length is None else min(count, self.length), self.start)
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read: {error.strerror or error}") from error
        finally:
            os.close(file)

    def num_bytes(self) -> int:
        """Return how many bytes the image file has; 0 where there is none."""
        if not self.exists():
            return 0
        return self.path.stat().st_size if self.length is None else self.length

    def exists(self) -> bool:
        """Return whether there is a regular file."""
        return self.path.is_file()

    def _fetch(self, start: int, length: int | None) -> bytes:
        """Return bytes of the image from the address that its path stands for."""
        try:
            return read_address(self.address or "", self.start + start, length)
        except FileNotFoundError:
            raise FileNotFoundError(f"{printable(self.name)}: no such image file") from None
        except OSError as error:
            raise ImageError(f"{self.name}: cannot be read: {error}") from error

    def _open(self) -> int:
        """Return the descriptor of the opened file; a FIFO or a device is refused, as it could block for ever."""
        try:
            file = os.open(self.path, os.O_RDONLY | _DO_NOT_WAIT)
        except FileNotFoundError:
            raise FileNotFoundError(f"{printable(self.name)}: no such image file") from None
        except (OSError, ValueError) as error:
            raise ImageError(f"{self.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        mode = os.fstat(file).st_mode
        if not stat.S_ISREG(mode):
            os.close(file)
            raise ImageError(f"{self.name}: must be a file, got a {_kind(mode)}")
        return file


def _kind(mode: int) -> str:
    kinds = {stat.S_ISDIR: "folder", stat.S_ISFIFO: "named pipe", stat.S_ISSOCK: "socket"}
    return next((kind for holds, kind in kinds.items() if holds(mode)), "device")
