"""Learn what libjpeg says about a file: OpenCV returns the picture of a damaged JPEG without an error.

libjpeg fills what it cannot decode and writes one line to the stderr of the process, which names no file. Here that
line is caught while a JPEG is decoded. It costs about ten system calls an image.
"""

from __future__ import annotations

import contextlib
import os
import re
import tempfile
import threading
from collections.abc import Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

_STDERR = 2
_LINES = re.compile(  # all warnings of libjpeg that a decoder can meet
    r"Corrupt JPEG data: .*|Premature end of JPEG file|Invalid SOS parameters .*|Inconsistent progression sequence .*"
    r"|Unknown Adobe color transform .*|Warning: unknown JFIF revision .*"
)
_DAMAGE = re.compile(
    r"Corrupt JPEG data: (premature end of data segment|bad Huffman code|found marker .* instead of .*)"
    r"|Premature end of JPEG file"
)
_EXTRANEOUS = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0x([0-9a-f]{2})")
_AFTER_PIXELS = {0xC4, 0xDA, *range(0xD0, 0xD8)}  # markers between the parts of the pixel data
_END = 0xD9

# One image at a time: the stderr of a process is one for all its threads. No process is forked meanwhile, as the child
# would keep the redirected stderr.
_lock = threading.Lock()
_log_lock = threading.Lock()
_quiet_blocks, _log_level = 0, 0
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)


@contextlib.contextmanager
def jpeg_messages() -> Iterator[list[str]]:
    """Catch what libjpeg writes to stderr inside the block; the list has its lines after the block.

    What other threads write meanwhile reaches stderr after the block. Without a stderr nothing is caught.
    """
    messages: list[str] = []
    with _lock:
        try:
            saved = os.dup(_STDERR)
        except OSError:  # closed, as in a daemon
            yield messages
            return
        caught = _unnamed_file()
        os.dup2(caught, _STDERR)
        try:
            yield messages
        finally:
            os.dup2(saved, _STDERR)
            os.close(saved)
            text = os.pread(caught, os.fstat(caught).st_size, 0) if os.fstat(caught).st_size else b""
            os.close(caught)
            if text:
                _sort(text, messages)


@contextlib.contextmanager
def quiet_opencv() -> Iterator[None]:
    """Let OpenCV log nothing inside the block; what it cannot decode becomes an error that names the file.

    Several threads may be inside at once.
    """
    global _quiet_blocks, _log_level
    with _log_lock:
        if _quiet_blocks == 0:
            _log_level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
        _quiet_blocks += 1
    try:
        yield
    finally:
        with _log_lock:
            _quiet_blocks -= 1
            if _quiet_blocks == 0:
                cv2.utils.logging.setLogLevel(_log_level)


def _unnamed_file() -> int:
    if hasattr(os, "memfd_create"):
        return os.memfd_create("stderr")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _sort(text: bytes, messages: list[str]) -> None:
    """Keep the lines of libjpeg, and give the others to stderr."""
    for line in text.splitlines(keepends=True):
        decoded = line.decode("utf-8", "replace").strip()
        if _LINES.fullmatch(decoded):
            messages.append(decoded)
        else:
            with contextlib.suppress(OSError):
                os.write(_STDERR, line)


def damage(messages: list[str], data: NDArray[np.uint8]) -> str | None:
    """Return what libjpeg found damaged in the pixels of a JPEG; None if they are whole.

    Bytes too many in front of the end marker are damage, unless they are all the same: some cameras pad their files.
    Those in front of a marker of the header harm no pixel.

    Args:
        messages: What libjpeg said.
        data: (L,) the file.
    """
    for message in messages:
        if _DAMAGE.fullmatch(message):
            return message.removeprefix("Corrupt JPEG data: ").replace("Premature end", "premature end")
        extraneous = _EXTRANEOUS.fullmatch(message)
        if extraneous is None:
            continue
        count, marker = int(extraneous[1]), int(extraneous[2], 16)
        if marker in _AFTER_PIXELS or (marker == _END and not _is_padding(data, count)):
            return message.removeprefix("Corrupt JPEG data: ")
    return None


def _is_padding(data: NDArray[np.uint8], count: int) -> bool:
    end = data.tobytes().rfind(b"\xff\xd9")
    return len(set(data[max(0, end - count) : end].tolist())) <= 1
