"""Tensors out of any source of weights: files of several formats, folders, published names, repositories of the hub.

The kind of a file follows from its first bytes, not from its name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from torch import Tensor

from effdet.weights import hub, tensorflow
from effdet.weights.limits import MAX_TEXT, parse_json, short
from effdet.weights.own_format import CONFIG, WEIGHTS, read_safetensors
from effdet.weights.pickles import read_state
from effdet.weights.published_files import PublishedFile, find_by_file_name, find_published, list_published, local_file

KINDS = (
    ".safetensors, .pth, .pt, .pth.tar or .ckpt file, a TensorFlow checkpoint, a folder with config.json and "
    "model.safetensors, hf-hub:OWNER/NAME, or the name of a published file such as d0"
)

_EXPORTED = (".onnx", ".xml", ".pt2")
_OF_TENSORFLOW = re.compile(r"\.(?:index|meta|data-\d{5}-of-\d{5})$")


@dataclass(frozen=True)
class Source:
    """What lies in a source of weights."""

    where: str  # for people
    tensors: dict[str, Tensor]  # by the names of the file
    hint: str = ""  # what the source calls its model, or itself
    description: Any = None  # what save_pretrained wrote; not checked
    config: Mapping[str, Any] = field(default_factory=dict)  # config.json of another project's folder
    published: PublishedFile | None = None  # the source was a published file's name


def read_source(source: str | Path) -> Source:
    """Read the tensors of a source.

    Args:
        source: A file, a folder, the prefix of a TensorFlow checkpoint, ``hf-hub:OWNER/NAME``, or a published name.

    Raises:
        FileNotFoundError: If there is nothing of that name, or it cannot be downloaded.
        ValueError: If it is damaged, or no weights.
    """
    name = str(source)
    if name.startswith(hub.SCHEMES):
        return replace(read_folder(hub.download(name)), where=name)
    path = Path(source).expanduser()
    if path.is_file():
        return read_file(path)
    published = find_published(name)
    if published is not None:
        found = read_file(local_file(published))
        return replace(found, where=f"{name} ({published.file_name})", hint=published.variant, published=published)
    if path.is_dir():
        return read_folder(path)
    if tensorflow.is_checkpoint(path):
        return _read_tensorflow(path)
    raise FileNotFoundError(_nothing_there(path))


def read_file(path: Path) -> Source:
    """Read the tensors of one file, whatever its format.

    Raises:
        ValueError: If it is damaged, or no weights; the message says what it is.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if _OF_TENSORFLOW.search(path.name):
        return _read_tensorflow(path)
    if path.suffix in _EXPORTED:
        raise ValueError(f"{path} is an exported model, without weights to load; run it with effdet.load('{path}')")
    if _is_safetensors(head, path.stat().st_size):  # first: its first byte may be any multiple of 8, as a pickle's is
        tensors, description = read_safetensors(path)
        return Source(str(path), tensors, path.name, description)
    if head.startswith((b"PK\x03\x04", b"\x80")):  # torch.save today, and before torch 1.6
        saved = read_state(path)
        if saved.is_run and saved.description is None:
            raise ValueError(
                f"{path} is what a run needs to go on, without the input size and class names of its model; "
                f"take {path.with_name('best.safetensors')}"
            )
        where = f"{path} ({saved.part})" if saved.part else str(path)
        return Source(where, saved.tensors, saved.arch or path.name, saved.description)
    if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar":  # gzip, tar
        return _read_tensorflow(path)
    raise ValueError(f"{path} holds no weights: {_what_it_is(head)}")


def read_folder(path: Path) -> Source:
    """Read the tensors of a folder: of timm's and the hub's style, of a run, or of a TensorFlow checkpoint.

    Raises:
        ValueError: If it holds no weights, or its config.json is none.
    """
    for name in (WEIGHTS, hub.PICKLED_WEIGHTS, "best.safetensors"):
        if (path / name).is_file():
            found, config = read_file(path / name), _read_config(path / CONFIG)
            hint = config.get("architecture") or path.name
            description = config.get("effdet") if found.description is None else found.description
            return replace(found, hint=short(hint), config=config, description=description)
    if tensorflow.is_checkpoint(path):
        return _read_tensorflow(path)
    files = sorted(item.name for item in path.iterdir())
    raise ValueError(
        f"folder {path} must hold {WEIGHTS}, best.safetensors (a run) or a TensorFlow checkpoint; "
        f"it holds {', '.join(files[:6]) or 'nothing'}{', …' if len(files) > 6 else ''}"
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > MAX_TEXT:
        raise ValueError(f"{path} must have {MAX_TEXT:,} bytes or less, got {path.stat().st_size:,}")
    config = parse_json(path.read_bytes(), str(path))
    if not isinstance(config, dict):
        raise ValueError(f"{path} must be a JSON object, got {type(config).__name__}")
    return config


def _read_tensorflow(path: Path) -> Source:
    return Source(str(path), tensorflow.read_checkpoint(path), "/".join(path.parts[-3:]))


def _is_safetensors(head: bytes, size: int) -> bool:
    """Return whether a file begins as a .safetensors: eight bytes with the length of a header, which is JSON."""
    return head[8:9] == b"{" and 8 + int.from_bytes(head[:8], "little") <= max(size, 100_000_000)


def _what_it_is(head: bytes) -> str:
    """Return what a file with these first bytes seems to be."""
    start = head.lstrip().lower()
    if not head:
        return "it is empty; copy or download it again"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "it is a web page, saved in place of the file; download it again, and look whether the link still works"
    if start.startswith(b"version https://git-lfs"):
        return "it is a pointer of Git LFS; fetch the file itself with `git lfs pull`"
    if head.startswith(b"\x89HDF"):
        return "it is a Keras .h5 file; take the TensorFlow checkpoint (.tar.gz) that is published beside it"
    if not any(head):
        return "it begins with zeros, so its download was interrupted"
    return f"its first bytes, {head[:8]!r}, are those of no known format, so it is damaged or something else"


def _nothing_there(path: Path) -> str:
    published = find_by_file_name(path.name)
    if published is not None:
        return (
            f"weights {path} do not exist; this file is published: from_pretrained('{published.name}') brings it from "
            f"{published.url}"
        )
    near = get_close_matches(str(path), list_published(), n=1, cutoff=0.7)
    hint = f" did you mean '{near[0]}'?" if near else ""
    return f"weights {path} do not exist;{hint} they must be a {KINDS}"
