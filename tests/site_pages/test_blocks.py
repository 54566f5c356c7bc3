"""Every block of code on the site is checked; Python blocks and commands are in tests/test_readme.py."""

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

import pytest
import yaml

from effdet import load_config

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: \S.*? -->\n)?^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)

CHECKED = {"python", "bash", "sh", "yaml", "json", "xml"}
NO_CODE = {"text", ""}  # output, file listings, formulas


def blocks(page):
    return BLOCK.findall(page.read_text(encoding="utf-8"))


def test_every_block_is_checked_or_says_why_not():
    unknown = [
        (str(page.relative_to(ROOT)), language)
        for page in PAGES
        for not_run, language, _ in blocks(page)
        if not not_run and language not in CHECKED | NO_CODE
    ]
    assert unknown == []
    assert Counter(language for page in PAGES for _, language, _ in blocks(page)).keys() > {"python", "bash", "yaml"}


def of_language(name):
    return [
        pytest.param(code, id=f"{page.stem}-{number}")
        for page in PAGES
        for number, (_, language, code) in enumerate(blocks(page))
        if language == name
    ]


@pytest.mark.parametrize("code", of_language("json"))
def test_json_is_valid(code):
    json.loads(code)


@pytest.mark.parametrize("code", of_language("xml"))
def test_xml_is_valid(code):
    ET.fromstring(code)


@pytest.mark.parametrize("code", of_language("yaml"))
def test_yaml_is_valid_and_configs_load(code, tmp_path):
    content = yaml.safe_load(code)
    if isinstance(content, dict) and content.keys() <= {"model", "data", "train", "eval", "run"}:
        (tmp_path / "mine.yaml").write_text(code)
        load_config(tmp_path / "mine.yaml")
