"""Tests of effdet/report/page.py and numbers.py; tests/report/test_browser.py opens the pages."""

import builtins
import json
import re

import numpy as np
import pytest

from effdet.evaluation.analysis import analyse
from effdet.evaluation.coco import evaluate_coco
from effdet.report.gallery import make_gallery
from effdet.report.numbers import About, report_numbers
from effdet.report.page import render_report
from tests.evaluation.detection_sets import dataset_of, random_set

HOSTILE = "</script><script>alert(1)</script> & 'x'"


def content(seed=0, about=None):
    truth, results = random_set(seed)
    truth["categories"][0]["name"] = HOSTILE
    dataset = dataset_of(truth)
    analysis = analyse(dataset, results)
    metrics = evaluate_coco(dataset, results, backend="pycocotools")
    numbers = report_numbers(metrics, analysis, about or About(title=HOSTILE, history=[{"epoch": 1.0, "ap": None}]))
    photo = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    return metrics, numbers, make_gallery(analysis, lambda index: f"{index}{HOSTILE}", lambda index: photo)


def test_the_page_holds_its_numbers_and_nothing_from_outside():
    metrics, numbers, pictures = content()
    page = render_report(numbers, *pictures)
    (found,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page)
    assert json.loads(found)["coco"]["ap"] == metrics.ap
    assert json.loads(found)["title"] == HOSTILE
    assert page.count("<script") == 2  # the names did not become markup
    assert not re.search(r"(?:src|href)=\"(?!data:|#)", page)
    assert "http://www.w3.org/2000/svg" in page
    assert re.findall(r"https?://[^\s\"'`]+", page) == ["http://www.w3.org/2000/svg"]


def test_all_numbers_are_cocos_and_json():
    metrics, numbers, _ = content()
    numbers = json.loads(json.dumps(numbers, allow_nan=False))
    assert tuple(-1 if v is None else v for k, v in numbers["coco"].items() if k != "backend") == metrics.numbers()
    assert [row["name"] for row in numbers["per_class"]] == list(metrics.per_class)
    assert numbers["per_class"][4]["ap"] is None


def test_a_missing_template_engine_names_the_extra(monkeypatch):
    plain = builtins.__import__

    def without(name, *rest):
        if name == "jinja2":
            raise ImportError(name)
        return plain(name, *rest)

    _, numbers, pictures = content()
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"a report needs jinja2: pip install .*\[report\]"):
        render_report(numbers, *pictures)
