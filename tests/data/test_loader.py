from __future__ import annotations

import json
import pickle
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.config import AugmentConfig, ConfigError
from effdet.data import loader
from effdet.data.dataset import Dataset
from effdet.data.formats import find_dataset
from effdet.data.formats.coco import read_coco
from effdet.data.loader import EvalLoader, TrainLoader
from effdet.data.text_column import TextColumn
from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import Preprocessing
from effdet.images.reading import ImageError
from effdet.structures import Batch

FILL = (124, 116, 104)
LETTERBOX = Letterbox(image_size=(32, 48), mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375))


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """Seven noise images of different sizes; number n has n % 3 boxes, every second box is a crowd."""
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for n in range(7):
        height, width = 40 + 5 * n, 70 - 3 * n
        Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8)).save(tmp_path / f"{n}.jpg", quality=95)
        images.append({"id": 100 + n, "file_name": f"{n}.jpg", "height": height, "width": width})
        for k in range(n % 3):
            box = [5 + 10 * k, 6, 20, 25]
            annotations.append(
                {"id": len(annotations), "image_id": 100 + n, "category_id": 3, "bbox": box, "iscrowd": k}
            )
    content = {"images": images, "annotations": annotations, "categories": [{"id": 3, "name": "x"}]}
    (tmp_path / "a.json").write_text(json.dumps(content))
    return read_coco(tmp_path / "a.json", tmp_path)


MIXED = AugmentConfig(color=0.5, mosaic=0.5, mixup=0.5, safe_crop=0.3, vertical_flip=0.5)


def train_loader(dataset: Dataset, **changes: Any) -> TrainLoader:
    arguments: dict[str, Any] = {
        "image_size": (32, 48),
        "batch_size": 2,
        "augment": MIXED,
        "seed": 0,
        "workers": 0,
        "fill": FILL,
    }
    return TrainLoader(dataset, **arguments | changes)


def eval_loader(dataset: Dataset, **changes: Any) -> EvalLoader:
    arguments: dict[str, Any] = {"letterbox": LETTERBOX, "batch_size": 3, "workers": 0}
    return EvalLoader(dataset, **arguments | changes)


def assert_same(ours: Iterable[Batch], theirs: Iterable[Batch]) -> None:
    for a, b in zip(list(ours), list(theirs), strict=True):
        for name in ("images", "content_sizes", "scales", "original_sizes"):
            torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=0, atol=0)
        assert a.image_ids == b.image_ids
        assert a.unreadable == b.unreadable
        for left, right in zip(a.targets, b.targets, strict=True):
            for name in ("boxes", "classes", "crowd_boxes"):
                torch.testing.assert_close(getattr(left, name), getattr(right, name), rtol=0, atol=0)


def pixels(batches: Iterable[Batch]) -> list[bytes]:
    return [image.numpy().tobytes() for batch in batches for image in batch.images]


def test_batch_has_the_documented_types(dataset: Dataset) -> None:
    for batch in [*train_loader(dataset).epoch(0), *eval_loader(dataset)]:
        size = len(batch.images)
        assert batch.images.shape == (size, 3, 32, 48)
        assert batch.images.dtype == torch.uint8
        assert batch.images.is_contiguous(memory_format=torch.channels_last)
        assert (batch.content_sizes.shape, batch.content_sizes.dtype) == ((size, 2), torch.int64)
        assert (batch.scales.shape, batch.scales.dtype) == ((size, 2), torch.float32)
        assert (batch.original_sizes.shape, batch.original_sizes.dtype) == ((size, 2), torch.int64)
        assert [type(image_id) for image_id in batch.image_ids] == [int] * size
        for target in batch.targets:
            assert (target.boxes.shape[1:], target.boxes.dtype) == ((4,), torch.float32)
            assert (target.classes.shape, target.classes.dtype) == (target.boxes.shape[:1], torch.int64)
            assert target.crowd_boxes.shape[1:] == (4,)


def test_epoch_shows_every_image_once_and_wraps_around_in_its_last_batch(dataset: Dataset) -> None:
    training = train_loader(dataset)
    assert training.steps_per_epoch == 4
    batches = list(training.epoch(0))
    assert [len(batch.images) for batch in batches] == [2, 2, 2, 2]
    ids = [image_id for batch in batches for image_id in batch.image_ids]
    assert sorted(ids[:7]) == list(range(100, 107))
    assert ids[7] == ids[0]
    assert pixels(batches)[7] != pixels(batches)[0]  # the same image, augmented differently


