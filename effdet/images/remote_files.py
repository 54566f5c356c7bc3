"""Files at an address of a kind that fsspec knows, such as ``s3://``, ``gs://``, ``https://`` and ``memory://``.

A data set at an address has a folder in the cache: its annotation files are copies, and each image is an empty file of
the right size that stands for the one at the address. The place of the file says which address that is; the image
itself is read from there.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import time
from pathlib import Path
from typing import Any

from effdet.cache import cache_folder
from effdet.install import hint

_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/+(?=[^/])|(memory|file):/+")
_FILES = "files"  # name of the folder with the copies
_PAUSES = (0.5, 2.0)  # seconds before each new attempt


def is_address(text: object) -> bool:
    """Return whether a text, or a path that was made of it, is an address such as ``s3://bucket/photos``."""
    found = _ADDRESS.match(str(text))
    return found is not None and not Path(str(text)).exists()


def full_address(text: object) -> str:
    """Return an address with both slashes and none at its end; ``Path`` makes ``s3:/bucket`` of ``s3://bucket``."""
    scheme, _, rest = str(text).partition(":")
    slashes = "///" if scheme == "file" else "//"
    return f"{scheme}:{slashes}{rest.strip('/')}"


def copies_folder(address: str) -> Path:
    """Return the folder in the cache that stands for an address; its parent holds the address itself."""
    key = hashlib.blake2b(address.encode(), digest_size=12).hexdigest()
    return _remote() / key / _FILES


def _remote() -> Path:
    return cache_folder() / "remote"


def address_of(path: Path) -> str | None:
    """Return the address of the file that a path stands for; None for a file of its own."""
    place = str(path)
    if f"/{_FILES}/" not in place:  # asked of every image, and looking up where the cache is takes 5 µs
        return None
    start = _start_of_copies(os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME"))
    if not place.startswith(start):
        return None
    key, _, name = place[len(start) :].partition(f"/{_FILES}/")
    base = _base_address(start + key) if name else None
    return f"{base}/{name}" if base and ".." not in name.split("/") else None


@functools.lru_cache(maxsize=8)
def _start_of_copies(_cache: str | None, _home: str | None) -> str:
    """Return how the place of every copy begins; looked up for each image, so it must be quick."""
    return f"{_remote()}/"


@functools.lru_cache(maxsize=64)
def _base_address(folder: str) -> str | None:
    try:
        return Path(folder, "address").read_text(encoding="utf-8")
    except OSError:
        return None


def open_file_system(address: str) -> tuple[Any, str]:
    """Return fsspec's file system of an address, and the path in it.

    Raises:
        OSError: If fsspec, or what it needs for this kind of address, is missing, or there is no such kind.
    """
    try:
        import fsspec

        found: tuple[Any, str] = fsspec.core.url_to_fs(address)
        return found
    except ImportError as error:
        raise OSError(f"{address}: needs another package ({error}); install it with: {hint('remote')}") from error
    except ValueError as error:
        raise OSError(f"{address}: {error}") from error


def read_address(address: str, start: int = 0, length: int | None = None) -> bytes:
    """Return the bytes of a file at an address, or a part of them. A lost connection is tried again twice.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If it cannot be read.
    """
    for pause in (*_PAUSES, None):
        try:
            system, path = open_file_system(address)
            end = None if length is None else start + length
            data = bytes(system.cat_file(path, start=start or None, end=end))
            is_whole_file = length is not None and len(data) > length  # from a server that knows no parts
            return data[start:end] if is_whole_file else data
        except FileNotFoundError:
            raise FileNotFoundError(f"{address}: no such file") from None
        except Exception as error:  # each file system has its own
            if pause is None:
                raise OSError(f"{address}: {str(error) or type(error).__name__}") from error
            time.sleep(pause)
    raise AssertionError("unreachable")
