"""The pages in a real browser: the slider changes numbers, the gallery filters, nothing comes from outside."""

import pytest

from effdet.evaluation.analysis import analyse
from effdet.evaluation.coco import evaluate_coco
from effdet.report.comparison import Candidate, comparison_numbers
from effdet.report.page import render_comparison, render_report
from tests.evaluation.detection_sets import dataset_of, random_set
from tests.report.browser import WIDTHS, browser, opened
from tests.report.test_page import content

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def chromium():
    with browser() as started:
        yield started


def number(page, name):
    return float(page.text_content(f"#{name}"))


def set_slider(page, position):
    page.eval_on_selector(
        "#threshold", "(node, value) => { node.value = value; node.dispatchEvent(new Event('input')); }", str(position)
    )


def test_the_report_works_in_a_browser(chromium, tmp_path):
    _, numbers, pictures = content(about=None)
    file = tmp_path / "report.html"
    file.write_text(render_report(numbers, *pictures), encoding="utf-8")
    best = numbers["recommended_threshold"]
    with opened(chromium, file.as_uri()) as page:
        assert number(page, "now-f1") == pytest.approx(100 * best["f1"], abs=0.06)
        assert number(page, "now-wrong") == best["false_positives"]

        set_slider(page, 0)  # everything
        curves = numbers["curves"]
        assert number(page, "now-found") == sum(row[0] for row in curves["true_positives"])
        assert number(page, "now-wrong") == sum(row[0] for row in curves["false_positives"])
        page.select_option("#class", "1")
        assert number(page, "now-found") == curves["true_positives"][1][0]
        page.click("#recommend")
        page.select_option("#class", "")
        assert number(page, "now-missed") == best["missed"]

        everything = page.locator(".shot").count()
        for kind in ("duplicate", "missed"):
            page.select_option("#gallery-kind", kind)
            captions = page.locator(".shot figcaption").all_text_contents()
            assert captions
            assert all(kind in caption for caption in captions)
        page.select_option("#gallery-kind", "")
        page.select_option("#gallery-class", "4")  # a class that is nowhere
        assert page.locator(".shot").count() == 0
        page.select_option("#gallery-class", "")
        assert page.locator(".shot").count() == everything > 0
        assert page.eval_on_selector(".shot img", "image => image.naturalWidth") > 0

        page.locator(".shot").first.click()
        before = page.locator("#zoom .pair").bounding_box()["width"]
        page.click("text=+")
        assert page.locator("#zoom .pair").bounding_box()["width"] > before
        page.click("#zoom >> text=close")

        page.click("#classes th button >> text=boxes")
        boxes = [int(text) for text in page.locator("#classes td:nth-child(2)").all_text_contents()]
        assert boxes == sorted(boxes, reverse=True)
        page.click("#classes th button >> text=boxes")
        assert page.locator("#classes td:nth-child(2)").all_text_contents() == [str(n) for n in sorted(boxes)]
    with opened(chromium, file.as_uri(), WIDTHS["phone"], dark=True) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS["phone"]
        assert page.evaluate("document.documentElement.dataset.theme") == "dark"
        page.click("#theme")
        assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_the_comparison_works_in_a_browser(chromium, tmp_path):
    truth, results = random_set(0)
    better = [{key: box[key] for key in ("image_id", "category_id", "bbox")} | {"score": 0.9}
              for box in truth["annotations"]]  # fmt: skip
    dataset = dataset_of(truth)
    candidates = [
        Candidate(
            name=name,
            metrics=evaluate_coco(dataset, rows, backend="pycocotools"),
            analysis=analyse(dataset, rows),
            history=[{"epoch": 1.0, "ap": 0.1}, {"epoch": 2.0, "ap": 0.2}],
        )
        for name, rows in (("first", results), ("second", better))
    ]
    file = tmp_path / "comparison.html"
    file.write_text(render_comparison(comparison_numbers(candidates)), encoding="utf-8")
    with opened(chromium, file.as_uri(), WIDTHS["phone"]) as page:
        assert page.text_content("#differences h3") == "second against first"
        assert page.locator("#differences b.up").count() >= 1
        assert "…" in page.locator("#differences td:nth-child(5)").first.text_content()
        page.click("#differences th button >> text=difference")
        assert "…" in page.locator("#differences td:nth-child(5)").first.text_content()
        assert page.locator("#run-charts svg").count() == 1
        assert page.evaluate("document.documentElement.scrollWidth") == WIDTHS["phone"]
