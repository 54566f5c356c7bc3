"""Download and unpack public data sets. An interrupted download can continue, and every archive is verified.

An archive is downloaded to ``NAME.zip.part``. After an interruption the download continues there. The complete file is
renamed to ``NAME.zip``, and its size and hash are checked before it is opened. Members are unpacked one by one, each in
one step, and existing ones are skipped. The annotations are unpacked last, so a folder that has them is complete.
"""

from __future__ import annotations

import hashlib
import lzma
import os
import shutil
import stat
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from effdet.download import CHUNK, fetch, file_size, part_of
from effdet.progress import Report, report_nothing

COCO_URL = "http://images.cocodataset.org"


@dataclass(frozen=True)
class Archive:
    """A zip file of a data set, and the files that it must contain."""

    path: str  # on the server
    size: int  # bytes
    md5: str
    pattern: str  # glob of its files below the root
    num_files: int  # number of files that match the pattern

    @property
    def name(self) -> str:
        """Name of the file, on the server and on this machine."""
        return PurePosixPath(self.path).name

    def is_unpacked(self, root: Path) -> bool:
        """Whether all files of the archive are below ``root``, even if another program put them there."""
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
    report: Report = report_nothing,
) -> list[str]:
    """Download archives to a folder and unpack them there. Existing files are kept.

    Args:
        archives: Archives in the order of the downloads.
        root: Folder to fill; made if missing.
        base_url: http(s) address that the archives' paths are relative to.
        delete_archives: Remove each zip file once it is unpacked; else it stays.
        report: Called often with the current task and its progress in bytes or files.

    Returns:
        Names of the archives that this call unpacked.

    Raises:
        OSError: If the server cannot be reached, does not answer or lacks a file, or the disk is too small.
        ValueError: If an archive has a wrong size or hash, or the path of a member leads outside the folder.
    """
    root = Path(root)
    if not base_url.startswith(("http://", "https://")):
        raise ValueError(f"base URL must start with http:// or https://, got '{base_url}'")
    missing = [archive for archive in archives if not archive.is_unpacked(root)]
    root.mkdir(parents=True, exist_ok=True)
    _check_space(missing, root)
    for archive in missing:
        file = root / archive.name
        if file_size(file) < archive.size:
            _fetch(f"{base_url.rstrip('/')}/{archive.path}", file, archive, report)
        _verify(file, archive, report)
        unpack(file, root, report=report)
        if not archive.is_unpacked(root):
            raise ValueError(f"{file} was unpacked, but does not hold {archive.num_files} files {archive.pattern}")
        if delete_archives:
            file.unlink()
    return [archive.name for archive in missing]


def unpack(file: str | Path, root: str | Path, *, report: Report = report_nothing) -> None:
    """Unpack a zip file below ``root``. Members that already exist with the right size are skipped.

    Raises:
        ValueError: If the file is damaged or no zip file, or if a member is a link or its path leads outside ``root``;
            in the latter case nothing is written.
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
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, lzma.LZMAError) as error:
        raise ValueError(f"{file} must be a whole zip file: {error}; remove it and start again") from error


# --- fetching ------------------------------------------------------------------------------------------------------


def _check_space(archives: Sequence[Archive], root: Path) -> None:
    """Raise, before any download, if the disk has no room for the archives and their contents."""
    needed = sum(
        2 * archive.size - file_size(root / archive.name) - file_size(part_of(root / archive.name))
        for archive in archives
    )
    free = shutil.disk_usage(root).free
    if needed > free:
        raise OSError(
            f"{root} must have {needed / 1e9:.1f} GB free for the archives and their contents, "
            f"has {free / 1e9:.1f} GB; make room, or choose another folder"
        )


def _fetch(url: str, file: Path, archive: Archive, report: Report) -> None:
    """Download an archive, or the rest of it if an earlier attempt was interrupted."""
    if file.exists():  # another program began it and does not mark incomplete files
        os.replace(file, part_of(file))
    fetch(url, part_of(file), size=archive.size, name=archive.name, report=report)
    os.replace(part_of(file), file)


def _verify(file: Path, archive: Archive, report: Report) -> None:
    """Raise ValueError, and remove the file, if size or hash are wrong."""
    digest, done = hashlib.md5(usedforsecurity=False), 0
    with file.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
            done += len(chunk)
            report(f"checking {archive.name}", done, archive.size)
    if (done, digest.hexdigest()) != (archive.size, archive.md5):
        file.unlink()
        raise ValueError(
            f"{file} must have {archive.size:,} bytes and MD5 {archive.md5}, got {done:,} bytes and "
            f"{digest.hexdigest()}; it was removed, start again to download it anew"
        )


# --- unpacking -----------------------------------------------------------------------------------------------------


def _check_member(file: Path, member: zipfile.ZipInfo) -> None:
    path = PurePosixPath(member.filename.replace("\\", "/"))  # a separator on some systems
    if not path.parts or path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
        raise ValueError(f"{file}: member '{member.filename}' would leave the folder; nothing was unpacked")
    if member.flag_bits & 1:
        raise ValueError(
            f"{file}: member '{member.filename}' is encrypted; nothing was unpacked, get it without a password"
        )
    if stat.S_ISLNK(member.external_attr >> 16):
        raise ValueError(f"{file}: member '{member.filename}' is a link and may leave the folder; nothing was unpacked")


def _unpack_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, root: Path) -> None:
    target = root / member.filename
    if target.is_file() and target.stat().st_size == member.file_size:
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f"{target.name}.unpacking")
    with archive.open(member) as source, unfinished.open("wb") as out:
        shutil.copyfileobj(source, out, CHUNK)
    os.replace(unfinished, target)
