"""Read a webcam through OpenCV."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from fractions import Fraction

import cv2
import numpy as np
from numpy.typing import NDArray

from effdet.images.decoder_messages import quiet_opencv
from effdet.images.faults import ImageError


@contextlib.contextmanager
def open_webcam(number: int) -> Iterator[cv2.VideoCapture]:
    """Open webcam ``number``, from 0, until the block ends.

    Raises:
        ImageError: If there is no such camera.
    """
    with quiet_opencv():
        camera = cv2.VideoCapture(number)
    try:
        if not camera.isOpened():
            raise ImageError(f"webcam:{number}: no such camera, or another program uses it")
        yield camera
    finally:
        camera.release()


def frames_of(camera: cv2.VideoCapture) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a camera as (H, W, 3) uint8 RGB, until it gives none."""
    while True:
        is_there, frame = camera.read()
        if not is_there:
            return
        yield np.ascontiguousarray(frame[..., ::-1]).astype(np.uint8, copy=False)


def rate_of(camera: cv2.VideoCapture) -> Fraction:
    """Return the frames per second that a camera says, 25 where it says none."""
    rate = camera.get(cv2.CAP_PROP_FPS)
    return Fraction(rate).limit_denominator(1001) if 0 < rate < 1000 else Fraction(25)
