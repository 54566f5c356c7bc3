"""Sources that are no files: images and videos of the web, RTSP streams, webcams."""

from __future__ import annotations

import http.client
import re
import time
import urllib.request
from pathlib import PurePosixPath
from typing import NamedTuple
from urllib.parse import quote, urlsplit

import numpy as np

from effdet.images.faults import ImageError
from effdet.images.file_types import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from effdet.images.reading import EncodedImage

MAX_BYTES = 1 << 29  # of an image of the web
_PATIENCE = 30.0  # seconds without a byte
_DEADLINE = 600.0  # seconds for a whole image
_CHUNK = 1 << 20

_WEB = ("http", "https")
_STREAMS = ("rtsp", "rtsps", "rtmp", "rtmps", "srt", "udp", "rtp", "tcp")
_PLAYLISTS = {".m3u8", ".mpd"}
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]+)://")
_WEBCAM = re.compile(r"webcam:(?P<number>\d{1,3})")


class Address(NamedTuple):
    """An image or video that is no file."""

    url: str  # http(s)://…, rtsp://… and other streams, or webcam:0

    @property
    def webcam(self) -> int | None:
        """The number of the webcam; None where it is none."""
        match = _WEBCAM.fullmatch(self.url)
        return None if match is None else int(match["number"])

    @property
    def file_name(self) -> PurePosixPath:
        """A name for files that are made from it: the last part of the path, else the host."""
        parts = urlsplit(self.url)
        name = PurePosixPath(parts.path).name or parts.hostname or self.url
        return PurePosixPath(re.sub(r"[^\w.-]", "_", name))

    def is_video(self) -> bool:
        """Return whether frames come from it; of a web address whose ending does not say so, the server is asked.

        Raises:
            ImageError: If the server cannot be asked.
        """
        scheme = urlsplit(self.url).scheme.lower()
        if self.webcam is not None or scheme in _STREAMS:
            return True
        suffix = self.file_name.suffix.lower()
        if suffix in IMAGE_SUFFIXES | VIDEO_SUFFIXES | _PLAYLISTS:
            return suffix not in IMAGE_SUFFIXES
        with _opened(self.url) as response:
            return not response.headers.get_content_type().startswith(("image/", "application/octet-stream"))

    def read(self) -> EncodedImage:
        """Return the bytes of an image of the web.

        Raises:
            ImageError: If it cannot be downloaded, is larger than ``MAX_BYTES`` or takes longer than ten minutes.
        """
        data, ends = bytearray(), time.monotonic() + _DEADLINE
        with _opened(self.url) as response:
            try:
                while chunk := response.read1(_CHUNK):
                    data += chunk
                    if len(data) > MAX_BYTES:
                        raise ImageError(f"{self.url}: an image must have at most {MAX_BYTES:,} bytes, got more")
                    if time.monotonic() > ends:
                        raise ImageError(f"{self.url}: an image must come within {_DEADLINE:.0f} seconds")
                expected = response.headers.get("Content-Length", "")
            except (OSError, http.client.HTTPException) as error:
                raise ImageError(f"{self.url}: cannot be read: {_reason(error)}") from error
        if expected.isdigit() and len(data) < int(expected):
            raise ImageError(f"{self.url}: cannot be read: the connection was closed after {len(data):,} bytes")
        return EncodedImage(self.url, np.frombuffer(bytes(data), dtype=np.uint8))


def as_address(source: str) -> Address | None:
    """Return a text as an address; None if it is the path of a file.

    Raises:
        ImageError: If it begins as an address does, but of a kind that is not read.
    """
    if _WEBCAM.fullmatch(source):
        return Address(source)
    match = _ADDRESS.match(source)
    if match is None:
        return None
    if match["scheme"].lower() not in (*_WEB, *_STREAMS):
        known = ", ".join((*_WEB, *_STREAMS))
        raise ImageError(f"{source}: an address must begin with {known}; download the file, or give its bytes")
    return Address(source)


def _opened(url: str) -> http.client.HTTPResponse:
    ascii_url = quote(url, safe="%/:=&?~#+!$,;'@()*[]")
    request = urllib.request.Request(ascii_url, headers={"User-Agent": "effdet"})
    try:
        response: http.client.HTTPResponse = urllib.request.urlopen(request, timeout=_PATIENCE)
        return response
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ImageError(f"{url}: cannot be read: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", None) or error
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)
