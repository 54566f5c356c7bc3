import pytest
import torch

from effdet.ops.anchors import level_sizes, make_anchors


def anchors_by_loop(image_size, min_level, max_level, scale):
    """Anchors of the published models, by the definition: one loop each for level, row, column, octave, ratio."""
    height, width = rows, columns = image_size
    boxes = []
    for level in range(1, max_level + 1):
        rows, columns = (rows + 1) // 2, (columns + 1) // 2
        if level < min_level:
            continue
        for row in range(rows):
            for column in range(columns):
                for octave in (0, 1, 2):
                    for ratio in (1.0, 2.0, 0.5):
                        stride_y, stride_x = height / rows, width / columns
                        w = scale * stride_x * 2 ** (octave / 3) * ratio**0.5
                        h = scale * stride_y * 2 ** (octave / 3) / ratio**0.5
                        x, y = stride_x / 2 + column * stride_x, stride_y / 2 + row * stride_y
                        boxes.append([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
    return torch.tensor(boxes, dtype=torch.float64).float()


def anchors_of(image_size, *, min_level=3, max_level=7, scale=4.0):
    return make_anchors(image_size, level_sizes(image_size, min_level, max_level), scale=scale)


def test_first_three_and_last_anchors_at_512_are_the_published_ones():
    anchors = anchors_of((512, 512))
    # Published D0 anchors; there in the order y1, x1, y2, x2.
    published_yxyx = torch.tensor(
        [
            [-12, -12, 20, 20],
            [-7.3137, -18.6274, 15.3137, 26.6274],
            [-18.6274, -7.3137, 26.6274, 15.3137],
            [-126.7006, 160.6497, 1022.7006, 735.3503],
        ]
    )
    torch.testing.assert_close(anchors[[0, 1, 2, -1]], published_yxyx[:, [1, 0, 3, 2]], atol=1e-4, rtol=0)
    assert anchors.dtype == torch.float32


@pytest.mark.parametrize(
    ("side", "max_level", "count"),
    [
        (512, 7, 49104),
        (640, 7, 76725),
        (768, 7, 110484),
        (896, 7, 150381),
        (1024, 7, 196416),
        (1280, 7, 306900),
        (1536, 7, 441936),
        (1536, 8, 442260),
        (320, 7, 19206),
        (384, 7, 27621),
        (448, 7, 37629),
    ],
)
def test_number_of_anchors_is_the_published_one(side, max_level, count):
    assert len(anchors_of((side, side), max_level=max_level)) == count


@pytest.mark.parametrize("image_size", [(128, 128), (64, 192), (300, 450), (320, 320), (97, 33), (1, 1)], ids=str)
@pytest.mark.parametrize("scale", [3.0, 4.0])
def test_anchors_equal_a_literal_loop(image_size, scale):
    torch.testing.assert_close(
        anchors_of(image_size, scale=scale), anchors_by_loop(image_size, 3, 7, scale), atol=1e-4, rtol=0
    )


def test_coarsest_stride_at_320_pixels_is_a_fraction():
    assert level_sizes((320, 320), 3, 7)[-1] == (3, 3)
    squares = anchors_of((320, 320))[-81::9]  # (9, 4) first anchor of each cell of P7
    assert squares[1, 0] - squares[0, 0] == pytest.approx(320 / 3)
    assert squares[0, 2] - squares[0, 0] == pytest.approx(4 * 320 / 3)


def test_a_size_that_is_no_multiple_of_the_strides_rounds_every_level_up():
    assert level_sizes((300, 450), 3, 7) == [(38, 57), (19, 29), (10, 15), (5, 8), (3, 4)]


def test_octaves_and_aspect_ratios_are_choices():
    anchors = make_anchors((8, 8), [(1, 1)], scale=1.0, scales_per_octave=1, aspect_ratios=[1.0, 4.0])
    assert anchors.tolist() == [[0, 0, 8, 8], [-4, 2, 12, 6]]  # 8 × 8, then 16 × 4, round (4, 4)


def test_a_ratio_may_be_given_as_a_pair_of_factors():
    anchors = make_anchors((8, 8), [(1, 1)], scale=1.0, scales_per_octave=1, aspect_ratios=[(1.0, 1.0), (1.5, 0.5)])
    assert anchors.tolist() == [[0, 0, 8, 8], [-2, 2, 10, 6]]  # 8 × 8, then 12 × 4, round (4, 4)


def test_levels_may_have_any_feature_size():
    """Feature maps that round down give larger strides, not an error."""
    anchors = make_anchors((300, 450), [(37, 56)])
    assert len(anchors) == 37 * 56 * 9
    assert (anchors[0, 0] + anchors[0, 2]).item() / 2 == pytest.approx(450 / 56 / 2, abs=1e-4)


@pytest.mark.parametrize("image_size", [(0, 64), (64, -1)])
def test_image_sides_must_be_positive(image_size):
    with pytest.raises(ValueError, match=r"image_size must be two positive numbers \(height, width\), got \("):
        level_sizes(image_size, 3, 7)


def test_levels_must_be_in_order():
    with pytest.raises(ValueError, match="0 <= min_level <= max_level, got 7 and 3"):
        level_sizes((512, 512), 7, 3)
