"""What differs inside a loader process: its memory, its signals, and how a data set gets there."""

from __future__ import annotations

import math
import os
import signal
import threading
from dataclasses import fields
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from effdet.data.array_file import mapped_place
from effdet.data.dataset import Dataset
from effdet.data.text_column import TextColumn
from effdet.images.pixel_format import PixelFormat


class SharedDataset:
    """A data set on its way to loader processes, which share its columns instead of copying them.

    Forked processes share memory anyway. A spawned process receives the columns as handles to shared memory, so that
    a million images are held once, however many processes read them. Columns from the cache are a file that all map.
    """

    def __init__(self, dataset: Dataset) -> None:
        columns = {field.name: getattr(dataset, field.name) for field in fields(dataset)}
        self._arrays = {name: _SharedArray(value) for name, value in columns.items() if isinstance(value, np.ndarray)}
        self._texts = {
            name: (_SharedArray(value.blob), _SharedArray(value.offsets))
            for name, value in columns.items()
            if isinstance(value, TextColumn)
        }
        held = {*self._arrays, *self._texts}
        self._rest = {name: value for name, value in columns.items() if name not in held}

    def open(self) -> Dataset:
        """Return the data set with its columns in shared memory."""
        arrays: dict[str, Any] = {name: array.open() for name, array in self._arrays.items()}
        texts: dict[str, Any] = {
            name: TextColumn(blob.open(), offsets.open()) for name, (blob, offsets) in self._texts.items()
        }
        return Dataset(**self._rest, **arrays, **texts)


class _SharedArray:
    """An array in shared memory, or in a file that every process maps."""

    def __init__(self, array: np.ndarray) -> None:
        self._mapped = mapped_place(array)
        self._tensor = torch.from_numpy(array.copy()).share_memory_() if self._mapped is None else None

    def open(self) -> np.ndarray:
        """Return the array."""
        if self._mapped is not None:
            return self._mapped.open()
        assert self._tensor is not None
        return self._tensor.numpy()


def new_images(count: int, image_size: tuple[int, int], pixels: PixelFormat) -> Tensor:
    """Return an unset batch, (count, H, W, C); in a loader process, in memory that the main process shares.

    Images are written into it, which saves two copies of every batch.
    """
    shape = (count, *image_size, pixels.channels)
    dtype = torch.uint8 if pixels.value_range is None else torch.float32
    if get_worker_info() is None:
        return torch.empty(shape, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(math.prod(shape) * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage).view(shape)


def prepare_process(_: int) -> None:
    """Set up a loader process: one thread of its own, and signals that the main process handles."""
    cv2.setNumThreads(0)  # the processes themselves fill the cores
    # Ctrl-C, a closed terminal and a SIGTERM to the whole process group are the main process's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this loader process when SIGTERM comes from its parent, and by no other SIGTERM.

    The main process finishes its step after a SIGTERM, and needs its loader processes for that.
    """
    while signal.sigwaitinfo([signal.SIGTERM]).si_pid != os.getppid():
        pass
    os._exit(0)
