"""Every published EfficientDet file: names, address, claimed AP; brought here once, whole, and its hash checked."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import urlsplit

import torch
from filelock import FileLock

from effdet.download import CHUNK, fetch, file_size, is_reachable, part_of

logger = logging.getLogger(__name__)

EFFDET_URL = "https://github.com/rwightman/efficientdet-pytorch/releases/download/v0.1"
ZYLO_URL = "https://github.com/zylo117/Yet-Another-Efficient-Pytorch/releases/download"
GOOGLE_URL = "https://storage.googleapis.com/cloud-tpu-checkpoints/efficientdet"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """A file of COCO weights on the server of the project that made it."""

    name: str  # what from_pretrained takes, as the project itself calls the model
    variant: str  # name of the architecture
    family: str  # effdet, google or zylo
    url: str
    ap: float  # COCO AP on val2017 in percent, as claimed by the publisher
    file_name: str  # in the cache
    aliases: tuple[str, ...] = ()
    image_size: tuple[int, int] | None = None  # trained at another size than the variant's

    @property
    def sha256(self) -> str:
        """First digits of the file's SHA-256, which end its name; empty if the publisher does not tell it."""
        found = re.search(r"-([0-9a-f]{8})\.pth$", self.file_name)
        return found[1] if found else ""


def list_published() -> list[str]:
    """Return the names of all published files that ``from_pretrained`` can download."""
    return [file.name for file in PUBLISHED]


def find_published(name: str) -> PublishedFile | None:
    """Return the file with this name or alias, in upper or lower case; None if there is none."""
    return _BY_NAME.get(name.lower())


def find_by_file_name(file_name: str) -> PublishedFile | None:
    """Return the file that its publisher, or the cache, calls so; None if there is none."""
    for file in PUBLISHED:
        if file_name in (file.file_name, PurePosixPath(file.url).name):
            return file
    return None


def cache_path(file: PublishedFile) -> Path:
    """Return where the file lies once it is downloaded: the folder of torch's hub, which other projects use too."""
    return Path(torch.hub.get_dir()) / "checkpoints" / file.file_name


