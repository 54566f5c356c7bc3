"""Read a ``.tflite`` file: the bytes of the model, and the files in the zip behind it."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from effdet.deployment.tflite.graph import IDENTIFIER
from effdet.deployment.tflite.metadata import CHECKSUM, DESCRIPTION, checksum

_LARGEST_TEXT = 1 << 24  # bytes of a label file or description; a zip may promise any number


@dataclass(frozen=True)
class Contents:
    """What lies in a file."""

    data: bytes
    files: dict[str, str]  # texts by name
    is_intact: bool  # whether a checksum shows that the model is as this package wrote it

    @property
    def description(self) -> str | None:
        """The description of this package; None in files of others."""
        return self.files.get(DESCRIPTION)


def read_contents(file: str | Path | bytes) -> Contents:
    """Return what lies in a ``.tflite`` file, or in its bytes.

    Raises:
        ValueError: If it is none, or is damaged.
    """
    data = file if isinstance(file, bytes) else Path(file).read_bytes()
    if data[4:8] != IDENTIFIER:
        raise ValueError(f"bytes 4 to 8 must be {IDENTIFIER.decode()}, got {data[4:8]!r}")
    files, length = _zipped_texts(data)
    expected = files.get(CHECKSUM)
    if expected is not None and checksum(data[:length]) != expected:
        raise ValueError("it was changed or damaged after it was exported, as its checksum shows; export it again")
    return Contents(data, files, is_intact=expected is not None)


def _zipped_texts(data: bytes) -> tuple[dict[str, str], int]:
    """Return the texts in the zip behind a model, and where the model ends; where there is no zip, none and the end."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [entry for entry in archive.infolist() if entry.file_size <= _LARGEST_TEXT]
            files = {entry.filename: archive.read(entry).decode("utf-8", "replace") for entry in entries}
            return files, min((entry.header_offset for entry in archive.infolist()), default=len(data))
    except zipfile.BadZipFile:
        return {}, len(data)
    except (OSError, EOFError, ValueError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ValueError(f"the labels and the description behind the model are damaged: {error}") from error
