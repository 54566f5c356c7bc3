"""Read and write videos through PyAV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.images.reading import ImageError
from effdet.install import hint

_TRANSPORT_STREAM = b"\x47"  # the first byte of each packet


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video as upright (H, W, 3) uint8 RGB arrays.

    Raises:
        ImageError: If it is not a readable video, or PyAV is missing.
    """
    with _open(path) as container:
        for frame in container.decode(video=0):
            quarter_turns = int(getattr(frame, "rotation", 0)) // 90 % 4  # counter-clockwise, of the display matrix
            yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))


def frame_rate(file: Path) -> Fraction:
    """Return the frames per second of a video, 25 where the file does not tell.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not a video.
    """
    with _open(file) as container:
        return Fraction(container.streams.video[0].average_rate or 25)


@contextlib.contextmanager
def _open(path: Path) -> Iterator[Any]:
    """Open a video that has frames; what PyAV raises in the block becomes one sentence."""
    av = _pyav(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such video")
    if not path.is_file():  # a named pipe could block for ever
        raise ImageError(f"{path}: must be a regular file to be read as a video")
    with path.open("rb") as file:
        if path.suffix.lower() == ".ts" and file.read(1) != _TRANSPORT_STREAM:
            raise ImageError(f"{path}: not a video: an MPEG transport stream begins with the byte 0x47")
        file.seek(0)
        try:
            with av.open(file, metadata_errors="replace") as container:
                if not container.streams.video:
                    raise ImageError(f"{path}: holds no video stream")
                yield container
        except av.FFmpegError as error:
            raise ImageError(f"{path}: not a readable video: {error.strerror}") from error


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


def _pyav(file: Path) -> Any:
    try:
        import av
    except ImportError as error:
        raise ImageError(f"{file}: video needs PyAV; install it with: {hint('video')}") from error
    return av