def local_file(file: PublishedFile) -> Path:
    """Return the file on this machine; download it if it is not here yet.

    Raises:
        FileNotFoundError: If it is not here and its server cannot be reached; the message says what to put where.
        OSError: If the download fails; what came is kept and the next attempt goes on with it.
        ValueError: If what came has another hash.
    """
    path = cache_path(file)
    if _is_intact(path, file):
        return path
    address = urlsplit(file.url)
    if not is_reachable(f"{address.scheme}://{address.netloc}/"):
        state = "is damaged" if path.is_file() else "is not in the cache"
        raise FileNotFoundError(
            f"{path} {state} and {address.netloc} cannot be reached: download {file.url} elsewhere and put it there, "
            f"or give the file's path instead of '{file.name}'"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{path}.lock"):  # the processes of a distributed run ask at the same time
        if not _is_intact(path, file):
            _download(file, path)
    return path


def _is_intact(path: Path, file: PublishedFile) -> bool:
    if not path.is_file():
        return False
    if not file.sha256 or _hash(path).startswith(file.sha256):
        return True
    logger.warning("%s is damaged: its SHA-256 does not start with %s; it is downloaded again", path, file.sha256)
    return False


def _download(file: PublishedFile, path: Path) -> None:
    """Download to the file's temporary name, check it, and give it its own name in one step."""
    part = part_of(path)
    logger.info("downloading %s to %s", file.url, path)
    fetch(file.url, part, name=file.file_name)
    digest = _hash(part)
    if not digest.startswith(file.sha256):
        part.unlink()
        raise ValueError(
            f"{file.url} must have a SHA-256 that starts with {file.sha256}, but what came has {digest[:8]}; "
            "it was removed, start again to download it anew"
        )
    if not file.sha256:
        logger.info("the publisher tells no hash of %s; its SHA-256 is %s", file.file_name, digest)
    os.replace(part, path)
    logger.info("downloaded %s, %.1f MB", path, file_size(path) / 1e6)


def _hash(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as opened:
        while chunk := opened.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


# -- the table -------------------------------------------------------------------------------------------------------


def _effdet(variant: str, file: str, ap: float, *aliases: str) -> PublishedFile:
    return PublishedFile(
        name=variant,
        variant=variant,
        family="effdet",
        url=f"{EFFDET_URL}/{file}.pth",
        ap=ap,
        file_name=f"{file}.pth",
        aliases=aliases,
    )


def _zylo(number: int, release: str, ap: float) -> PublishedFile:
    name = f"efficientdet-d{number}"
    return PublishedFile(
        name=name,
        variant=name,
        family="zylo",
        url=f"{ZYLO_URL}/{release}/{name}.pth",
        ap=ap,
        file_name=f"{name}.pth",
    )


def _google(variant: str, path: str, ap: float, *, side: int | None = None) -> PublishedFile:
    name = f"google/{re.sub(r'[.](tar[.]gz|tgz)$', '', path)}"
    return PublishedFile(
        name=name,
        variant=variant,
        family="google",
        url=f"{GOOGLE_URL}/{path}",
        ap=ap,
        file_name=f"google-{path.replace('/', '-')}",
        image_size=None if side is None else (side, side),
    )


# The short names d0 … lite4 mean the files of the project effdet, because they are the original weights, small, and
# have a hash: ``tf_`` files are converted from google's. Other spellings of a name lead to the same file as long as
# no project uses them for a file of its own.
_EFFDET = (
    _effdet("efficientdet_d0", "efficientdet_d0-f3276ba8", 33.6),
    _effdet("efficientdet_d1", "efficientdet_d1-bb7e98fe", 39.4),
    _effdet("efficientdet_q0", "efficientdet_q0-bdf1bdb5", 35.7),
    _effdet("efficientdet_q1", "efficientdet_q1b-d0612140", 40.9),
    _effdet("efficientdet_q2", "efficientdet_q2-0f7564e5", 43.1),
    _effdet("efficientdetv2_dt", "efficientdetv2_rw_dt_agc-ad8b8c96", 46.1),
    _effdet("efficientdetv2_ds", "efficientnetv2_rw_ds_agc-cf589293", 50.1),
    _effdet("resdet50", "resdet50_416-08676892", 41.6),
    _effdet("cspresdet50", "cspresdet50b-386da277", 43.2),
    _effdet("cspresdext50pan", "cspresdext50pan-92fdd094", 41.2),
    _effdet("cspdarkdet53m", "cspdarkdet53m-79062b2d", 45.2),
    _effdet("tf_efficientdet_d0", "tf_efficientdet_d0_34-f153e0cf", 34.2, "d0"),
    _effdet("tf_efficientdet_d1", "tf_efficientdet_d1_40-a30f94af", 40.1, "d1"),
    _effdet("tf_efficientdet_d2", "tf_efficientdet_d2_43-8107aa99", 43.4, "d2"),
    _effdet("tf_efficientdet_d3", "tf_efficientdet_d3_47-0b525f35", 47.1, "d3"),
    _effdet("tf_efficientdet_d4", "tf_efficientdet_d4_49-f56376d9", 49.2, "d4"),
    _effdet("tf_efficientdet_d5", "tf_efficientdet_d5_51-c79f9be6", 51.2, "d5"),
    _effdet("tf_efficientdet_d6", "tf_efficientdet_d6_52-4eda3773", 52.0, "d6", "efficientdet_d6"),
    _effdet("tf_efficientdet_d7", "tf_efficientdet_d7_53-6d1d7a95", 53.1, "d7", "efficientdet_d7"),
    _effdet("tf_efficientdet_d7x", "tf_efficientdet_d7x-f390b87c", 54.3, "d7x", "efficientdet_d7x", "efficientdet-d7x"),
    _effdet("tf_efficientdet_d0_ap", "tf_efficientdet_d0_ap-d0cdbd0a", 34.8, "d0_ap"),
    _effdet("tf_efficientdet_d1_ap", "tf_efficientdet_d1_ap-7721d075", 40.8, "d1_ap"),
    _effdet("tf_efficientdet_d2_ap", "tf_efficientdet_d2_ap-a2995c19", 44.2, "d2_ap"),
    _effdet("tf_efficientdet_d3_ap", "tf_efficientdet_d3_ap-e4a2feab", 47.7, "d3_ap"),
    _effdet("tf_efficientdet_d4_ap", "tf_efficientdet_d4_ap-f601a5fc", 50.2, "d4_ap"),
    _effdet("tf_efficientdet_d5_ap", "tf_efficientdet_d5_ap-3673ae5d", 52.1, "d5_ap"),
    *(
        _effdet(f"tf_efficientdet_{lite}", f"tf_efficientdet_{lite}-{digits}", ap, lite, f"efficientdet-{lite}")
        for lite, digits, ap in (
            ("lite0", "dfacfc78", 27.1),
            ("lite1", "6dc7ab30", 32.2),
            ("lite2", "86c5d55b", 35.9),
            ("lite3", "506852cb", 39.6),
            ("lite3x", "8404c57b", 43.6),
            ("lite4", "391ddabc", 44.2),
        )
    ),
)

_ZYLO = (
    *(_zylo(number, "1.0", ap) for number, ap in enumerate((33.1, 38.8, 42.1, 45.6, 48.8, 50.2, 50.7))),
    _zylo(7, "1.2", 52.7),
    _zylo(8, "1.2", 53.9),
)

_D_NAMES = ("d0", "d1", "d2", "d3", "d4", "d5", "d6", "d7", "d7x")
_GOOGLE = (
    *(
        _google(name, f"coco2/efficientdet-{name}.tar.gz", ap)
        for name, ap in zip(_D_NAMES, (34.3, 40.2, 43.5, 46.8, 49.3, 51.2, 52.1, 53.4, 54.4), strict=True)
    ),
    *(
        _google(f"{name}_ap", f"advprop/efficientdet-{name}.tar.gz", ap)
        for name, ap in zip(_D_NAMES, (35.1, 40.8, 44.3, 47.7, 50.4, 52.2), strict=False)
    ),
    *(
        _google(f"d{number}", f"coco640/efficientdet-d{number}-640.tar.gz", ap, side=640)
        for number, ap in enumerate((41.7, 44.0, 45.7, 46.6, 47.9), start=2)
    ),
    *(
        _google(name, f"coco/efficientdet-{name}.tgz", ap)
        for name, ap in (("lite0", 26.41), ("lite1", 31.5), ("lite2", 35.06), ("lite3", 38.77), ("lite4", 43.18))
    ),
)

PUBLISHED: tuple[PublishedFile, ...] = (*_EFFDET, *_ZYLO, *_GOOGLE)


_BY_NAME = {name: file for file in PUBLISHED for name in (file.name, *file.aliases)}