def test_batch_larger_than_the_data_set_is_full(dataset: Dataset) -> None:
    training = train_loader(dataset.without(range(2, 7)), batch_size=5)
    assert training.steps_per_epoch == 1
    (batch,) = training.epoch(0)
    assert sorted(Counter(batch.image_ids).values()) == [2, 3]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_do_not_depend_on_the_number_of_workers(dataset: Dataset, workers: int) -> None:
    alone, shared = train_loader(dataset), train_loader(dataset, workers=workers)
    for epoch in (0, 1, 0):  # the processes stay alive between epochs
        assert_same(alone.epoch(epoch), shared.epoch(epoch))
    assert_same(eval_loader(dataset), eval_loader(dataset, workers=workers))


@pytest.mark.parametrize("workers", [0, 1])
def test_images_of_a_loader_process_lie_in_shared_memory(dataset: Dataset, workers: int) -> None:
    batch = next(iter(train_loader(dataset, workers=workers).epoch(0)))
    assert batch.images.is_shared() == bool(workers)


def test_same_seed_repeats_and_another_seed_and_epoch_differ(dataset: Dataset) -> None:
    assert_same(train_loader(dataset).epoch(3), train_loader(dataset).epoch(3))
    runs = [
        pixels(training.epoch(epoch))
        for training in (train_loader(dataset), train_loader(dataset, seed=1))
        for epoch in (0, 1)
    ]
    images = [image for run in runs for image in run]
    assert len(set(images)) >= len(images) - 2  # tiny samples may coincide
    orders = {tuple(int(i) for b in train_loader(dataset).epoch(e) for i in b.image_ids) for e in range(5)}
    assert len(orders) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_entered_at_a_step_yields_what_is_left_of_it(dataset: Dataset, workers: int) -> None:
    training = train_loader(dataset, workers=workers)
    whole = list(training.epoch(2))
    for start in range(5):
        assert_same(training.epoch(2, start_step=start), whole[start:])
        assert_same(train_loader(dataset).epoch(2, start_step=start), whole[start:])


@pytest.mark.parametrize("workers", [0, 2])
def test_epoch_left_early_does_not_disturb_the_next(dataset: Dataset, workers: int) -> None:
    training = train_loader(dataset, workers=workers)
    next(training.epoch(0))
    assert_same(training.epoch(1), train_loader(dataset).epoch(1))


def test_start_step_out_of_range_is_refused(dataset: Dataset) -> None:
    for step in (-1, 5):
        with pytest.raises(ValueError, match=rf"start_step must lie in \[0, 4\], got {step}"):
            train_loader(dataset).epoch(0, start_step=step)


def test_ranks_share_an_epoch(dataset: Dataset) -> None:
    ranks = [train_loader(dataset, batch_size=2, rank=rank, world_size=2) for rank in range(2)]
    one = train_loader(dataset, batch_size=4)
    assert [rank.steps_per_epoch for rank in ranks] == [2, 2]
    for whole, first, second in zip(one.epoch(1), ranks[0].epoch(1), ranks[1].epoch(1), strict=True):
        torch.testing.assert_close(torch.cat([first.images, second.images]), whole.images, rtol=0, atol=0)


def test_loading_draws_nothing_from_the_runs_own_random_numbers(dataset: Dataset) -> None:
    for workers in (0, 2):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        list(train_loader(dataset, workers=workers).epoch(0))
        list(eval_loader(dataset, workers=workers))
        assert torch.equal(torch.get_rng_state(), state)


def test_plain_epoch_has_no_mosaic_and_no_mixup(dataset: Dataset) -> None:
    augment = AugmentConfig(horizontal_flip=0.0, scale=(1.0, 1.0), mosaic=1.0, mixup=1.0)
    number_of = {int(image_id): n for n, image_id in enumerate(dataset.image_ids)}
    for batch in train_loader(dataset, augment=augment).epoch(0, plain=True):
        for image, image_id in zip(batch.images, batch.image_ids, strict=True):
            expected = LETTERBOX(dataset.read(number_of[image_id])).image
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
    mixed = pixels(train_loader(dataset, augment=augment).epoch(0))
    assert not set(mixed) & set(pixels(train_loader(dataset, augment=augment).epoch(0, plain=True)))


