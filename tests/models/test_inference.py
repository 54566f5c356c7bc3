"""Streaming from a source to detections."""

import threading
import time

import numpy as np
import pytest
import torch

from effdet.images import ImageError
from effdet.models.inference import make_batch, predict_iter, read_ahead
from effdet.preprocessing import Letterbox
from effdet.structures import Detections

LETTERBOX = Letterbox(image_size=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class MeanColour:
    """A detector that reports one box an image, scored by its mean colour."""

    letterbox = LETTERBOX

    def __init__(self):
        self.batch_sizes = []

    def detect(self, batch):
        self.batch_sizes.append(len(batch.images))
        scores = batch.images.float().mean(dim=(1, 2, 3)) / 255
        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
        return [Detections(box, torch.tensor([0]), score[None]) for score in scores]


def grays(*levels):
    return [np.full((32, 32, 3), level, dtype=np.uint8) for level in levels]


def reading_threads():
    return [thread for thread in threading.enumerate() if thread.name == "effdet-read-ahead"]


@pytest.mark.parametrize("batch_size", [1, 2, 3, 7, 8])
def test_detections_keep_the_order_of_the_images_for_every_batch_size(batch_size):
    detector, levels = MeanColour(), [51, 102, 0, 255, 153, 204, 17]
    found = list(predict_iter(detector, grays(*levels), score_threshold=0.0, batch_size=batch_size))
    assert [round(float(detections.scores[0]) * 255) for detections, _ in found] == levels
    assert [int(image[0, 0, 0]) for _, image in found] == levels
    assert [detections.source for detections, _ in found] == [f"image-{n}" for n in range(7)]
    assert max(detector.batch_sizes) == min(batch_size, 7)
    assert sum(detector.batch_sizes) == 7


def test_low_scores_are_left_out():
    found = predict_iter(MeanColour(), grays(0, 255), score_threshold=0.5, batch_size=1)
    assert [len(detections) for detections, _ in found] == [0, 1]


def test_one_batch_needs_no_thread():
    stream = predict_iter(MeanColour(), grays(1, 2), score_threshold=0.0, batch_size=2)
    next(stream)
    assert not reading_threads()


def test_an_unreadable_image_comes_after_the_detections_before_it(tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    stream = predict_iter(MeanColour(), [*grays(1, 2, 3), str(tmp_path / "bad.jpg")], score_threshold=0, batch_size=1)
    assert [round(float(next(stream)[0].scores[0]) * 255) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(ImageError, match=r"bad\.jpg"):
        next(stream)


def test_a_source_without_end_is_read_only_a_little_ahead():
    taken = []

    def endless():
        for number in range(10**9):
            taken.append(number)
            yield np.zeros((32, 32, 3), dtype=np.uint8)

    stream = predict_iter(MeanColour(), endless(), score_threshold=0.0, batch_size=2)
    for _ in range(20):
        next(stream)
    time.sleep(0.3)
    assert len(taken) <= 20 + 2 * 5  # the batch in hand, two that wait, one being put, one being read
    stream.close()
    assert not reading_threads()


def test_read_ahead_yields_what_it_was_given_and_raises_in_place():
    def numbers():
        yield from range(5)
        raise KeyError("sixth")

    ahead = read_ahead(numbers(), 2)
    assert [next(ahead) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(KeyError, match="sixth"):
        next(ahead)
    assert not reading_threads()


def test_a_batch_size_below_one_is_refused():
    with pytest.raises(ValueError, match="batch_size must be 1 or more, got 0"):
        next(predict_iter(MeanColour(), grays(1), score_threshold=0.0, batch_size=0))


def test_a_batch_knows_where_each_image_lies():
    batch = make_batch([("wide", np.zeros((16, 64, 3), np.uint8)), ("tall", np.zeros((64, 8, 3), np.uint8))], LETTERBOX)
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.content_sizes.tolist() == [[8, 32], [32, 4]]
    assert batch.scales.tolist() == [0.5, 0.5]
    assert batch.original_sizes.tolist() == [[16, 64], [64, 8]]
