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

from site_pages import api_names

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


# -- the search --------------------------------------------------------------------------------------------------------

QUESTIONS = {
    "how to train on a YOLO folder": "how-to/your_data.html",
    "what weight_decay acts on": "how-to/training.html",
    "why labels start at 0": "explanations/tour.html",
    "how to put a detector on a Raspberry Pi": "how-to/edge.html",
    "weight decay": "how-to/training.html",
    "out of memory": "troubleshooting.html",
}


def test_the_search_leads_to_the_page_that_answers(site):
    """The site's own search, as it runs in a browser, has the right page among its first three answers."""
    if shutil.which("node") is None:
        pytest.skip("needs node, to run the search outside of a browser")
    ask = ["node", str(Path(__file__).with_name("search.js")), str(site), *QUESTIONS]
    found = json.loads(subprocess.run(ask, capture_output=True, text=True, check=True).stdout)
    assert {question: pages[:3] for question, pages in found.items() if QUESTIONS[question] not in pages[:3]} == {}
    assert all(found[question] for question in QUESTIONS)


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
