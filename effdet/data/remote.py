"""Data sets at an address: copy their annotations, and let empty files stand for their images."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock

from effdet.atomic_write import replace_file
from effdet.data.archives import SUFFIX
from effdet.data.findings import DataError
from effdet.images.remote_files import copies_folder, full_address, is_address, open_file_system

COPIED = {".json", ".csv", ".tsv", ".txt", ".xml", ".yaml", ".yml", ".names", ".data"}  # suffixes of annotations
_THREADS = 16  # reading waits for the network
_TIMES = ("LastModified", "mtime", "last_modified", "created", "updated", "timeModified")  # keys of file systems
_UNKNOWN_SIZE = 1  # bytes of a file whose size the server does not tell


def to_local(place: str | Path) -> Path:
    """Return a path; for an address its folder, or file, in the cache, brought up to date.

    Files that are new or changed at the address are copied, if they may be annotations; the others get an empty file of
    their size and time. What is no longer there is removed.

    Raises:
        DataError: If the address cannot be listed or read.
    """
    if not is_address(place):
        return Path(place).expanduser()
    address = full_address(place)
    try:
        system, path = open_file_system(address)
        # A web server calls everything a file, so the suffix counts too.
        is_file = PurePosixPath(path).suffix.lower() in {*COPIED, SUFFIX} and system.isfile(path)
        base = address.rpartition("/")[0] if is_file else address
        root = path.rpartition("/")[0] if is_file else path
        files = _list(system, root) if not is_file or _can_list(system, root) else {}
        if is_file:
            files[PurePosixPath(path).name] = {**system.info(path), "path": path}
    except Exception as error:  # each file system has its own
        raise DataError(f"{address}: cannot be listed: {str(error) or type(error).__name__}") from error
    if not files:
        raise DataError(f"{address}: holds no file, or does not exist")
    folder = copies_folder(base)
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / "lock"):
        (folder.parent / "address").write_text(base, encoding="utf-8")
        _bring_up_to_date(system, folder, files)
    return folder / PurePosixPath(path).name if is_file else folder


def _can_list(system: Any, root: str) -> bool:
    try:
        return bool(system.ls(root, detail=False))
    except Exception:  # a server of single files
        return False


def _list(system: Any, root: str) -> dict[str, Mapping[str, Any]]:
    """Return what is told of each file below a place, by its name; names that lead elsewhere are left out."""
    system.invalidate_cache()
    start = f"{root.rstrip('/')}/"
    found: dict[str, Mapping[str, Any]] = {}
    for path, info in system.find(root, detail=True).items():
        name = path[len(start) :] if path.startswith(start) else path.removeprefix(start.lstrip("/"))
        is_below = name and not name.startswith("/") and not {"", ".", ".."} & set(name.split("/"))
        if is_below and len(name.encode()) < 1000 and "\0" not in name:
            found[name] = {**info, "path": path}
    return found


def _bring_up_to_date(system: Any, folder: Path, files: Mapping[str, Mapping[str, Any]]) -> None:
    for old in [path for path in folder.rglob("*") if not path.is_dir()]:
        if old.relative_to(folder).as_posix() not in files:
            old.unlink()

    def update(item: tuple[str, Mapping[str, Any]]) -> None:
        name, info = item
        is_copied = PurePosixPath(name).suffix.lower() in COPIED
        if is_copied and info.get("size") is None:
            info = {**info, **system.info(info["path"])}
        _update(system, folder / name, info, is_copied=is_copied)

    with ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(update, files.items()))


def _update(system: Any, file: Path, info: Mapping[str, Any], *, is_copied: bool) -> None:
    """Copy a file, or make an empty one of its size, unless that was done for this version of it."""
    size, changed = info.get("size"), _time(info)
    size = _UNKNOWN_SIZE if size is None and not is_copied else size
    try:
        known = file.stat()
        if known.st_size == size and known.st_mtime_ns == changed:
            return
    except FileNotFoundError:
        file.parent.mkdir(parents=True, exist_ok=True)
    if is_copied:
        try:
            content = system.cat_file(info["path"])
        except Exception as error:  # each file system has its own
            raise DataError(f"{info['path']}: cannot be read: {str(error) or type(error).__name__}") from error
        with replace_file(file) as out:
            out.write(content)
    else:
        with file.open("wb") as out:
            out.truncate(size)
    os.utime(file, ns=(changed, changed))


def _time(info: Mapping[str, Any]) -> int:
    """Return when a file was changed, in ns; where its server tells only a tag of its version, a time made of that."""
    value = next((info[key] for key in _TIMES if info.get(key)), None)
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.replace("Z", "+00:00"))
        except ValueError:
            value = None
    if isinstance(value, datetime):
        value = value.timestamp()
    if isinstance(value, int | float):
        tag = int.from_bytes(hashlib.blake2b(str(info.get("ETag", "")).encode(), digest_size=2).digest(), "big")
        return int(value * 1e6) * 1000 + tag % 1000  # a file written twice in a moment has another tag
    tag_text = str(info.get("ETag") or info.get("size"))
    return 10**18 + int.from_bytes(hashlib.blake2b(tag_text.encode(), digest_size=6).digest(), "big")
