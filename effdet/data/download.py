"""Download public data sets, so that an interruption costs nothing and a bad archive does no harm.

An archive arrives as ``NAME.zip.part``, goes on there after an interruption, and becomes ``NAME.zip`` when it is whole.
Its size and hash are checked before it is opened. Members are unpacked one by one, each in one step, and those already
there are skipped. The annotations come last: a folder that has them is complete.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shutil
import stat
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

Report = Callable[[str, int, int], None]  # what is being done, how much of it, out of how much

COCO_URL = "http://images.cocodataset.org"

_CHUNK = 1 << 20  # bytes
_PATIENCE = 30.0  # seconds without a byte
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt after a lost connection


@dataclass(frozen=True)
class Archive:
    """A zip file of a data set, and how to recognise that it has been unpacked."""

    path: str  # on the server
    size: int  # bytes
    md5: str
    pattern: str  # glob of its files below the root
    num_files: int  # that match the pattern

    @property
    def name(self) -> str:
        """The file's name on the server and here."""
        return PurePosixPath(self.path).name

    def is_unpacked(self, root: Path) -> bool:
        """Whether all of its files are below ``root``, whoever put them there."""
        return sum(1 for _ in root.glob(self.pattern)) >= self.num_files


_COCO_TRAIN = Archive(
    "zips/train2017.zip", 19_336_861_798, "cced6f7f71b7629ddf16f17bbcfab6b2", "train2017/*.jpg", 118_287
)
_COCO_VAL = Archive("zips/val2017.zip", 815_585_330, "442b8da7639aecaf257c1dceb8ba8c80", "val2017/*.jpg", 5_000)
_COCO_BOXES = Archive(
    "annotations/annotations_trainval2017.zip",
    252_907_541,
    "f4bbac642086de4f52a3fdda2de5fa2c",
    "annotations/instances_*2017.json",
    2,
)
COCO_2017 = {"val": (_COCO_VAL, _COCO_BOXES), "all": (_COCO_VAL, _COCO_TRAIN, _COCO_BOXES)}


def download(
    archives: Sequence[Archive],
    root: str | Path,
    *,
    base_url: str = COCO_URL,
    delete_archives: bool = False,
    report: Report = lambda what, done, total: None,
) -> list[str]:
    """Bring archives into a folder and unpack them there; what is already there is left alone.

    Args:
        archives: In the order in which they are brought.
        root: Folder to fill; made if missing.
        base_url: http(s) address that the archives' paths are relative to.
        delete_archives: Remove each zip file once it is unpacked; else it stays.
        report: Called often with what is being done, and how far it is, in bytes or files.

    Returns:
        Names of the archives that were unpacked now.

    Raises:
        OSError: If the server cannot be reached or stays silent, does not have a file, or the disk is too small.
        ValueError: If an archive is not the one it should be, or a member of it would leave the folder.
    """
    root = Path(root)
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base URL must start with http:// or https://, got '{base_url}'")
    missing = [archive for archive in archives if not archive.is_unpacked(root)]
    root.mkdir(parents=True, exist_ok=True)
    _check_space(missing, root)
    for archive in missing:
        file = root / archive.name
        if _size(file) < archive.size:
            _fetch(f"{base_url.rstrip('/')}/{archive.path}", file, archive, report)
        _verify(file, archive, report)
        unpack(file, root, report=report)
        if not archive.is_unpacked(root):
            raise ValueError(f"{file} was unpacked, but does not hold {archive.num_files} files {archive.pattern}")
        if delete_archives:
            file.unlink()
    return [archive.name for archive in missing]


def unpack(file: str | Path, root: str | Path, *, report: Report = lambda what, done, total: None) -> None:
    """Unpack a zip file below ``root``; members that are there with the right size are skipped.

    Raises:
        ValueError: If the file is damaged or no zip file, or a member is a link or would leave ``root``; in the latter
            case nothing at all is written.
    """
    file, root = Path(file), Path(root)
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                _check_member(file, member)
            members = [member for member in archive.infolist() if not member.is_dir()]
            for number, member in enumerate(members):
                _unpack_member(archive, member, root)
                report(f"unpacking {file.name}", number + 1, len(members))
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"{file} must be a whole zip file: {error}; remove it and start again") from error