def test_crowds_are_regions_and_empty_images_are_negatives(dataset: Dataset) -> None:
    augment = AugmentConfig(horizontal_flip=0.0, scale=(1.0, 1.0))
    plain = train_loader(dataset, augment=augment)
    for batch in [*plain.epoch(0), *eval_loader(dataset)]:
        for image_id, target, scale in zip(batch.image_ids, batch.targets, batch.scales, strict=True):
            # A content size is truncated, so that its pixels may lie up to one from where the scale says.
            boxes = torch.tensor([[5.0, 6, 25, 31], [15, 6, 35, 31]]) * scale.repeat(2)
            counts = {0: (0, 0), 1: (1, 0), 2: (1, 1)}[(image_id - 100) % 3]
            assert (len(target.boxes), len(target.crowd_boxes)) == counts
            torch.testing.assert_close(target.boxes, boxes[: counts[0]], atol=0.6, rtol=0)
            torch.testing.assert_close(target.crowd_boxes, boxes[1 : 1 + counts[1]], atol=0.6, rtol=0)
            assert target.classes.tolist() == [0] * counts[0]


def test_evaluation_shows_the_letterboxed_images_in_order(dataset: Dataset) -> None:
    evaluation = eval_loader(dataset)
    assert len(evaluation) == 3
    for _ in range(2):
        batches = list(evaluation)
        assert [len(batch.images) for batch in batches] == [3, 3, 1]
        assert [image_id for batch in batches for image_id in batch.image_ids] == dataset.image_ids.tolist()
    index = 0
    for batch in batches:
        for b, image in enumerate(batch.images):
            expected, content_size, scales = LETTERBOX(dataset.read(index))
            np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), expected)
            assert tuple(batch.content_sizes[b].tolist()) == content_size
            assert batch.scales[b].tolist() == pytest.approx(scales)
            assert batch.original_sizes[b].tolist() == dataset.sizes[index].tolist()
            index += 1


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_gives_floats_where_images_are_normalised_before_they_are_scaled(
    dataset: Dataset, workers: int
) -> None:
    box = replace(LETTERBOX, preprocessing=Preprocessing.preset("google"))
    first = next(iter(eval_loader(dataset, letterbox=box, workers=workers)))
    assert first.images.dtype == torch.float32
    np.testing.assert_array_equal(first.images[0].permute(1, 2, 0).numpy(), box(dataset.read(0)).image)


def test_evaluation_with_reduced_decoding_has_boxes_and_sizes_of_the_originals(dataset: Dataset) -> None:
    small = replace(LETTERBOX, image_size=(16, 16))
    fast = replace(small, preprocessing=Preprocessing.preset("fast"))
    for plain, reduced in zip(eval_loader(dataset, letterbox=small), eval_loader(dataset, letterbox=fast), strict=True):
        assert reduced.original_sizes.tolist() == plain.original_sizes.tolist()
        assert reduced.content_sizes.tolist() == plain.content_sizes.tolist()
        assert not torch.equal(reduced.images, plain.images)
        for one, other in zip(reduced.targets, plain.targets, strict=True):
            assert torch.equal(one.boxes, other.boxes)


