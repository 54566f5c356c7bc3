"""Images inside of tar archives, which annotations name ``ARCHIVE.tar/MEMBER``, and where in the archive they are."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from effdet.data.dependencies import note
from effdet.data.files import resolve_name
from effdet.data.findings import DataError
from effdet.data.text_column import TextColumn
from effdet.images.remote_files import address_of, open_file_system
from effdet.images.stored import StoredImage

SUFFIX = ".tar"
NO_SPAN = (-1, -1)  # of an image that is a file of its own, or in no archive


class Member(NamedTuple):
    """A file in an archive."""

    name: str
    start: int  # in bytes
    length: int


def split_name(name: str) -> tuple[str, str] | None:
    """Return the archive and the member that a name means; None if it is no such name."""
    archive, slash, member = name.partition(f"{SUFFIX}/")
    return (archive + SUFFIX, member) if slash and member else None


def has_members(names: TextColumn) -> bool:
    """Return whether any of the names is that of a member of an archive."""
    return f"{SUFFIX}/".encode() in names.blob.tobytes()


def list_members(archive: Path) -> Iterator[Member]:
    """Yield the regular files of a tar archive in their order. Nothing is unpacked.

    Raises:
        DataError: If it cannot be read, is damaged or compressed.
    """
    note(archive)
    if not archive.is_file():
        raise DataError(f"archive {archive} {'is no file' if archive.exists() else 'does not exist'}")
    try:
        with _open(archive) as file, tarfile.open(fileobj=file, mode="r:") as tar:
            for entry in tar:
                if entry.isreg() and not entry.issparse():
                    yield Member(entry.name, entry.offset_data, entry.size)
                tar.members.clear()  # type: ignore[attr-defined]  # or it would hold a million of them
    except (tarfile.TarError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{archive}: must be a tar archive without compression: {error}") from error


def _open(archive: Path) -> Any:
    address = address_of(archive)
    if address is None:
        return archive.open("rb")
    system, path = open_file_system(address)
    return system.open(path, "rb")


def find_spans(
    folder: Path, names: TextColumn, given: NDArray[np.int64] | None, sizes: Mapping[str, int]
) -> NDArray[np.int64] | None:
    """Return where in its archive each image is.

    Args:
        folder: That the names are relative to.
        names: Of the images.
        given: (I, 2) start and length as an index tells them, -1 where it does not; None: no index.
        sizes: The bytes of each archive that the index was made for. An archive of another size is searched instead.

    Returns:
        (I, 2) start and length in bytes, -1 for images that are in no archive; None if none is.

    Raises:
        DataError: If an archive cannot be read.
    """
    if not has_members(names):
        return None
    spans = np.full((len(names), 2), -1, np.int64)
    places: dict[str, list[int]] = {}
    for index, name in enumerate(names):
        if parts := split_name(name):
            places.setdefault(parts[0], []).append(index)
    for archive, indices in places.items():
        path = resolve_name(folder, archive)
        note(path)
        members = [names[index] for index in indices]
        if given is not None and _is_right(path, members, given[indices], sizes.get(archive)):
            spans[indices] = given[indices]
        else:
            span_of = {member.name: (member.start, member.length) for member in list_members(path)}
            spans[indices] = [span_of.get((split_name(name) or ("", ""))[1], NO_SPAN) for name in members]
    return spans


def _is_right(path: Path, names: list[str], given: NDArray[np.int64], size: int | None) -> bool:
    """Return whether an index fits an archive: its size, and the headers of three members."""
    if not path.is_file() or path.stat().st_size != size or (given < 0).any():
        return False
    for place in {0, len(names) // 2, len(names) - 1}:
        start, length = given[place].tolist()
        if start < tarfile.BLOCKSIZE or start + length > size:
            return False
        header = StoredImage(path, names[place], start - tarfile.BLOCKSIZE, tarfile.BLOCKSIZE).read_bytes()
        try:
            entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError:
            return False
        if (entry.name, entry.size) != ((split_name(names[place]) or ("", ""))[1], length):
            return False
    return True


def stored_image(folder: Path, name: str, spans: NDArray[np.int64] | None, index: int) -> StoredImage:
    """Return where image number ``index``, called ``name``, is; ``spans`` are those of ``find_spans``."""
    parts = split_name(name) if spans is not None and spans[index, 0] >= 0 else None
    if spans is None or parts is None:
        return StoredImage.in_file(resolve_name(folder, name))
    path = resolve_name(folder, parts[0])
    return StoredImage(path, f"{address_of(path) or path}/{parts[1]}", int(spans[index, 0]), int(spans[index, 1]))


def archive_sizes(content: Any) -> dict[str, int]:
    """Return the bytes of each archive, by name, as the index in a COCO file tells them."""
    rows = content if isinstance(content, list) else []
    return {
        str(row.get("file_name")): row["bytes"]
        for row in rows
        if isinstance(row, dict) and isinstance(row.get("bytes"), int)
    }
