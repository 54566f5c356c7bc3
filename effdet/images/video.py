"""Read and write videos through PyAV."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.images.reading import ImageError
from effdet.install import hint


def read_frames(path: Path) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video as upright (H, W, 3) uint8 RGB arrays.

    Raises:
        ImageError: If it is not a readable video, or PyAV is missing.
    """
    av = _pyav(path)
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"{path}: holds no video stream")
            for frame in container.decode(video=0):
                quarter_turns = int(getattr(frame, "rotation", 0)) // 90 % 4  # counter-clockwise, of the display matrix
                yield np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), quarter_turns))
    except av.FFmpegError as error:
        raise ImageError(f"{path}: not a readable video: {error.strerror}") from error


def frame_rate(file: Path) -> Fraction:
    """Return the frames per second of a video, 25 where the file does not tell.

    Raises:
        FileNotFoundError: If there is no such file.
        ImageError: If it is not a video.
    """
    av = _pyav(file)
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such video")
    try:
        with av.open(str(file)) as container:
            if not container.streams.video:
                raise ImageError(f"{file}: holds no video stream")
            return Fraction(container.streams.video[0].average_rate or 25)
    except av.FFmpegError as error:
        raise ImageError(f"{file}: not a readable video: {error.strerror}") from error


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
