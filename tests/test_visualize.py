"""Tests of effdet/visualize.py."""

import colorsys
import itertools
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from effdet import fonts
from effdet.structures import Detections
from effdet.visualize import class_color, draw_detections, draw_targets, plot_curves, save_image, side_by_side

GRAY = 90


def blank(height=200, width=300):
    return np.full((height, width, 3), GRAY, np.uint8)


def detections(boxes, labels=None, scores=None, names=("cat", "dog", "emu")):
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    labels = [0] * len(boxes) if labels is None else labels
    scores = [0.5] * len(boxes) if scores is None else scores
    return Detections(
        boxes, torch.tensor(labels, dtype=torch.int64), torch.tensor(scores), names, (1, 2, 3)[: len(names)]
    )


def truth(boxes, labels, is_crowd=None):
    crowd = np.zeros(len(labels), bool) if is_crowd is None else np.array(is_crowd)
    return SimpleNamespace(boxes=np.array(boxes, np.float32).reshape(-1, 4), labels=np.array(labels), is_crowd=crowd)


def drawn(picture):
    return (picture != GRAY).any(axis=2)


def test_the_outline_lies_on_the_outermost_pixels_of_the_box():
    picture = draw_detections(blank(), detections([[40, 60, 200, 160]]))
    color = class_color(0)
    for y, x in ((60, 150), (159, 150), (100, 40), (100, 199)):
        assert tuple(picture[y, x]) == color
    for y, x in ((160, 150), (100, 39), (100, 200), (110, 120)):
        assert tuple(picture[y, x]) == (GRAY,) * 3


def test_boxes_of_the_full_size_are_drawn_on_a_reduced_picture():
    found = replace(detections([[40, 80, 200, 240]]), image_size=(400, 600))
    halved = detections([[20, 40, 100, 120]])
    np.testing.assert_array_equal(draw_detections(blank(), found), draw_detections(blank(), halved))


