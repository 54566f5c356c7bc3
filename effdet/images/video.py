"""Read and write videos through PyAV; webcams are read through OpenCV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from effdet.images.addresses import Address
from effdet.images.faults import ImageError
from effdet.images.webcam import frames_of, open_webcam, rate_of
from effdet.install import hint

_PATIENCE = (30.0, 30.0)  # seconds to open a stream, and between two packets of it
_STREAM_OPTIONS = {
    "rtsp_transport": "tcp",  # packets of UDP get lost
    "protocol_whitelist": "http,https,httpproxy,tcp,tls,crypto,rtsp,rtp,udp,rtmp,rtmps,srt",  # a playlist opens no file
}
_TRANSPORT_STREAM = b"\x47"  # the first byte of each packet


class Video:
    """The frames of a video file, a stream or a webcam, and how many there are in a second; for a ``with`` block.

        with Video(Path("clip.mp4")) as video:
            for frame in video:  # upright (H, W, 3) uint8 RGB
                ...

    Args:
        source: The file or address.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not a readable video, ends in an error, or PyAV is missing.
    """

    def __init__(self, source: Path | Address) -> None:
        self._source = source
        self._stack = contextlib.ExitStack()
        self._frames: Iterator[NDArray[np.uint8]] = iter(())
        self.rate = Fraction(25)  # frames per second, where the video does not tell

    def __enter__(self) -> Video:
        with self._stack:
            if isinstance(self._source, Address) and self._source.webcam is not None:
                camera = self._stack.enter_context(open_webcam(self._source.webcam))
                self._frames, self.rate = frames_of(camera), rate_of(camera)
            else:
                container = self._stack.enter_context(_open(self._source))
                self._frames = self._decode(container)
                self.rate = Fraction(container.streams.video[0].average_rate or self.rate)
            self._stack = self._stack.pop_all()
        return self

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        return self._frames

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _decode(self, container: Any) -> Iterator[NDArray[np.uint8]]:
        with _one_sentence(self._source):
            for frame in container.decode(video=0):
                quarter_turns = int(getattr(frame, "rotation", 0)) // 90 % 4  # counter-clockwise, of the display matrix
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))


def read_frames(source: Path | Address) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video; see ``Video``."""
    with Video(source) as video:
        yield from video


@contextlib.contextmanager
def _one_sentence(source: Path | Address) -> Iterator[None]:
    """Let what PyAV raises in the block become one sentence."""
    av = _pyav(source)
    try:
        yield
    except av.FFmpegError as error:
        raise ImageError(f"{_name(source)}: not a readable video: {error.strerror}") from error


@contextlib.contextmanager
def _open(source: Path | Address) -> Iterator[Any]:
    """Open a video that has frames."""
    av = _pyav(source)
    with contextlib.ExitStack() as stack:
        file = source.url if isinstance(source, Address) else stack.enter_context(_opened_file(source))
        options = _STREAM_OPTIONS if isinstance(source, Address) else {}
        with _one_sentence(source):
            container = av.open(file, metadata_errors="replace", options=options, timeout=_PATIENCE)
            stack.enter_context(container)
        if not container.streams.video:
            raise ImageError(f"{_name(source)}: holds no video stream")
        yield container


@contextlib.contextmanager
def _opened_file(path: Path) -> Iterator[BinaryIO]:
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such video")
    if not path.is_file():  # a named pipe could block for ever
        raise ImageError(f"{path}: must be a regular file to be read as a video")
    with path.open("rb") as file:
        if path.suffix.lower() == ".ts" and file.read(1) != _TRANSPORT_STREAM:
            raise ImageError(f"{path}: not a video: an MPEG transport stream begins with the byte 0x47")
        file.seek(0)
        yield file


class VideoWriter:
    """An .mp4 file that takes RGB frames; opens with the first one and closes with the ``with`` block.

    Args:
        file: Is replaced if it exists.
        rate: Frames per second.
    """

    def __init__(self, file: Path, rate: Fraction) -> None:
        self._file, self._rate = file, rate
        self._av = _pyav(file)
        self._container: Any = None
        self._stream: Any = None

    def __enter__(self) -> VideoWriter:
        return self

    def write(self, image: np.ndarray) -> None:
        """Append a (H, W, 3) uint8 RGB frame; sides become even, as the encoder wants them, by repeating the edge."""
        height, width = image.shape[:2]
        even = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._container is None:
            self._open(even.shape[0], even.shape[1])
        frame = self._av.VideoFrame.from_ndarray(even, format="rgb24")
        self._container.mux(self._stream.encode(frame))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._container is not None:
            self._container.mux(self._stream.encode())  # what the encoder still holds back
            self._container.close()

    def _open(self, height: int, width: int) -> None:
        codec = "libx264" if "libx264" in self._av.codecs_available else "mpeg4"
        self._container = self._av.open(str(self._file), "w")
        self._stream = self._container.add_stream(codec, rate=self._rate)
        self._stream.height, self._stream.width, self._stream.pix_fmt = height, width, "yuv420p"


def _name(source: Path | Address) -> str:
    return source.url if isinstance(source, Address) else str(source)


def _pyav(source: Path | Address) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImageError(f"{_name(source)}: video needs PyAV; install it with: {hint('video')}") from error
    return av
