"""The built site: what it holds, that it needs no other server, and what its search finds."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest

from site_pages import api_names, search_repair

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
API_PAGES = sorted(page for page in (DOCS / api_names.API).glob("*.md") if page.name != "index.md")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built as `make docs` builds it."""
    if importlib.util.find_spec("material") is None or importlib.util.find_spec("mkdocstrings") is None:
        pytest.skip("needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        build, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    )
    assert done.returncode == 0, done.stderr
    return folder


class Fetched(HTMLParser):
    """Collects what a browser fetches to show a page: scripts, styles, pictures, frames."""

    def __init__(self):
        super().__init__()
        self.addresses = []

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag != "a" and attrs.get("rel") not in ("canonical", "next", "prev"):
            self.addresses += [attrs[name] for name in ("src", "href", "srcset", "poster") if attrs.get(name)]


def fetched(page):
    parser = Fetched()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser.addresses


def test_a_reader_fetches_nothing_from_another_server(site):
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 50
    outside = {(page.name, each) for page in pages for each in fetched(page) if re.match(r"(https?:)?//", each)}
    assert not outside
    styles = "".join(file.read_text(encoding="utf-8") for file in site.rglob("*.css"))
    assert not re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//", styles)


def test_what_pages_fetch_is_there(site):
    for page in site.glob("*/**/*.html"):
        for address in fetched(page):
            path = address.split("#")[0].split("?")[0]
            assert path.startswith("data:") or (page.parent / path).resolve().exists(), (page.name, address)


def test_a_page_of_the_api_explains_fields_and_inherited_methods(site):
    models = (site / "reference" / "api" / "models.html").read_text(encoding="utf-8")
    assert "finest level of the pyramid, 2 to 5" in models  # the comment behind Architecture.min_level
    assert 'id="effdet.EfficientDet.predict"' in models


# -- the search --------------------------------------------------------------------------------------------------------

QUESTIONS = {
    "how to train on a YOLO folder": "how-to/your_data.html",
    "what weight_decay acts on": "how-to/training.html",
    "why labels start at 0": "explanations/tour.html",
    "how to put a detector on a Raspberry Pi": "how-to/edge.html",
    "weight decay": "how-to/training.html",
    "out of memory": "troubleshooting.html",
    "learning rate": "how-to/training.html",
    "which model should I use": "questions.html",
    "resume training": "how-to/training.html",
    "AP is 0": "questions.html",
    "loss is nan": "troubleshooting.html",
    "small objects": "how-to/large_images.html",
    "confusion matrix": "how-to/report.html",
    "score threshold": "questions.html",
    "train on several gpus": "how-to/gpu.html",
    "install": "start/install.html",
    "export onnx": "how-to/deployment.html",
    "split train and validation": "questions.html",
    "pretrained weights": "questions.html",
    "images without objects": "questions.html",
    "early stopping": "how-to/training.html",
    "pascal voc": "how-to/your_data.html",
}


def ask(site, *questions):
    """Run the search of a site in node."""
    if shutil.which("node") is None:
        pytest.skip("needs node, to run the search outside of a browser")
    command = ["node", str(Path(__file__).with_name("search.js")), str(site), *questions]
    return subprocess.run(command, capture_output=True, text=True)


def test_the_search_leads_to_the_page_that_answers(site):
    """The site's own search, as it runs in a browser, has the right page among its first three answers."""
    done = ask(site, *QUESTIONS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {question: pages[:3] for question, pages in found.items() if QUESTIONS[question] not in pages[:3]} == {}
    assert all(found[question] for question in QUESTIONS)


def test_the_search_is_repaired_where_numbers_break_it(tmp_path):
    """lunr takes different nodes of its tree of words for one if their edges are digits."""
    material = pytest.importorskip("material", reason="needs the extra docs")
    scripts = "assets/javascripts/workers"
    shutil.copytree(Path(material.__file__).parent / "templates" / scripts, tmp_path / scripts)
    numbers = [
        number * number * 1_299_709 % 1_000_003 / 10 for number in range(1, 1001)
    ]  # among them a bad pair of nodes
    words = " ".join(str(number).removesuffix(".0") for number in numbers)
    fields = {"title": {"boost": 1000}, "text": {"boost": 1}}
    config = {"lang": ["en"], "separator": r"[\s]+", "pipeline": ["stopWordFilter"], "fields": fields}
    page = {"location": "a.html", "title": "Numbers", "text": words}
    (tmp_path / "search").mkdir()
    (tmp_path / "search" / "search_index.json").write_text(json.dumps({"config": config, "docs": [page]}))
    questions = [str(number) for number in range(1, 10)]
    assert "TypeError" in ask(tmp_path, *questions).stderr
    assert search_repair.repair(tmp_path)
    assert json.loads(ask(tmp_path, *questions).stdout) == {question: ["a.html"] for question in questions}
    assert not search_repair.repair(tmp_path)  # the fault is no longer there


# -- the API -----------------------------------------------------------------------------------------------------------


def test_every_public_name_is_on_a_page_of_the_api():
    assert api_names.without_page(DOCS) == []


@pytest.mark.parametrize("page", API_PAGES, ids=lambda page: page.stem)
def test_the_example_of_an_api_page_uses_all_its_names(page):
    assert api_names.shown(page)
    assert api_names.without_example(page) == []


def test_a_public_name_without_page_and_one_without_example_are_found(tmp_path):
    page = tmp_path / api_names.API / "models.md"
    page.parent.mkdir(parents=True)
    page.write_text(
        "```python\nfrom effdet.ops.nms import hard_nms\n\nload()\n```\n\n::: effdet.load\n\n::: effdet.train\n"
    )
    missing = api_names.without_page(tmp_path)
    assert {"hard_nms", "EfficientDet", "evaluate"} <= set(missing)
    assert not {"load", "train"} & set(missing)
    assert api_names.without_example(page) == ["train"]


def test_the_page_of_the_api_holds_the_docstrings(site):
    text = (site / "reference/api/models.html").read_text(encoding="utf-8")
    for anchor in ("effdet.EfficientDet", "effdet.EfficientDet.from_pretrained", "effdet.Architecture"):
        assert f'id="{anchor}"' in text


def test_the_page_of_the_commands_holds_every_command_and_option(site):
    text = (site / "reference/commands.html").read_text(encoding="utf-8")
    for anchor in ("effdet-train", "effdet-data-check", "effdet-compare-necks", "effdet-scale-budget"):
        assert f'id="{anchor}"' in text
    assert "--nms" in text
