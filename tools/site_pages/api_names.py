"""Which names are public, and which of them a page of ``docs/reference/api`` shows.

Public are the names of ``effdet.__all__``, and what the Python blocks of the other pages import from modules of effdet.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import effdet

API = Path("reference", "api")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", flags=re.MULTILINE | re.DOTALL)
_SHOWN = re.compile(r"^::: ([\w.]+)$", flags=re.MULTILINE)


def public(docs: Path) -> set[str]:
    """Return the names that users may rely on, without their modules."""
    names = {name for name in effdet.__all__ if not name.startswith("_")}
    return names | {name for page in docs.rglob("*.md") for block in blocks(page) for name in _imported(block)}


def without_page(docs: Path) -> list[str]:
    """Return the public names that no page of the API shows."""
    return sorted(public(docs) - {name for page in (docs / API).glob("*.md") for name in shown(page)})


def without_example(page: Path) -> list[str]:
    """Return the names that a page of the API shows, but does not use in a Python block."""
    used = {node.id for block in blocks(page) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Name)}
    attributes = {
        node.attr for block in blocks(page) for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Attribute)
    }
    return sorted(set(shown(page)) - used - attributes)


def shown(page: Path) -> list[str]:
    """Return the names that a page takes from docstrings, without their modules."""
    return [name.rpartition(".")[2] for name in _SHOWN.findall(page.read_text(encoding="utf-8"))]


def blocks(page: Path) -> list[str]:
    """Return the Python blocks of a page."""
    return _BLOCK.findall(page.read_text(encoding="utf-8"))


def _imported(code: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "effdet":
            yield from (alias.name for alias in node.names)
