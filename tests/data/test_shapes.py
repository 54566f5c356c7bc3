import numpy as np
import pytest

from effdet.data.shapes import CATEGORIES, annotate, draw_scene

SIZE = (200, 260)


def rng(seed=0):
    return np.random.default_rng(seed)


def scenes(count=40, objects=5):
    for seed in range(count):
        ids = tuple(int(i) for i in rng(seed).choice(list(CATEGORIES), objects))
        yield draw_scene(rng(seed), SIZE, ids)


@pytest.mark.parametrize("category_id", CATEGORIES)
@pytest.mark.parametrize("seed", range(8))
def test_the_box_is_tight_around_the_pixels_that_the_shape_changed(category_id, seed):
    with_shape = draw_scene(rng(seed), SIZE, (category_id,))
    without = draw_scene(rng(seed), SIZE, ())
    difference = np.abs(with_shape.image.astype(int) - without.image).max(axis=2)
    rows, columns = np.nonzero(difference > 12)
    (row,) = annotate(with_shape)
    x, y, width, height = row["bbox"]
    changed = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    np.testing.assert_allclose([x, y, x + width, y + height], changed, atol=1)
    assert row["category_id"] == category_id


def test_annotations_are_those_of_a_literal_search_through_the_pixels():
    for scene in scenes(count=4):
        expected = []
        for number, category_id in enumerate(scene.category_ids):
            pixels = [(x, y) for y in range(SIZE[0]) for x in range(SIZE[1]) if scene.owner[y, x] == number]
            x1, y1 = min(x for x, _ in pixels), min(y for _, y in pixels)
            x2, y2 = max(x for x, _ in pixels) + 1, max(y for _, y in pixels) + 1
            bbox = [x1, y1, x2 - x1, y2 - y1]
            expected.append({"category_id": category_id, "bbox": bbox, "area": len(pixels), "iscrowd": 0})
        assert annotate(scene) == expected


@pytest.mark.parametrize(
    ("category_id", "low", "high"),  # area of the shape over the area of its turned box, from its geometry
    [(2, 0.76, 0.80), (3, 0.43, 0.62), (5, 0.30, 1.0), (8, 0.25, 0.50), (13, 0.35, 0.55)],
)
def test_each_shape_covers_as_much_of_its_box_as_its_geometry_says(category_id, low, high):
    covered = []
    for seed in range(40):
        scene = draw_scene(rng(seed), SIZE, (category_id,))
        (row,) = annotate(scene)
        x, y, width, height = row["bbox"]
        inside = x > 0 and y > 0 and x + width < SIZE[1] and y + height < SIZE[0]
        if inside and min(width, height) > 40:
            covered.append(row["area"] / (width * height))
    assert len(covered) > 10
    assert low <= min(covered) <= max(covered) <= high


def test_a_ring_is_hollow_and_a_circle_is_not():
    for category_id, hollow in [(2, False), (3, True)]:
        scene = draw_scene(rng(3), SIZE, (category_id,))
        x, y, width, height = annotate(scene)[0]["bbox"]
        assert bool(scene.owner[y + height // 2, x + width // 2] == -1) is hollow


def test_shapes_hide_little_of_each_other():
    for scene in scenes():
        boxes = [row["bbox"] for row in annotate(scene)]
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                width = min(a[0] + a[2], b[0] + b[2]) - max(a[0], b[0])
                height = min(a[1] + a[3], b[1] + b[3]) - max(a[1], b[1])
                smaller = min(a[2] * a[3], b[2] * b[3])
                assert max(width, 0) * max(height, 0) <= 0.35 * smaller


def test_a_full_picture_takes_no_more_shapes_and_lists_only_those_that_show():
    scene = draw_scene(rng(1), (64, 64), (2,) * 60)
    assert 1 <= len(scene.category_ids) < 60
    assert len(annotate(scene)) == len(scene.category_ids) == len(np.unique(scene.owner)) - 1


def test_the_same_seed_draws_the_same_picture_and_another_one_does_not():
    first, again, other = (draw_scene(rng(seed), SIZE, (2, 5)).image for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).mean() > 0.5


def test_colours_do_not_tell_the_class():
    means = {category_id: [] for category_id in CATEGORIES}
    for seed in range(60):
        for category_id in CATEGORIES:
            scene = draw_scene(rng(seed * 100 + category_id), (96, 96), (category_id,))
            means[category_id].append(scene.image[scene.owner == 0].mean())
    centres = [np.mean(values) for values in means.values()]
    assert np.ptp(centres) < 0.6 * min(np.std(values) for values in means.values())
