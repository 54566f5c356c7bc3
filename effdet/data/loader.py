"""Turn a data set into batches: ``TrainLoader`` augments, ``EvalLoader`` returns every image once, unaugmented."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils import data as torch_data
from torch.utils.data import DataLoader, Sampler

from effdet.config import AugmentConfig, ConfigError
from effdet.data.dataset import Dataset
from effdet.data.loader_process import SharedDataset, new_images, prepare_process
from effdet.data.mixing import mixup, mosaic
from effdet.data.order import EvalOrder, Place, TrainOrder
from effdet.data.samples import Augmented, Sample
from effdet.data.tiles import TileTable
from effdet.data.transforms import RGB, TrainTransform, build_train_transform
from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import Fit
from effdet.images.reading import ImageError
from effdet.ops.tiles import Tiles
from effdet.structures import Batch, Target

Array: TypeAlias = NDArray[Any]

MAX_REPLACEMENTS = 100  # unreadable images in a row before the loader gives up


class _Item(NamedTuple):
    """One image, ready for the batch."""

    sample: Augmented
    original_size: tuple[int, int]
    image_id: int | str
    unreadable: tuple[str, ...] = ()  # files that other images replaced


class _Packed(NamedTuple):
    """A batch that a loader process sends: one tensor, because each tensor needs a file descriptor."""

    images: Tensor  # (B, H, W, C)
    items: tuple[_Item, ...]  # without their images
    unreadable: tuple[str, ...] = ()
    error: Exception | None = None  # passed as a value: PyTorch would add a traceback to the text of a raised one


class TrainLoader:
    """Batches of augmented images, repeatable by seed.

    Every random choice is a pure function of (seed, epoch, position in the epoch). The batches are therefore the same
    for the same seed with any number of workers, differ from epoch to epoch, and can start at any step of an epoch.

    An image that cannot be read is replaced by the next readable one in the data set, and listed in
    ``Batch.unreadable``.

    Args:
        dataset: The images; there must be at least one.
        image_size: Network input (height, width).
        batch_size: Images per process and step.
        augment: The augmentation.
        seed: Seed of the order and the augmentation.
        workers: Loader processes; 0 loads in the calling process. They stay alive between epochs.
        fill: Level of each channel of the padding.
        fit: How images are brought into the network input.
        rank: Number of this process among ``world_size`` ones, which share each epoch.
        world_size: Number of processes.
        tiles: Cut the images into tiles; each is then an image of the epoch.
        multi_scale: Lowest and highest factor of ``image_size``: each batch has a size of its own between them, with
            sides that are multiples of 32. None: all have ``image_size``.
        pin_memory: Put images into page-locked memory, for CUDA.

    Raises:
        ValueError: If the data set is empty.
        ConfigError: If ``augment.transforms`` is wrong.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        image_size: tuple[int, int],
        batch_size: int,
        augment: AugmentConfig,
        seed: int,
        workers: int,
        fill: tuple[int, ...],
        fit: Fit = "letterbox",
        tiles: Tiles | None = None,
        multi_scale: tuple[float, float] | None = None,
        rank: int = 0,
        world_size: int = 1,
        pin_memory: bool = False,
    ) -> None:
        if len(dataset) == 0:
            raise ValueError(f"training needs at least one image, {dataset.annotation_file} has none left")
        table = TileTable.of(dataset, tiles)
        self.num_items = len(table)  # images, or tiles of them, of an epoch
        self.steps_per_epoch = math.ceil(self.num_items / (batch_size * world_size))
        self._order = TrainOrder(
            *(self.num_items, batch_size, self.steps_per_epoch, seed, rank, world_size),
            image_size=image_size,
            multi_scale=multi_scale,
        )
        items = _TrainItems(dataset, table, image_size, augment, fill, fit, seed)
        self._loader = _build_loader(items, self._order, workers, pin_memory=pin_memory, persistent=workers > 0)

    def epoch(self, epoch: int, start_step: int = 0, *, plain: bool = False) -> Iterator[Batch]:
        """Return the batches of an epoch from ``start_step`` on. Only one epoch can be iterated at a time.

        Every image occurs once; the last batch is filled up with the first images of the epoch.

        Args:
            epoch: Number of the epoch.
            start_step: The first step that is yielded, in [0, steps_per_epoch].
            plain: Leave out mosaic and mixup.

        Raises:
            ValueError: If ``start_step`` is out of range.
            ImageError: While iterating, if a hundred images in a row cannot be read.
            ConfigError: While iterating, if one of ``augment.transforms`` fails on an image.
        """
        if not 0 <= start_step <= self.steps_per_epoch:
            raise ValueError(f"start_step must lie in [0, {self.steps_per_epoch}], got {start_step}")
        self._order.epoch, self._order.start_step, self._order.plain = epoch, start_step, plain
        return map(_unpack, iter(self._loader))


