"""Read the images of a data set in loader processes, each as it is in its file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader

from effdet.data.dataset import Dataset
from effdet.data.loader_process import SharedDataset, prepare_process
from effdet.images.faults import ImageError


class LoadedPicture(NamedTuple):
    """An image at full size, or why it cannot be read."""

    image_id: int | str
    pixels: Tensor  # (H, W, C)
    unreadable: str = ""  # file and reason


class PictureLoader:
    """The images of a data set at full size, in its order; process ``rank`` takes rank, rank + world_size, ….

    Args:
        dataset: The images.
        workers: Processes that decode images; 0 decodes in the calling process.
        rank: Number of this process among ``world_size`` ones, which share the images.
        world_size: Number of processes.
    """

    def __init__(self, dataset: Dataset, *, workers: int, rank: int = 0, world_size: int = 1) -> None:
        self._indices = range(rank, len(dataset), world_size)
        self._loader: DataLoader[LoadedPicture] = DataLoader(
            _Pictures(dataset),
            sampler=self._indices,
            batch_size=None,
            collate_fn=_keep,
            num_workers=workers,
            worker_init_fn=prepare_process,
            generator=torch.Generator(),  # otherwise every evaluation would use random numbers of the run
        )

    def __len__(self) -> int:
        return len(self._indices)

    def __iter__(self) -> Iterator[LoadedPicture]:
        return iter(self._loader) if len(self) else iter(())


class _Pictures(torch_data.Dataset[LoadedPicture]):
    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> LoadedPicture:
        image_id = self.dataset.image_id(index)
        try:
            return LoadedPicture(image_id, torch.from_numpy(np.ascontiguousarray(self.dataset.read(index))))
        except (ImageError, OSError) as error:
            return LoadedPicture(image_id, torch.empty(0), str(error))

    def __getstate__(self) -> SharedDataset:
        """Return what a spawned loader process receives: the columns of the data set in shared memory."""
        return SharedDataset(self.dataset)

    def __setstate__(self, shared: SharedDataset) -> None:
        self.dataset, self._shared = shared.open(), shared


def _keep(picture: Any) -> Any:
    return picture
