"""Every block of code on the site is checked; Python blocks and commands are in tests/test_readme.py."""

import json
import re
import xml.etree.ElementTree as ET
from collections import Counter

import pytest
import yaml

from effdet import load_config
from site_pages import blocks

CHECKED = {"python", "bash", "sh", "yaml", "json", "xml"}
NO_CODE = {"text", ""}  # output, file listings, formulas


def test_every_block_is_checked_or_says_why_not():
    unknown = [
        (blocks.name(page), block.language)
        for page in blocks.PAGES
        for block in blocks.blocks(page)
        if not block.not_run and block.language not in CHECKED | NO_CODE
    ]
    assert unknown == []
    languages = Counter(block.language for page in blocks.PAGES for block in blocks.blocks(page))
    assert languages.keys() > {"python", "bash", "yaml"}


def test_the_blocks_that_no_test_runs_say_why(capsys):
    for page in blocks.PAGES:
        marks = re.findall(r"^<!-- (?:not run|only in sweeps):", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert len(marks) == sum(bool(block.not_run) or block.is_slow for block in blocks.blocks(page)), page
    assert len(blocks.not_run()) < 40
    with capsys.disabled():
        print("", *blocks.not_run(), sep="\n")


def of_language(name):
    return [
        pytest.param(block.code, id=f"{page.stem}-{number}")
        for page in blocks.PAGES
        for number, block in enumerate(blocks.blocks(page))
        if block.language == name
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