# --- fetching ------------------------------------------------------------------------------------------------------


def _check_space(archives: Sequence[Archive], root: Path) -> None:
    """Raise before anything is downloaded if the archives and what is in them cannot fit."""
    needed = sum(
        2 * archive.size - _size(root / archive.name) - _size(_part(root / archive.name)) for archive in archives
    )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise OSError(
            f"{root} must have {needed / 1e9:.1f} GB free for the archives and what is in them, "
            f"has {free / 1e9:.1f} GB; make room, or choose another folder"
        )


def _fetch(url: str, file: Path, archive: Archive, report: Report) -> None:
    """Download a file, going on with what an earlier attempt left, until it has its whole size."""
    part, failures = _part(file), 0
    if file.exists():  # begun by another program, which does not mark what is unfinished
        os.replace(file, part)
    before = _size(part)
    while _size(part) < archive.size:
        have = _size(part)
        try:
            _receive(url, part, archive, report)
            reason = "the connection was closed"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise OSError(f"{url} cannot be downloaded: the server says {error.code} {error.reason}") from error
            reason = f"the server says {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = _reason(error)
        failures = 0 if _size(part) > have else failures + 1
        if _size(part) >= archive.size:
            break
        if failures and (_size(part) == before or failures > len(_PAUSES)):  # never began, or does not come back
            kept = (
                f"; {_size(part):,} of {archive.size:,} bytes are kept, start again to go on" if part.exists() else ""
            )
            raise OSError(f"{url} cannot be downloaded: {reason}{kept}")
        time.sleep(_PAUSES[max(failures - 1, 0)])
    os.replace(part, file)


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


def _receive(url: str, part: Path, archive: Archive, report: Report) -> None:
    """Append to ``part`` what the server sends until the file is whole or the connection ends."""
    have = _size(part)
    request = urllib.request.Request(
        url, headers={"User-Agent": "effdet", **({"Range": f"bytes={have}-"} if have else {})}
    )
    with urllib.request.urlopen(request, timeout=_PATIENCE) as response:
        start, total = _offered(response)
        if total is not None and total != archive.size:
            raise ValueError(
                f"{url} must have {archive.size:,} bytes, but the server offers {total:,}; try another base URL"
            )
        if start not in (0, have):
            raise ValueError(f"{url}: asked for bytes from {have:,}, but the server sends them from {start:,}")
        with part.open("r+b" if part.exists() else "wb") as out:
            out.truncate(start)  # a server that cannot go on sends everything again
            out.seek(start)
            # read1 hands over what has arrived; read would lose it when the connection breaks
            while start < archive.size and (chunk := response.read1(min(_CHUNK, archive.size - start))):
                out.write(chunk)
                start += len(chunk)
                report(f"downloading {archive.name}", start, archive.size)


def _offered(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return the position of the first byte that the server sends, and the size of the whole file if it says it."""
    if response.status == 206:  # Content-Range: bytes 100-999/1000
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        if not first.isdigit():
            raise ValueError(f"{response.url}: the server sends a part of the file without saying which")
        return int(first), int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None


def _verify(file: Path, archive: Archive, report: Report) -> None:
    """Raise ValueError, and remove the file, if size or hash are wrong."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(f"checking {archive.name}", done, archive.size)
    if (done, digest.hexdigest()) != (archive.size, archive.md5):
        file.unlink()
        raise ValueError(
            f"{file} must have {archive.size:,} bytes and MD5 {archive.md5}, got {done:,} bytes and "
            f"{digest.hexdigest()}; it was removed, start again to download it anew"
        )


def _part(file: Path) -> Path:
    return file.with_name(f"{file.name}.part")


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


# --- unpacking -----------------------------------------------------------------------------------------------------


def _check_member(file: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))  # a separator on some systems
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"{file}: member '{member.filename}' would leave the folder; nothing was unpacked")
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{file}: member '{member.filename}' is a link and may leave the folder; nothing was unpacked")


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, root: Path) -> None:
    target = root / member.filename
    if target.is_file() and target.stat().st_size == member.file_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unpacking")
    with archive.open(member) as source, unfinished.open("wb") as out:
        shutil.copyfileobj(source, out, _CHUNK)
    os.replace(unfinished, target)
