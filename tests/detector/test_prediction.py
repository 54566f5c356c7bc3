"""Streaming from a source to detections."""

import threading
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from effdet.detector.batches import make_batch
from effdet.detector.prediction import predict_iter, read_ahead
from effdet.detector.views import Views
from effdet.images.letterbox import Letterbox
from effdet.images.preprocessing import Preprocessing
from effdet.images.reading import ImageError, Picture
from effdet.ops.boxes import iou_matrix
from effdet.structures import Detections

LETTERBOX = Letterbox(image_size=(32, 32), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


class MeanColour:
    """A detector that reports one box an image, scored by its mean colour."""

    letterbox = LETTERBOX

    def __init__(self):
        self.batch_sizes = []

    def detect(self, batch, *, least_score=0.0):
        batch = batch.to_batch()
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


@pytest.mark.parametrize("batch_size", [0, 1.5, "2", None])
def test_a_batch_size_that_is_no_number_of_images_is_refused(batch_size):
    with pytest.raises(ValueError, match=f"batch_size must be a whole number of 1 or more, got {batch_size!r}"):
        next(predict_iter(MeanColour(), grays(1), score_threshold=0.0, batch_size=batch_size))


@pytest.mark.parametrize("threshold", [30, -0.1, float("nan"), "0.3", None])
def test_a_score_threshold_that_is_no_score_is_refused(threshold):
    with pytest.raises(ValueError, match=rf"score_threshold must be a number in \[0, 1\], got {threshold!r}"):
        next(predict_iter(MeanColour(), grays(1), score_threshold=threshold, batch_size=1))
    next(predict_iter(MeanColour(), grays(1), score_threshold=np.float32(0.3), batch_size=np.int64(1)))


def test_a_batch_knows_where_each_image_lies():
    batch = make_batch([("wide", np.zeros((16, 64, 3), np.uint8)), ("tall", np.zeros((64, 8, 3), np.uint8))], LETTERBOX)
    assert batch.images.shape == (2, 3, 32, 32)
    assert batch.content_sizes.tolist() == [[8, 32], [32, 4]]
    assert batch.scales.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert batch.original_sizes.tolist() == [[16, 64], [64, 8]]


def test_boxes_are_in_pixels_of_the_full_size_where_a_file_is_decoded_reduced(tmp_path):
    class Corner(MeanColour):
        """Reports the far corner of the content, as the network sees it."""

        letterbox = replace(LETTERBOX, preprocessing=Preprocessing.preset("fast"))

        def detect(self, batch, *, least_score=0.0):
            batch = batch.to_batch()
            corners = batch.content_sizes.flip(1) / batch.scales
            self.original_sizes = batch.original_sizes.tolist()
            return [
                Detections(torch.cat([torch.zeros(2), corner])[None], torch.tensor([0]), torch.tensor([1.0]))
                for corner in corners
            ]

    Image.new("RGB", (256, 128), "red").save(tmp_path / "large.jpg")
    detector = Corner()
    ((found, image),) = predict_iter(detector, tmp_path / "large.jpg", score_threshold=0.0, batch_size=1)
    assert image.shape == (16, 32, 3)
    assert found.boxes.tolist() == [[0.0, 0.0, 256.0, 128.0]]
    assert detector.original_sizes == [[128, 256]]

    ((_, image),) = predict_iter(detector, np.zeros((128, 256, 3), np.uint8), score_threshold=0.0, batch_size=1)
    assert image.shape == (128, 256, 3)  # decoded already


def test_a_large_photo_decoded_reduced_gives_the_boxes_of_full_decoding(photo_sets, tmp_path):
    """A detector that sees a red plate on a real photo, which is enlarged to four times its sides."""

    class RedPlate(MeanColour):
        def detect(self, batch, *, least_score=0.0):
            found, batch = [], batch.to_batch()
            for image, scale in zip(batch.images.int(), batch.scales, strict=True):
                y, x = torch.nonzero((image[0] > 200) & (image[1] < 60) & (image[2] < 60), as_tuple=True)
                box = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1]) / scale.repeat(2)
                found.append(Detections(box[None], torch.tensor([0]), torch.tensor([1.0])))
            return found

    photo = sorted((photo_sets / "bccd" / "images").iterdir())[0]
    plate = (700, 300, 1300, 1100)
    with Image.open(photo) as opened:
        large = opened.convert("L").convert("RGB").resize((4 * opened.width, 4 * opened.height))
    large.paste((255, 0, 0), plate)
    large.save(tmp_path / "large.jpg", quality=95, exif=exif_turned())
    found, widths = {}, {}
    for preset in ("default", "fast"):
        detector = RedPlate()
        detector.letterbox = replace(LETTERBOX, image_size=(512, 512), preprocessing=Preprocessing.preset(preset))
        ((detections, image),) = predict_iter(detector, tmp_path / "large.jpg", score_threshold=0.0, batch_size=1)
        found[preset], widths[preset] = detections.boxes, image.shape[1]
    assert widths == {"default": large.width, "fast": large.width // 4}
    assert iou_matrix(found["default"], found["fast"]).item() > 0.98
    turned = (large.width - plate[2], large.height - plate[3], large.width - plate[0], large.height - plate[1])
    assert iou_matrix(found["fast"], torch.tensor([turned]).float()).item() > 0.97


def exif_turned():
    """EXIF that says: turn by 180°."""
    exif = Image.Exif()
    exif[0x0112] = 3
    return exif


def test_views_need_the_full_size():
    reduced = Picture("small", np.zeros((32, 32, 3), np.uint8), (64, 64))
    detector = MeanColour()
    detector.training_tiles, detector.image_size, detector.takes_any_size = None, (32, 32), True
    with pytest.raises(ValueError, match=r"small: must have its full size to be looked at in several views, got"):
        next(predict_iter(detector, reduced, score_threshold=0.0, batch_size=1, views=Views(flip=True)))