def test_drawing_does_not_import_matplotlib():
    code = (
        "import sys, numpy as np; from effdet.visualize import draw_targets; "
        "draw_targets(np.zeros((90, 90, 3), np.uint8), [[9, 9, 50, 50]], [0]); "
        "assert 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_image_itself_stays_as_it_is():
    image = blank()
    draw_detections(image, detections([[40, 60, 200, 160]]))
    assert (image == GRAY).all()


def test_nothing_found_is_the_same_picture():
    np.testing.assert_array_equal(draw_detections(blank(), detections([])), blank())
    np.testing.assert_array_equal(draw_targets(blank(), [], []), blank())


def test_the_name_stands_above_its_box():
    picture = draw_detections(blank(), detections([[40, 60, 200, 160]]))
    rows = np.flatnonzero(drawn(picture)[:60].any(axis=1))
    assert 8 <= len(rows) <= 20
    assert rows[-1] == 59  # it touches the box


@pytest.mark.parametrize("box", [[40, 0, 200, 160], [290, 150, 300, 200], [-50, -20, 20, 5], [500, 400, 600, 500]])
def test_the_name_stays_inside_the_image(box):
    picture = draw_detections(blank(), detections([box]))
    plate = (picture == class_color(0)).all(axis=2)
    alone = draw_detections(blank(2000, 3000)[:400], detections([[500, 200, 600, 300]]))
    assert drawn(picture).any()
    assert plate.sum() > 0.4 * len("cat 50") * 6 * 10  # the plate is whole, however far out the box is
    assert alone.shape == (400, 3000, 3)


def test_lines_and_text_grow_with_the_image():
    def measures(factor):
        box = np.array([[40, 60, 200, 160]]) * factor
        marks = drawn(draw_detections(blank(200 * factor, 300 * factor), detections(box)))
        return marks[: 60 * factor].any(axis=1).sum(), marks[100 * factor].sum() / 2

    (text_1, line_1), (text_8, line_8) = measures(1), measures(8)
    assert text_8 > 4 * text_1
    assert line_8 >= 5 * line_1


def test_text_is_small_where_objects_are_tiny():
    rng = np.random.default_rng(0)
    corners = rng.uniform(50, 900, (100, 2))
    tiny = detections(np.concatenate([corners, corners + 12], axis=1))
    large = detections(np.concatenate([corners[:1], corners[:1] + 300], axis=1))
    per_box = drawn(draw_detections(blank(1000, 1000), tiny)).sum() / 100
    plate = (drawn(draw_detections(blank(1000, 1000), large)).sum() - 4 * 3 * 300) / 3
    assert per_box < plate


def test_names_are_never_crossed_by_the_lines_of_other_boxes():
    one = draw_detections(blank(), detections([[40, 60, 200, 160]], scores=[0.9]))
    two = draw_detections(blank(), detections([[40, 60, 200, 160], [45, 10, 280, 190]], [0, 1], [0.9, 0.1]))
    plate = (slice(53, 59), slice(42, 70))
    np.testing.assert_array_equal(one[plate], two[plate])


def test_the_best_detection_is_drawn_last():
    boxes = [[40, 60, 200, 160]] * 2
    picture = draw_detections(blank(), detections(boxes, [0, 1], [0.2, 0.9]))
    assert tuple(picture[159, 150]) == class_color(1)
    picture = draw_detections(blank(), detections(boxes, [0, 1], [0.9, 0.2]))
    assert tuple(picture[159, 150]) == class_color(0)


def test_boxes_that_are_not_finite_are_left_out():
    found = detections([[40, float("nan"), 200, 160], [0, 0, float("inf"), 10]])
    np.testing.assert_array_equal(draw_detections(blank(), found), blank())


def test_a_box_turned_inside_out_is_a_point():
    assert drawn(draw_detections(blank(), detections([[200, 160, 100, 100]]))).any()


def test_class_names_and_scores_change_the_text():
    pictures = [
        draw_detections(blank(), detections([[40, 60, 200, 160]], scores=[score], names=names))
        for score in (0.5, 0.91)
        for names in (("cat",), ("Käfer Ж",), ())
    ]
    for index, picture in enumerate(pictures):
        for other in pictures[:index]:
            assert (picture != other).any()


def test_targets_look_like_detections_and_crowds_say_so():
    boxes = [[40, 60, 200, 160]]
    plain = draw_targets(blank(), boxes, [1], class_names=("cat", "dog"))
    as_tensors = draw_targets(blank(), torch.tensor(boxes), torch.tensor([1]), class_names=("cat", "dog"))
    crowd = draw_targets(blank(), boxes, [1], class_names=("cat", "dog"), is_crowd=[True])
    numbered = draw_targets(blank(), boxes, [1])
    np.testing.assert_array_equal(plain, as_tensors)
    assert tuple(plain[159, 150]) == class_color(1)
    assert drawn(crowd)[:60].sum() > 1.5 * drawn(plain)[:60].sum()  # "dog (crowd)"
    assert drawn(numbered)[:60].sum() < drawn(plain)[:60].sum()  # "1"


def test_detections_draw_themselves():
    found = detections([[40, 60, 200, 160], [10, 30, 50, 50]], scores=[0.9, 0.1])
    np.testing.assert_array_equal(found.draw(blank(), score_threshold=0.5), draw_detections(blank(), found.above(0.5)))


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 4), np.uint8), np.zeros((5, 5, 3), np.float32)],
    ids=["gray", "alpha", "float"],
)
def test_only_rgb_bytes_are_drawn_on(image):
    with pytest.raises(ValueError, match=r"image must be \(height, width, 3\) uint8 RGB, got \(5, 5"):
        draw_detections(image, detections([]))
    with pytest.raises(ValueError, match=r"image must be \(height, width, 3\) uint8 RGB, got \(5, 5"):
        draw_targets(image, [], [])


