"""All images that sources mean, in one order that every process finds: files, members of archives, addresses."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from effdet.data.archives import SUFFIX, list_members
from effdet.data.findings import DataError
from effdet.data.image_lists import list_images
from effdet.data.remote import to_local
from effdet.images.addresses import Address
from effdet.images.faults import ImageError
from effdet.images.file_types import IMAGE_SUFFIXES, is_image
from effdet.images.reading import EncodedImage
from effdet.images.remote_files import is_address
from effdet.images.sources import find_files
from effdet.images.stored import StoredImage

_LISTS = {".txt", ".list"}  # suffixes of files with one source in each line


class ListedImage(NamedTuple):
    """One image of a listing; it is opened when it is read."""

    name: str  # each once
    place: StoredImage | str  # where it is; or a web address

    def source(self) -> StoredImage | EncodedImage:
        """Return what readers of images take.

        Raises:
            ImageError: If an address cannot be read.
        """
        return self.place if isinstance(self.place, StoredImage) else Address(self.place).read()


def list_sources(sources: Iterable[str | Path], fail: Callable[[str], None]) -> list[ListedImage]:
    """Return the images of all sources, each once.

    Args:
        sources: Image files; folders, of which sub-folders are left out; glob patterns; tar archives; folders at an
            address that fsspec knows; addresses of images; text files (.txt, .list) with one of these in each line.
        fail: Is called with one sentence for each source that means nothing.
    """
    found: dict[str, ListedImage] = {}
    for source in sources:
        try:
            for image in _list(str(source)):
                found.setdefault(image.name, image)
        except (OSError, ImageError, DataError, ValueError) as error:
            fail(str(error))
    return list(found.values())


def _list(source: str, *, in_list: bool = False) -> Iterator[ListedImage]:
    if is_address(source):
        yield from _list_address(source)
    elif Path(source).suffix.lower() in _LISTS and Path(source).is_file() and not in_list:
        for line in Path(source).read_text(encoding="utf-8").splitlines():
            if line.strip():
                yield from _list(line.strip(), in_list=True)
    elif Path(source).suffix == SUFFIX and Path(source).is_file():
        yield from _members(Path(source))
    elif Path(source).is_dir() and (archives := sorted(Path(source).glob(f"*{SUFFIX}"))):
        for archive in archives:
            yield from _members(archive)
        yield from (_file(path) for path in sorted(Path(source).iterdir()) if is_image(path))
    else:
        archives = sorted(Path().glob(source)) if source.endswith(SUFFIX) and not Path(source).is_absolute() else []
        for path in archives or find_files(source):
            yield from _members(path) if path.suffix == SUFFIX else [_file(path)]


def _list_address(address: str) -> Iterator[ListedImage]:
    if Path(address).suffix.lower() in IMAGE_SUFFIXES and address.startswith(("http://", "https://")):
        yield ListedImage(address, address)
        return
    place = to_local(address)
    if place.suffix == SUFFIX:
        yield from _members(place)
        return
    for archive in sorted(place.rglob(f"*{SUFFIX}")):
        yield from _members(archive)
    yield from (_file(place / name) for name in list_images(place))


def _file(path: Path) -> ListedImage:
    stored = StoredImage.in_file(path)
    return ListedImage(stored.name, stored)


def _members(archive: Path) -> Iterator[ListedImage]:
    whole = StoredImage.in_file(archive)
    for name, start, length in list_members(archive):
        if Path(name).suffix.lower() in IMAGE_SUFFIXES:
            stored = StoredImage(archive, f"{whole.name}/{name}", start, length)
            yield ListedImage(stored.name, stored)
