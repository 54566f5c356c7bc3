"""Files that commands write: checked before the work begins, JSON in one form, "-" for stdout."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

STDOUT = "-"


def prepare_output(path: str | Path) -> None:
    """Make the folder of a file that will be written, and fail now rather than after the work if it cannot be.

    Args:
        path: The file; "-", which is stdout, needs nothing.

    Raises:
        ValueError: If the path is a folder.
        PermissionError: If the file may not be written.
        OSError: If its folder cannot be made.
    """
    if str(path) == STDOUT:
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise ValueError(f"the output must be a file, got the folder {path}; name a file in it")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise PermissionError(f"{path} cannot be written: permission denied; choose another place")


def write_json(value: Any, path: str | Path, *, indent: int | None = None) -> None:
    """Write a value as JSON to a file, whose folder is made, or to stdout if ``path`` is "-".

    The text is UTF-8 in a file. Characters that the encoding of stdout lacks, and bytes of file names that are not
    UTF-8, are written as JSON escapes.

    Args:
        value: Dictionaries, lists, texts and numbers.
        path: The file, or "-".
        indent: Spaces of each level; None writes one line.

    Raises:
        OSError: If the file cannot be written.
    """
    if str(path) == STDOUT:
        sys.stdout.write(_json_text(value, sys.stdout.encoding or "ascii", indent))
        return
    prepare_output(path)
    Path(path).write_text(_json_text(value, "utf-8", indent), encoding="utf-8")


def _json_text(value: Any, encoding: str, indent: int | None) -> str:
    text = json.dumps(value, ensure_ascii=False, indent=indent) + "\n"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, ensure_ascii=True, indent=indent) + "\n"
    return text