def test_colours_are_stable_and_those_of_neighbours_differ():
    assert [class_color(label) for label in range(3)] == [class_color(label) for label in range(3)]
    assert len({class_color(label) for label in range(90)}) == 90
    hues = [colorsys.rgb_to_hls(*(value / 255 for value in class_color(label)))[0] for label in range(90)]
    for first, second in itertools.pairwise(hues):
        assert 0.3 < abs(first - second) < 0.7  # the circle of hues has length 1


def test_ground_truth_stands_left_of_predictions():
    images = [blank(100, 200), blank(400, 200)]
    truths = [truth([[20, 30, 180, 90]], [0]), truth([], [])]
    found = [detections([]), detections([[20, 130, 180, 390]], [1])]
    picture = side_by_side(images, truths, found, width=200)

    assert picture.shape == (36 + 100 + 8 + 400 + 8, 200 + 8 + 200, 3)
    heading, first, second = picture[:36], picture[36:136], picture[144:544]
    assert (heading[:, :200] < 128).any()
    assert (heading[:, 208:] < 128).any()
    np.testing.assert_array_equal(first[:, :200], draw_targets(images[0], truths[0].boxes, [0], class_names=("cat",)))
    np.testing.assert_array_equal(first[:, 208:], images[0])
    np.testing.assert_array_equal(second[:, :200], images[1])
    np.testing.assert_array_equal(second[:, 208:], draw_detections(images[1], found[1]))


def test_boxes_are_scaled_with_their_image():
    picture = side_by_side(
        [blank(100, 100)], [truth([[20, 40, 60, 80]], [0])], [detections([[20, 40, 60, 80]])], width=400
    )
    for left in (0, 408):
        part = picture[36:436, left : left + 400]
        assert tuple(part[200, 80]) == tuple(part[319, 239]) == class_color(0)
        assert tuple(part[250, 70]) == (GRAY,) * 3


def test_real_annotations_fit_real_photos(photo_sets):
    from effdet.data.formats import find_dataset

    data = find_dataset(photo_sets / "coco_open", "val")
    crowded = next(index for index in range(len(data)) if data.annotations(index).is_crowd.any())
    empty = detections([], names=data.class_names)
    picture = side_by_side([data.read(crowded)], [data.annotations(crowded)], [empty])
    assert picture.shape[1] == 1288


@pytest.mark.parametrize("counts", [(0, 0, 0), (1, 0, 1), (1, 1, 0)])
def test_every_image_needs_its_truth_and_detections(counts):
    images, truths, found = (
        [thing] * n for thing, n in zip((blank(), truth([], []), detections([])), counts, strict=True)
    )
    message = f"there must be at least one image.* got {counts[0]}, {counts[1]}, {counts[2]}"
    with pytest.raises(ValueError, match=message):
        side_by_side(images, truths, found)


@pytest.mark.parametrize("name", ["a.png", "a.JPG", "a.jpe", "a.bmp", "a.tif", "a.webp", "a.gif"])
def test_images_are_saved_in_the_format_of_their_name(tmp_path, name):
    picture = draw_detections(blank(), detections([[40, 60, 200, 160]]))
    save_image(tmp_path / name, picture)
    with Image.open(tmp_path / name) as read:
        difference = np.abs(np.asarray(read.convert("RGB")).astype(int) - picture)
    assert difference.mean() < 2


def test_an_unknown_image_format_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"a.xyz: must end in an image format such as .jpg or .png"):
        save_image(tmp_path / "a.xyz", blank())


HEADER = "epoch,step,lr,loss,class_loss,box_loss,images_per_second,ap,ap50,ap75,ap_small,ap_medium,ap_large\n"
ROWS = ["1,10,0.1,2.0,1.0,1.0,9,,,,,,", "2,20,0.1,1.5,0.9,0.6,9,0.2,0.4,0.1,-1,0.1,0.3", "3,30,0,1.1,0.7,0.4,9,,,,,,"]


@pytest.fixture
def figures(monkeypatch):
    """Collect the matplotlib figures that are saved."""
    from matplotlib.figure import Figure

    saved, save = [], Figure.savefig
    monkeypatch.setattr(Figure, "savefig", lambda self, *args: (saved.append(self), save(self, *args))[1])
    return saved


