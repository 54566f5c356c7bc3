"""Tiles, mirror images and scales on the way through a detector."""

import copy
from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from effdet import EfficientDet
from effdet.detector.prediction import labels_of, predict_iter
from effdet.detector.views import Views, detect_views, mirror_boxes
from effdet.images.letterbox import Letterbox
from effdet.ops.settings import PostprocessSettings
from effdet.ops.tiles import Tiles
from effdet.structures import Detections


class BrightRectangles:
    """A detector that reports every bright rectangle of the network input; green ones are of class 1."""

    name, class_names, category_ids = "rectangles", ("red", "green"), (7, 9)
    image_size, settings = (96, 96), PostprocessSettings()
    training_tiles, takes_any_size = None, True
    letterbox = Letterbox(image_size=(96, 96), mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))

    def __init__(self):
        self.inputs = []

    def detect(self, batch, *, least_score=0.0):
        self.inputs += [tuple(batch.images.shape)]
        return [self._of(image, float(scale[0])) for image, scale in zip(batch.images, batch.scales, strict=True)]

    def _of(self, image, scale):
        rows = []
        for label, channel in enumerate(image[:2]):
            _, _, stats, _ = cv2.connectedComponentsWithStats((channel > 127).astype(np.uint8))
            rows += [[*(np.array([x, y, x + w, y + h]) / scale), label, 0.5 + w / 1000] for x, y, w, h, _ in stats[1:]]
        table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
        return Detections(table[:, :4], table[:, 4].long(), table[:, 5], self.class_names, self.category_ids)


def canvas(size, boxes, labels):
    image = np.zeros((*size, 3), np.uint8)
    for (x1, y1, x2, y2), label in zip(boxes, labels, strict=True):
        image[y1:y2, x1:x2, label] = 255
    return image


def grid_of_objects():
    """Objects of 10 to 18 pixels all over 400 × 300 pixels; none touches another."""
    rng = np.random.default_rng(0)
    boxes = []
    for top in range(2, 270, 30):
        for left in range(3, 370, 30):
            width, height = rng.integers(10, 19, 2)
            x, y = left + rng.integers(0, 6), top + rng.integers(0, 6)
            boxes.append((x, y, x + width, y + height))
    return boxes, rng.integers(0, 2, len(boxes))


def assert_finds(found, boxes, labels, tolerance=0.0):
    assert len(found) == len(boxes)
    _, matches = box_iou(found.boxes, torch.tensor(boxes).float()).max(dim=1)
    assert sorted(matches.tolist()) == list(range(len(boxes)))
    assert found.labels.tolist() == labels[matches.numpy()].tolist()
    assert (found.boxes - torch.tensor(boxes).float()[matches]).abs().max() <= tolerance


@pytest.mark.parametrize("batch_size", [1, 7])
def test_tiles_find_every_object_once_in_pixels_of_the_image(batch_size):
    boxes, labels = grid_of_objects()
    detector = BrightRectangles()
    views = Views(tiles=96, overlap=0.25)  # 24 pixels, more than an object has
    found = detect_views(detector, canvas((300, 400), boxes, labels), views, batch_size)
    assert_finds(found, boxes, labels)
    assert found.image_size == (300, 400)
    assert max(shape[0] for shape in detector.inputs) == batch_size


def test_tiles_may_have_another_size_than_the_network_input_and_the_image():
    boxes, labels = grid_of_objects()
    views = Views(tiles=(48, 40), overlap=0.5)  # scaled by 2 and padded
    assert_finds(detect_views(BrightRectangles(), canvas((300, 400), boxes, labels), views, 4), boxes, labels, 1.0)


def test_an_object_larger_than_the_overlap_comes_in_pieces():
    found = detect_views(
        BrightRectangles(), canvas((96, 170), [(20, 30, 150, 60)], [0]), Views(tiles=96, overlap=0.2), 1
    )
    assert len(found) == 2


def test_mirror_image_and_scales_agree_on_the_object():
    """Boxes of all four passes are those of the object, so their weighted mean is too."""
    detector = BrightRectangles()
    image = canvas((96, 96), [(8, 16, 40, 64)], [1])
    found = detect_views(detector, image, Views(flip=True, scales=(1, 2)), 1)
    assert found.boxes.tolist() == [[8, 16, 40, 64]]
    assert found.labels.tolist() == [1]
    assert [shape[2:] for shape in detector.inputs] == [(96, 96)] * 2 + [(192, 192)] * 2
    assert float(found.scores[0]) == pytest.approx(0.5 + (32 + 32 + 64 + 64) / 4 / 1000)


def test_scales_are_rounded_to_multiples_of_32():
    detector = BrightRectangles()
    assert Views(scales=(1, 0.4, 1.7)).inputs_for(detector) == [(96, 96), (32, 32), (160, 160)]
    detector.takes_any_size = False
    with pytest.raises(ValueError, match=r"scales must be \(1,\) for a file that takes inputs of \(96, 96\) only"):
        Views(scales=(1, 1.5)).check(detector)
    Views(scales=(1.01,)).check(detector)  # the same input


def test_mirrored_boxes():
    boxes = np.array([[1.0, 2.0, 5.0, 9.0]])
    assert mirror_boxes(boxes, 10).tolist() == [[5, 2, 9, 9]]
    np.testing.assert_array_equal(mirror_boxes(mirror_boxes(boxes, 10), 10), boxes)


