"""Read the text, JSON and XML files that annotation tools write, in any encoding, or say in one sentence why not."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from effdet.data.dependencies import note
from effdet.data.findings import DataError, FindingList
from effdet.data.formats.values import short

_BYTE_ORDER_MARKS = (  # longest first: UTF-32's begins as UTF-16's does
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CLASS_FILES = ("classes.txt", "labels.txt", "labelmap.txt", "obj.names", "predefined_classes.txt")
_NUMBERED = {"classes.txt", "obj.names", "predefined_classes.txt"}  # whose line numbers are the classes of YOLO labels
_NO_CLASSES = {"__ignore__", "_background_", "background"}  # first lines of LabelMe's and CVAT's lists


def read_bytes(path: Path) -> bytes:
    """Return the content of an annotation file.

    Raises:
        DataError: If there is no such file, or it cannot be read.
    """
    note(path)
    if path.exists() and not path.is_file():  # opening a named pipe would wait for ever
        raise DataError(f"{path}: cannot be read: it is no file")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise DataError(f"annotation file {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error


def read_text(path: Path, findings: FindingList) -> str:
    """Return the text of a file in UTF-8, UTF-16 or UTF-32 with a byte order mark, or else Windows-1252.

    Raises:
        DataError: If it cannot be read, or is no text.
    """
    return decode(read_bytes(path), path, findings)


def decode(content: bytes, path: Path, findings: FindingList) -> str:
    """Return the text in the bytes of a file; see ``read_text``."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0" if encoding != "utf-8" else content.decode("cp1252", errors="replace")
        if "\0" not in text:
            findings.add("note", "files are not UTF-8", path.name, "they are read as Windows-1252")
    if "\0" in text:
        raise DataError(f"{path}: must be text, but it holds bytes that are not text")
    return text


def read_json(path: Path, findings: FindingList, what: str = "JSON") -> Any:
    """Return what a JSON file holds.

    Args:
        path: The file.
        findings: Takes a note about its encoding.
        what: What it must be, for messages.

    Raises:
        DataError: If it cannot be read or is not JSON.
    """
    content = read_bytes(path)
    try:
        try:
            return _parsed(content, findings)
        except UnicodeDecodeError:
            return _parsed(decode(content, path, findings), findings)
    except RecursionError:
        raise DataError(f"{path}: must be {what}, but its lists and objects are nested too deeply") from None
    except DataError:
        raise DataError(f"{path}: is not valid JSON: it holds bytes that are not text") from None
    except ValueError as error:
        raise DataError(f"{path}: is not valid JSON: {error}") from error


def _parsed(text: str | bytes, findings: FindingList) -> Any:
    """Return what a JSON text holds; of a key that an object has twice the last counts, which is an error."""

    def without_repeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values = dict(pairs)
        if len(values) < len(pairs):
            seen: set[str] = set()
            for key, _ in pairs:
                if key in seen:
                    findings.add("error", "keys are given twice in one object", short(key), "keep one of each")
                seen.add(key)
        return values

    return json.loads(text, object_pairs_hook=without_repeated)


def read_xml(path: Path, findings: FindingList) -> ElementTree.Element:
    """Return the root element of an XML file.

    Raises:
        DataError: If it cannot be read, is not XML, or defines entities, which no annotation tool does.
    """
    content = read_bytes(path)
    if b"<!ENTITY" in content:
        raise DataError(f"{path}: must hold annotations, but it defines XML entities")
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        fault = error
    try:  # an encoding that is not the declared one
        if not content.isascii():
            text = decode(content, path, findings)
            return ElementTree.fromstring(text.partition("?>")[2] if text.startswith("<?xml") else text)
    except (ElementTree.ParseError, ValueError):
        pass
    raise DataError(f"{path}: is not valid XML: {fault}")


def read_class_list(folders: Iterable[Path], findings: FindingList) -> tuple[str, ...]:
    """Return the class names in a file that labelling tools write, such as classes.txt; empty if no folder has one.

    ``labelmap.txt`` of CVAT has lines such as ``cat:255,0,0::``; the name stands before the colon.
    """
    file = _class_file(folders)
    if file is None:
        return ()
    names = [line for line in _class_lines(file, findings) if line and line not in _NO_CLASSES]
    return tuple(dict.fromkeys(names)) if file.name != "classes.txt" else tuple(names)


def read_numbered_classes(folders: Iterable[Path], findings: FindingList) -> dict[int, str]:
    """Return the class names of such a file by their numbers in YOLO labels; empty if no folder has one.

    In ``classes.txt`` and ``obj.names`` the number is that of the line, also where a line before it is empty or reads
    "background". ``labels.txt`` and ``labelmap.txt`` belong to other formats, so there the names alone count.
    """
    file = _class_file(folders)
    if file is None:
        return {}
    if file.name not in _NUMBERED:
        return dict(enumerate(read_class_list([file.parent], findings)))
    return {number: line for number, line in enumerate(_class_lines(file, findings)) if line}


def _class_file(folders: Iterable[Path]) -> Path | None:
    files = (folder / name for folder in folders for name in _CLASS_FILES)
    return next((file for file in files if file.is_file()), None)


def _class_lines(file: Path, findings: FindingList) -> list[str]:
    lines = [line.strip() for line in read_text(file, findings).splitlines()]
    if file.name == "labelmap.txt":
        lines = [line.split(":")[0] for line in lines if not line.startswith("#")]
    return lines


def head(path: Path, size: int = 65536) -> str:
    """Return the beginning of a text file, to see what it is; empty where it cannot be read."""
    note(path)
    try:
        if not path.is_file():
            return ""
        with path.open("rb") as file:
            content = file.read(size)
    except OSError:
        return ""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS if content.startswith(mark)), "utf-8")
    return content.decode(encoding, errors="ignore").lstrip("\ufeff \t\r\n")


def kind_of_json(path: Path) -> str:
    """Return which format a JSON file looks like: "labelme", "label-studio", or "coco" for anything else."""
    text = head(path)
    if text.startswith("[") and any(f'"{key}"' in text for key in ("data", "result", "image", "completions")):
        return "label-studio"
    is_labelme = text.startswith("{") and '"shapes"' in text and '"images"' not in text
    return "labelme" if is_labelme else "coco"


def kind_of_xml(path: Path) -> str:
    """Return which format an XML file looks like: "voc", "cvat", or "" for neither."""
    text = head(path, 4096)
    root = re.search(r"<(annotations?)[\s>/]", text)
    return {"annotation": "voc", "annotations": "cvat"}[root[1]] if root else ""