class EvalLoader:
    """Batches of letterboxed images without augmentation; every image once, in the order of the data set.

    Process ``rank`` takes the images rank, rank + world_size, …, without repeats; it may have none. An image that
    cannot be read is left out of its batch, which may then be empty; ``Batch.unreadable`` has the file and the reason.

    Args: as for ``TrainLoader``; the last batch may be smaller.
        letterbox: How images become the network input: ``EfficientDet.letterbox``.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        letterbox: Letterbox,
        batch_size: int,
        workers: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._order = EvalOrder(len(dataset), batch_size, rank, world_size)
        items = _EvalItems(dataset, letterbox)
        self._loader = _build_loader(items, self._order, workers, pin_memory=False, persistent=False)

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Batch]:
        return map(_unpack, iter(self._loader) if len(self) else iter(()))


class _TrainItems:
    def __init__(
        self,
        dataset: Dataset,
        tiles: TileTable,
        image_size: tuple[int, int],
        augment: AugmentConfig,
        fill: tuple[int, ...],
        fit: Fit,
        seed: int,
    ) -> None:
        self.dataset = dataset
        self.tiles = tiles
        self.augment = augment
        self.fill = fill
        self.fit: Fit = fit
        self.seed = seed
        self.mosaic = augment.mosaic
        self.mixup = augment.mixup
        self.pixels = dataset.pixels or RGB
        self._transforms: dict[tuple[int, int], TrainTransform] = {}
        self._transform(image_size)  # an error now costs no time

    def batch(self, places: Sequence[Place]) -> tuple[Tensor, list[_Item], list[str]]:
        """Return the images, (B, H, W, C) levels in 0…255, their items, and the files that could not be read."""
        images = new_images(len(places), places[0].image_size, self.pixels)
        items = [self._make(place, out) for place, out in zip(places, images.numpy(), strict=True)]
        return images, items, [name for item in items for name in item.unreadable]

    def _make(self, place: Place, out: Array) -> _Item:
        """Augment one image into ``out``."""
        rng = np.random.default_rng([self.seed, place.epoch, place.position])
        unreadable: list[str] = []
        index, sample = self._read(place.image_index, unreadable)
        original_size = (sample.image.shape[0], sample.image.shape[1])

        use_mosaic, use_mixup = rng.random(2) < (self.mosaic, self.mixup)
        if use_mosaic and not place.plain:
            others = [self._read(int(other), unreadable)[1] for other in rng.integers(len(self.tiles), size=3)]
            sample = mosaic([sample, *others], place.image_size, self.fill, rng, self.fit)
        if use_mixup and not place.plain:
            sample = mixup(sample, self._read(int(rng.integers(len(self.tiles))), unreadable)[1], rng, self.fit)

        augmented = self._transform(place.image_size)(*sample, seed=int(rng.integers(2**63)), out=out)
        return _Item(augmented, original_size, self.dataset.image_id(index), tuple(unreadable))

    def _transform(self, image_size: tuple[int, int]) -> TrainTransform:
        """Return the augmentation for a network input; it is built once in each process."""
        if image_size not in self._transforms:
            self._transforms[image_size] = build_train_transform(
                self.augment, image_size, self.fill, self.fit, self.pixels
            )
        return self._transforms[image_size]

    def _read(self, index: int, unreadable: list[str]) -> tuple[int, Sample]:
        """Return the number of the image and the tile, or those of the next readable image; name unreadable files."""
        for attempt in range(min(len(self.dataset), MAX_REPLACEMENTS)):
            image = (int(self.tiles.images[index]) + attempt) % len(self.dataset)
            tile = index if attempt == 0 else self.tiles.first_of(image)
            try:
                sample = Sample(self.dataset.read(image), *self.dataset.annotations(image))
                return image, self.tiles.cut(sample, tile)
            except (ImageError, OSError):
                unreadable.append(self.dataset.stored(image).name)
        raise ImageError(f"{unreadable[-1]}: cannot be read, and neither can the images that could take its place")


class _EvalItems:
    def __init__(self, dataset: Dataset, letterbox: Letterbox) -> None:
        self.dataset = dataset
        self.letterbox = letterbox

    def batch(self, indices: Sequence[int]) -> tuple[Tensor, list[_Item], list[str]]:
        """Return the images, (B, H, W, C), their items, and file and reason of each image that cannot be read."""
        items: list[_Item] = []
        unreadable: list[str] = []
        for index in indices:
            try:
                items.append(self._make(index))
            except (ImageError, OSError) as error:
                unreadable.append(str(error))
        if not items:
            return torch.empty(0, *self.letterbox.image_size, len(self.letterbox.mean)), items, unreadable
        return torch.from_numpy(np.stack([item.sample.image for item in items])), items, unreadable

    def _make(self, index: int) -> _Item:
        _, image, original_size = self.dataset.read_picture(index, self.letterbox.read)
        boxes, labels, is_crowd = self.dataset.annotations(index)
        padded, content_size, scales = self.letterbox(image, original_size)
        boxes = boxes * np.array(scales * 2, dtype=np.float32)
        sample = Augmented(padded, boxes, labels, is_crowd, content_size, scales)
        return _Item(sample, original_size, self.dataset.image_id(index))


class _Items(torch_data.Dataset[_Packed]):
    """Build whole batches in the loader process; an error is returned as part of the batch."""

    def __init__(self, items: _TrainItems | _EvalItems) -> None:
        self.items = items
        self._shared: SharedDataset | None = None

    def __getstate__(self) -> tuple[_TrainItems | _EvalItems, SharedDataset]:
        """Return what a spawned loader process receives: the columns of the data set in shared memory."""
        if self._shared is None:
            self._shared = SharedDataset(self.items.dataset)
        rest = copy.copy(self.items)
        del rest.dataset
        return rest, self._shared

    def __setstate__(self, state: tuple[_TrainItems | _EvalItems, SharedDataset]) -> None:
        self.items, self._shared = state
        self.items.dataset = self._shared.open()

    def __getitem__(self, batch: Sequence[Any]) -> _Packed:
        try:
            images, items, unreadable = self.items.batch(batch)
        except (ConfigError, ImageError, OSError) as error:
            return _Packed(torch.empty(0), (), error=error)
        nothing = np.empty((0, 0, 3), dtype=np.uint8)
        without_images = (item._replace(sample=item.sample._replace(image=nothing)) for item in items)
        return _Packed(images, tuple(without_images), tuple(unreadable))


def _build_loader(
    items: _TrainItems | _EvalItems, order: Sampler[Any], workers: int, *, pin_memory: bool, persistent: bool
) -> DataLoader[_Packed]:
    return DataLoader(
        _Items(items),
        sampler=order,
        batch_size=None,  # an element of the sampler is a whole batch
        collate_fn=_keep,
        num_workers=workers,
        worker_init_fn=prepare_process,
        pin_memory=pin_memory,
        persistent_workers=persistent,
        generator=torch.Generator(),  # otherwise every epoch would use random numbers of the run
    )


def _keep(packed: Any) -> Any:
    """Return the batch as it is; PyTorch's own collate function would turn every small array into a tensor."""
    return packed


def _unpack(packed: _Packed) -> Batch:
    if packed.error:
        raise packed.error
    samples = [item.sample for item in packed.items]
    return Batch(
        images=packed.images.permute(0, 3, 1, 2),  # channels_last in memory
        content_sizes=torch.tensor([sample.content_size for sample in samples], dtype=torch.int64).reshape(-1, 2),
        scales=torch.tensor([sample.scales for sample in samples], dtype=torch.float32).reshape(-1, 2),
        original_sizes=torch.tensor([item.original_size for item in packed.items], dtype=torch.int64).reshape(-1, 2),
        image_ids=tuple(item.image_id for item in packed.items),
        targets=[_target(sample) for sample in samples],
        unreadable=tuple(dict.fromkeys(packed.unreadable)),
    )


def _target(sample: Augmented) -> Target:
    boxes, labels = torch.from_numpy(sample.boxes), torch.from_numpy(sample.labels)
    is_crowd = torch.from_numpy(sample.is_crowd)
    return Target(boxes=boxes[~is_crowd], classes=labels[~is_crowd], crowd_boxes=boxes[is_crowd])