def lines(axes):
    return {line.get_label(): [tuple(point) for point in line.get_xydata()] for line in axes.lines}


def test_curves_show_what_was_measured(tmp_path, figures):
    (tmp_path / "metrics.csv").write_text(HEADER + "\n".join(ROWS) + "\n")
    plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    losses, scores = figures[0].axes
    assert lines(losses)["loss"] == [(1, 2.0), (2, 1.5), (3, 1.1)]
    assert set(lines(losses)) == {"loss", "class_loss", "box_loss"}
    assert lines(scores)["ap50"] == [(2, 0.4)]
    assert set(lines(scores)) == {"ap", "ap50", "ap75", "ap_medium", "ap_large"}  # there are no small objects
    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.format == "PNG"
        assert picture.width > 1000


@pytest.mark.parametrize("rows", [[], ROWS[:1]])
def test_curves_of_a_run_that_has_measured_nothing_say_so(tmp_path, figures, rows):
    (tmp_path / "metrics.csv").write_text(HEADER + "\n".join(rows))
    plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert [text.get_text() for text in figures[0].axes[1].texts] == ["nothing measured yet"]


def test_curves_need_no_evaluation_columns_and_survive_a_torn_last_line(tmp_path, figures):
    (tmp_path / "metrics.csv").write_text("epoch,loss,box_loss\n1,2.0,1.0\n2,1.5")
    plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert lines(figures[0].axes[0]) == {"loss": [(1, 2.0), (2, 1.5)], "box_loss": [(1, 1.0)]}


def test_a_loss_that_is_not_finite_is_left_out(tmp_path, figures):
    (tmp_path / "metrics.csv").write_text("epoch,loss\n1,2.0\n2,nan\n3,inf\n4,1.0\n")
    plot_curves(tmp_path / "metrics.csv", tmp_path / "curves.png")
    assert lines(figures[0].axes[0]) == {"loss": [(1, 2.0), (4, 1.0)]}


def test_plotting_leaves_the_global_state_of_matplotlib_alone(tmp_path):
    (tmp_path / "metrics.csv").write_text(HEADER + ROWS[1])
    code = (
        "import sys, effdet.visualize as v; v.plot_curves(sys.argv[1] + '/metrics.csv', sys.argv[1] + '/c.png');"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)


def drawn_name(name):
    return draw_detections(blank(), detections([[40, 60, 200, 160]], names=(name, "dog", "emu")))


@pytest.mark.parametrize(("one", "other"), [("红细胞", "血小板"), ("적혈구", "혈소판"), ("a\nb", "a\rb")])
def test_names_of_every_script_can_be_told_apart(one, other):
    assert (drawn_name(one) != drawn_name(other)).any()


def test_letters_that_no_font_has_are_drawn_as_codes_and_said_once(monkeypatch, caplog):
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    fonts._path_of_font.cache_clear()
    fonts._say_once.cache_clear()
    for _ in range(2):
        np.testing.assert_array_equal(drawn_name("红a"), drawn_name("\\u7ea2a"))
    (record,) = caplog.records
    assert "no font of this machine has all letters of '红a'" in record.getMessage()
    fonts._path_of_font.cache_clear()


def test_a_font_of_the_system_that_has_the_letters_is_used(monkeypatch, caplog):
    """A font with few letters stands for the default one, and the real default one for a font of the system."""
    few = next(path for path in fonts.default_font().parent.glob("cmr10.ttf"))
    many = str(fonts.default_font())
    monkeypatch.setattr(fonts, "default_font", lambda: few)
    monkeypatch.setattr(fonts, "_system_fonts", lambda: (str(few), many))
    fonts._path_of_font.cache_clear()
    assert fonts.font_for("Жук", 20).path == many
    assert fonts.font_for("abc", 20).path == str(few)
    assert fonts.drawable_text("Жук") == "Жук"
    assert not caplog.records
    fonts._path_of_font.cache_clear()