def test_auto_takes_what_the_detector_was_trained_with():
    detector = BrightRectangles()
    with pytest.raises(ValueError, match="tiles must be a number of pixels for rectangles, got 'auto', which needs"):
        Views(tiles="auto").check(detector)
    detector.training_tiles = Tiles(size=(30, 40), overlap=0.4)
    assert Views(tiles="auto").tiles_for(detector) == detector.training_tiles
    assert Views(tiles="auto", overlap=0.1).tiles_for(detector) == Tiles(size=(30, 40), overlap=0.1)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"overlap": 0.2}, ValueError, "overlap goes with tiles, got overlap=0.2 without them"),
        ({"tiles": "640"}, ValueError, r"tiles must be a number of pixels, \(height, width\) or 'auto', got '640'"),
        ({"tiles": 3.5}, TypeError, "tiles must be a number of pixels"),
        ({"tiles": True}, TypeError, "tiles must be a number of pixels"),
        ({"tiles": 0}, ValueError, "a tile must have sides of 1 pixel or more"),
        ({"tiles": 64, "overlap": 2}, ValueError, "overlap must lie in"),
        ({"flip": 1}, TypeError, "flip must be True or False, got 1"),
        ({"scales": 2.0}, TypeError, "scales must be a list of numbers, got 2.0"),
        ({"scales": "12"}, TypeError, "scales must be a list of numbers, got '12'"),
        ({"scales": ()}, ValueError, "scales must be different numbers above 0 and up to 8, one or more"),
        ({"scales": (1, 1)}, ValueError, "scales must be different numbers"),
        ({"scales": (float("nan"),)}, ValueError, "scales must be different numbers"),
    ],
)
def test_views_that_cannot_be(values, error, message):
    with pytest.raises(error, match=message):
        Views(**values)


def test_the_class_filter_goes_by_names():
    image = canvas((96, 96), [(8, 8, 20, 20), (40, 40, 60, 60)], [0, 1])
    stream = predict_iter(BrightRectangles(), image, score_threshold=0, batch_size=1, classes=["green"])
    ((found, _),) = stream
    assert [one.class_name for one in found] == ["green"]
    assert labels_of(["green", "red"], ("red", "green")) == [1, 0]


@pytest.mark.parametrize(
    ("classes", "error", "message"),
    [
        ("red", TypeError, "classes must be a list of class names, got 'red'"),
        ([], ValueError, "classes must name one class or more"),
        (["gren"], ValueError, "classes must be names of the model's classes, got 'gren'; did you mean 'green'?"),
        (["x"], ValueError, "got 'x'; known: red, green"),
    ],
)
def test_classes_that_cannot_be(classes, error, message):
    with pytest.raises(error, match=message):
        labels_of(classes, ("red", "green"))


@pytest.fixture(scope="module")
def model(photo_sets, like_trained):
    from effdet.images.reading import read_image

    torch.manual_seed(0)
    model = EfficientDet("lite0", 3, image_size=(96, 128), class_names=["a", "b", "c"])
    photos = [(file.name, read_image(file)) for file in sorted(photo_sets.rglob("*.jpg"))[:4] if file.stem != "damaged"]
    return like_trained(model, photos), photos


def test_a_tile_as_large_as_the_photo_is_the_photo(model):
    model, photos = model
    image = photos[0][1]
    (plain,) = model.predict(image, score_threshold=0.05)
    (tiled,) = model.predict(image, score_threshold=0.05, tiles=max(image.shape))
    assert len(plain) > 3
    assert tiled == replace(plain, source=tiled.source)


def test_tiles_of_a_photo_are_what_their_crops_give(model):
    """Without overlap nothing is merged away but what is cut, so whole boxes are those of the crops."""
    model, photos = model
    image = np.ascontiguousarray(photos[0][1][:96, :256])
    (tiled,) = model.predict(image, score_threshold=0.0, tiles=(96, 128), overlap=0, batch_size=2)
    left, right = model.predict(
        [np.ascontiguousarray(image[:, :128]), np.ascontiguousarray(image[:, 128:])], score_threshold=0.0
    )
    expected = torch.cat([left.boxes, right.boxes + torch.tensor([128.0, 0.0, 128.0, 0.0])])
    assert len(tiled) > 10
    assert box_iou(tiled.boxes, expected).amax(dim=1).min() > 0.9999
    assert (tiled.scores[:-1] >= tiled.scores[1:]).all()


def test_predict_with_all_options_at_once_changes_nothing_in_the_model(model):
    model, photos = model
    before = copy.deepcopy(model.state_dict())
    options = {
        "tiles": 300,
        "overlap": 0.3,
        "flip": True,
        "scales": (1, 1.5),
        "classes": ["b"],
        "score_threshold": 0.01,
    }
    found = model.predict([image for _, image in photos[:2]], batch_size=3, **options)
    assert len(found) == 2
    assert {one.class_name for item in found for one in item} == {"b"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    for item in found:
        height, width = item.image_size
        assert (item.boxes >= 0).all()
        assert (item.boxes <= torch.tensor([width, height, width, height])).all()


def test_what_training_says_about_tiles_travels_with_the_weights(tmp_path):
    model = EfficientDet("lite0", 3, training_tiles=Tiles(size=(300, 400), overlap=0.3))
    model.save_pretrained(tmp_path / "model.safetensors")
    assert EfficientDet.from_pretrained(tmp_path / "model.safetensors").training_tiles == model.training_tiles