@pytest.mark.parametrize("world_size", [1, 2, 3, 9])
def test_evaluating_ranks_take_every_image_once_and_may_get_none(dataset: Dataset, world_size: int) -> None:
    ranks = [eval_loader(dataset, rank=rank, world_size=world_size) for rank in range(world_size)]
    ids = [[int(i) for batch in rank for i in batch.image_ids] for rank in ranks]
    assert sorted(i for some in ids for i in some) == dataset.image_ids.tolist()
    assert ids[0] == dataset.image_ids[::world_size].tolist()
    assert [len(rank) for rank in ranks] == [-(-len(some) // 3) for some in ids]


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable_image_is_replaced_and_listed(dataset: Dataset, workers: int) -> None:
    dataset.path(2).write_bytes(b"broken")
    dataset.path(3).unlink()
    training = train_loader(dataset, workers=workers, augment=AugmentConfig())
    batches = list(training.epoch(0))
    ids = [int(i) for batch in batches for i in batch.image_ids][:7]
    assert sorted(ids) == [100, 101, 104, 104, 104, 105, 106]  # 104 follows the two that cannot be read
    listed = {name for batch in batches for name in batch.unreadable}
    assert listed == {str(dataset.path(2)), str(dataset.path(3))}
    assert_same(training.epoch(0), batches)
    assert {name for b in train_loader(dataset).epoch(0) for name in b.unreadable} == listed  # mosaic partners too


@pytest.mark.parametrize("workers", [0, 1])
def test_only_unreadable_images_stop_with_one_sentence(dataset: Dataset, workers: int) -> None:
    for index in range(len(dataset)):
        dataset.path(index).write_bytes(b"broken")
    with pytest.raises(
        ImageError, match=r"^\S+\.jpg: cannot be read, and neither can the images that could take its"
    ) as e:
        list(train_loader(dataset, workers=workers).epoch(0))
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_evaluation_leaves_out_and_names_unreadable_images(dataset: Dataset, workers: int) -> None:
    whole = list(eval_loader(dataset, workers=workers, batch_size=2))
    for number in (1, 2, 3):
        dataset.path(number).write_bytes(b"broken")
    batches = list(eval_loader(dataset, workers=workers, batch_size=2))
    assert [len(batch.images) for batch in batches] == [1, 0, 2, 1]
    assert [id for batch in batches for id in batch.image_ids] == [dataset.image_id(n) for n in (0, 4, 5, 6)]
    assert torch.equal(batches[0].images[0], whole[0].images[0])
    assert [batch.unreadable for batch in batches[1:]] == [
        tuple(f"{dataset.path(number)}: is not an image of a known format" for number in (2, 3)),
        (),
        (),
    ]


@pytest.mark.parametrize("workers", [0, 1])
def test_failing_transform_stops_with_one_sentence(dataset: Dataset, workers: int) -> None:
    crop = {"name": "RandomCrop", "height": 32, "width": 48, "p": 1.0}
    augment = AugmentConfig(scale=(0.5, 0.5), transforms=[crop])
    with pytest.raises(ConfigError, match=r"^data\.augment\.transforms fail on a"):
        list(train_loader(dataset, workers=workers, augment=augment).epoch(0))


def test_empty_data_set_cannot_be_trained_on(dataset: Dataset) -> None:
    with pytest.raises(ValueError, match=r"training needs at least one image, .*a\.json has none left"):
        train_loader(dataset.without(range(7)))
    assert list(eval_loader(dataset.without(range(7)))) == []


def test_replacement_gives_up_after_many_tries(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "MAX_REPLACEMENTS", 2)
    for number in (2, 3):
        dataset.path(number).unlink()
    with pytest.raises(ImageError, match=r"3\.jpg: cannot be read"):
        list(train_loader(dataset, augment=AugmentConfig()).epoch(0))


@pytest.mark.parametrize("name", ["bccd", "coco_open"])
def test_real_photos_load_with_every_augmentation(photo_sets: Path, name: str) -> None:
    dataset = find_dataset(photo_sets / name, "train").without(range(24, 1000))
    for batch in train_loader(dataset, image_size=(128, 160), batch_size=6).epoch(0):
        assert batch.unreadable == ()
        for target, (height, width) in zip(batch.targets, batch.content_sizes.tolist(), strict=True):
            boxes = torch.cat([target.boxes, target.crowd_boxes])
            assert (boxes[:, 2:] - boxes[:, :2] > 0.5).all()
            assert (boxes >= 0).all()
            assert (boxes <= torch.tensor([width, height, width, height])).all()
            assert (target.classes < dataset.num_classes).all()


def test_spawned_loader_processes_receive_handles_instead_of_columns(dataset: Dataset) -> None:
    count = 50_000
    many = replace(
        dataset,
        image_ids=np.arange(count),
        names=TextColumn.from_texts(f"{number:08d}.jpg" for number in range(count)),
        sizes=np.full((count, 2), 40),
        offsets=np.zeros(count + 1, dtype=np.int64),
    )
    items = loader._Items(loader._EvalItems(many, LETTERBOX))
    data = bytes(ForkingPickler.dumps(items))
    assert len(data) < 10_000
    received = pickle.loads(data).items.dataset
    assert received.names == many.names
    assert received.annotation_file == many.annotation_file
    np.testing.assert_array_equal(received.image_ids, many.image_ids)
    np.testing.assert_array_equal(received.boxes_xywh, many.boxes_xywh)


SPAWN = """
import sys
import torch
from effdet.config import AugmentConfig
from effdet.data.formats.coco import read_coco
from effdet.data.loader import TrainLoader

if __name__ == "__main__":
    torch.multiprocessing.set_start_method("spawn")
    data = read_coco(sys.argv[1] + "/a.json", sys.argv[1])
    options = dict(image_size=(32, 48), batch_size=2, augment=AugmentConfig(), seed=0, fill=(1, 2, 3))
    one, two = (list(TrainLoader(data, workers=workers, **options).epoch(0)) for workers in (0, 2))
    assert [batch.image_ids for batch in one] == [batch.image_ids for batch in two]
    assert all(torch.equal(a.images, b.images) for a, b in zip(one, two, strict=True))
"""


@pytest.mark.slow
def test_spawned_loader_processes_make_the_same_batches(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "spawn.py").write_text(SPAWN)
    command = [sys.executable, str(tmp_path / "spawn.py"), str(dataset.folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


MANY_SIZES = {"multi_scale": (0.5, 3.0), "augment": MIXED, "image_size": (64, 96)}


def test_each_batch_has_a_size_of_its_own_in_steps_of_32(dataset: Dataset) -> None:
    batches = [
        batch for epoch in range(8) for batch in train_loader(dataset, **MANY_SIZES).epoch(epoch)
    ]  # four steps in an epoch
    sizes = {tuple(batch.images.shape[-2:]) for batch in batches}
    assert len(sizes) > 5
    assert all(height % 32 == 0 and width % 32 == 0 for height, width in sizes)
    heights, widths = zip(*sizes, strict=True)
    assert (min(heights), max(widths)) == (32, 288)
    assert all(abs(width / 96 - height / 64) <= 16 / 96 + 16 / 64 for height, width in sizes)  # one factor, rounded
    for batch in batches:
        height, width = batch.images.shape[-2:]
        for target in batch.targets:
            assert (target.boxes >= 0).all()
            assert (target.boxes <= torch.tensor([width, height] * 2)).all()


def test_boxes_grow_with_the_size_of_the_batch(dataset: Dataset) -> None:
    plain = AugmentConfig(horizontal_flip=0.0, scale=(1.0, 1.0))
    small, large = (
        next(train_loader(dataset, augment=plain, image_size=(64, 96), multi_scale=factors, batch_size=7).epoch(0))
        for factors in (None, (2.0, 2.0))
    )
    for one, two in zip(small.targets, large.targets, strict=True):
        torch.testing.assert_close(2 * one.boxes, two.boxes, atol=1.5, rtol=0.02)  # sides are whole pixels


@pytest.mark.parametrize("workers", [0, 1])
def test_sizes_depend_on_the_step_alone_and_not_on_the_process(dataset: Dataset, workers: int) -> None:
    def sizes(start: int = 0, **changes: Any) -> list[tuple[int, ...]]:
        batches = train_loader(dataset, workers=workers, **{**MANY_SIZES, "batch_size": 1, **changes}).epoch(3, start)
        return [tuple(batch.images.shape[-2:]) for batch in batches]

    whole = sizes()
    assert sizes(start=3) == whole[3:]  # a resumed run
    first, second = (sizes(rank=rank, world_size=2) for rank in (0, 1))
    assert first == second == whole[:4]
    assert sizes(seed=1) != whole


def test_the_images_of_a_resumed_epoch_with_many_sizes_are_the_same(dataset: Dataset) -> None:
    whole = list(train_loader(dataset, **MANY_SIZES).epoch(2))
    rest = list(train_loader(dataset, **MANY_SIZES).epoch(2, 2))
    assert all(torch.equal(a.images, b.images) for a, b in zip(whole[2:], rest, strict=True))
