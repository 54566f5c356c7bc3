"""Bring one file from a server, so that an interruption costs nothing and being offline is noticed within seconds."""

from __future__ import annotations

import http.client
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from effdet.progress import Report, report_nothing

CHUNK = 1 << 20  # bytes

_PATIENCE = 30.0  # seconds without a byte
_LEAST_RATE = 1000  # bytes a second that a server must send
_PAUSES = (1.0, 2.0, 4.0, 8.0, 16.0)  # seconds before each new attempt after a lost connection
_PROBE_SECONDS = 3.0


class SlowServerError(OSError):
    """A server sends so little that a download would take days; the message is one sentence."""


def fetch(
    url: str,
    part: Path,
    *,
    size: int | None = None,
    name: str = "",
    report: Report = report_nothing,
) -> None:
    """Download into ``part``, going on with what an earlier attempt left there, until the file is whole.

    The name says that it may be unfinished; whoever calls checks it and gives it another.

    Args:
        url: http(s) address.
        part: File that grows.
        size: Bytes that the whole file must have. None takes the server's word.
        name: What the report calls it.
        report: Called often with how far it is, in bytes.

    Raises:
        OSError: If the server cannot be reached, stays silent, sends less than 1 kB/s or does not have the file.
        ValueError: If it offers another size, or the address is none.
    """
    check_address(url)
    transfer = _Transfer(url, part, size, f"downloading {name or part.name}", report)
    before, failures = file_size(part), 0
    while not transfer.is_whole():
        have = file_size(part)
        try:
            transfer.receive()
            reason = "the connection was closed"
        except urllib.error.HTTPError as error:
            if error.code < 500:
                raise OSError(f"{url} cannot be downloaded: the server says {error.code} {error.reason}") from error
            reason = f"the server says {error.code} {error.reason}"
        except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
            reason = _reason(error)
        failures = 0 if file_size(part) > have else failures + 1
        if transfer.is_whole():
            break
        if failures and (file_size(part) == before or failures > len(_PAUSES)):  # never began, or does not come back
            raise OSError(f"{url} cannot be downloaded: {reason}{transfer.kept()}")
        time.sleep(_PAUSES[max(failures - 1, 0)])


def check_address(url: str) -> None:
    """Check that a text is an address of the web that can be asked for.

    Raises:
        ValueError: If it is none, or has letters that must be written in another way.
    """
    try:
        parts = urllib.parse.urlsplit(url)
        host, _ = parts.hostname, parts.port
        is_address = parts.scheme in ("http", "https") and bool(host)
        ascii_host = (host or "").encode("ascii", "ignore").decode() == host
    except ValueError as error:  # "Invalid IPv6 URL", "Port could not be cast to integer value"
        raise ValueError(f"{_shown(url)} must be an address of the web: {error}") from error
    if not is_address:
        raise ValueError(f"{_shown(url)} must be an address that begins with http:// or https:// and a host")
    if not ascii_host:
        raise ValueError(f"the host in {_shown(url)} must be written in ASCII; give its form with xn--")
    if not url.isascii() or any(letter.isspace() or not letter.isprintable() for letter in url):
        raise ValueError(f"{_shown(url)} must be in ASCII without spaces; write other letters as %XX")


def _shown(url: str) -> str:
    text = url[:200]
    return text if text.isprintable() else repr(text)[1:-1]


def is_reachable(url: str) -> bool:
    """Return whether a server answers within three seconds, whatever the answer.

    It is asked in a thread of its own, because looking up a host name knows no time limit.
    """
    try:
        check_address(url)
    except ValueError:
        return False
    finished, answers = threading.Event(), []

    def ask() -> None:
        request = urllib.request.Request(url, method="HEAD")
        try:
            urllib.request.urlopen(request, timeout=_PROBE_SECONDS).close()
            answers.append(True)
        except urllib.error.HTTPError:
            answers.append(True)  # any answer will do
        except (OSError, http.client.HTTPException):
            pass
        finally:
            finished.set()

    threading.Thread(target=ask, daemon=True).start()
    return finished.wait(_PROBE_SECONDS) and bool(answers)


def part_of(file: Path) -> Path:
    """Return the name that a file has until it is whole."""
    return file.with_name(f"{file.name}.part")


def file_size(file: Path) -> int:
    """Return the bytes of a file; 0 if there is none."""
    return file.stat().st_size if file.exists() else 0


class _Transfer:
    """One file on its way: what the server has said about it, and how much has come."""

    def __init__(self, url: str, part: Path, size: int | None, what: str, report: Report) -> None:
        self._url, self._part, self._what, self._report = url, part, what, report
        self._demanded = size
        self._size = size  # None until the server says it
        self._ended = False  # a server that never says the size has closed the connection properly

    def is_whole(self) -> bool:
        """Whether nothing is missing any more."""
        if self._size is None:
            return self._ended
        return file_size(self._part) >= self._size and (self._ended or self._demanded is not None)

    def kept(self) -> str:
        """Return, for an error, what will not have to come again."""
        if not self._part.exists():
            return ""
        total = f" of {self._size:,}" if self._size is not None else ""
        return f"; {file_size(self._part):,}{total} bytes are kept, start again to go on"

    def receive(self) -> None:
        """Append what the server sends until the file is whole or the connection ends."""
        have = file_size(self._part)
        headers = {"User-Agent": "effdet", **({"Range": f"bytes={have}-"} if have else {})}
        try:
            response = urllib.request.urlopen(urllib.request.Request(self._url, headers=headers), timeout=_PATIENCE)
        except urllib.error.HTTPError as error:
            if error.code != 416 or self._demanded is not None:
                raise
            self._nothing_beyond(have, error.headers.get("Content-Range", ""))
            return
        with response:
            start, self._size = self._start(response, have)
            self._append(response, start)

    def _start(self, response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
        """Return where in the file the answer begins, and the size of the whole file."""
        start, total = _offered(response)
        if self._demanded is not None and total not in (None, self._demanded):
            raise ValueError(
                f"{self._url} must have {self._demanded:,} bytes, but the server offers {total:,}; try another base URL"
            )
        if start not in (0, have):
            raise ValueError(f"{self._url}: asked for bytes from {have:,}, but the server sends them from {start:,}")
        return start, self._demanded if total is None else total

    def _append(self, response: http.client.HTTPResponse, start: int) -> None:
        with self._part.open("r+b" if self._part.exists() else "wb") as out:
            out.truncate(start)  # a server that cannot go on sends everything again
            out.seek(start)
            begun, arrived = time.monotonic(), 0  # of the last _PATIENCE seconds
            # read1 hands over what has arrived; read would lose it when the connection breaks
            while self._size is None or start < self._size:
                chunk = response.read1(CHUNK if self._size is None else min(CHUNK, self._size - start))
                if not chunk:
                    break
                out.write(chunk)
                start += len(chunk)
                arrived += len(chunk)
                if time.monotonic() - begun > _PATIENCE:
                    self._check_rate(arrived, time.monotonic() - begun)
                    begun, arrived = time.monotonic(), 0
                self._report(self._what, start, self._size or 0)
        self._ended = self._size is None or start >= self._size

    def _check_rate(self, arrived: int, seconds: float) -> None:
        if arrived < _LEAST_RATE * seconds:
            raise SlowServerError(
                f"{self._url} cannot be downloaded: the server sends {arrived / seconds:.0f} bytes a second, less than "
                f"{_LEAST_RATE}{self.kept()}"
            )

    def _nothing_beyond(self, have: int, content_range: str) -> None:
        """Take "range not satisfiable" (``bytes */SIZE``) as the end if what is here has that size, else begin anew."""
        total = content_range.rpartition("/")[2]
        if total.isdigit() and int(total) == have:
            self._size, self._ended = have, True
        else:
            self._part.unlink()
            raise ConnectionError("what was kept does not belong to the file on the server")


def _reason(error: Exception) -> str:
    cause = getattr(error, "reason", error)
    return str(getattr(cause, "strerror", None) or cause or type(cause).__name__)


def _offered(response: http.client.HTTPResponse) -> tuple[int, int | None]:
    """Return the position of the first byte that the server sends, and the size of the whole file if it says it."""
    if response.status == 206:  # Content-Range: bytes 100-999/1000
        span, _, total = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("/")
        first = span.partition("-")[0]
        if not first.isdigit():
            raise ValueError(f"{response.url}: the server sends a part of the file without saying which")
        return int(first), int(total) if total.isdigit() else None
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdigit() else None
