"""Pages with the text of the repository's files that ``docs/`` links to, so that the site needs no other server."""

from __future__ import annotations

import os
import re
from pathlib import Path

FOLDER = "source"
OUTSIDE = re.compile(r"\]\(((?:\.\./)+)([^)#\s]+?)/?(#[^)]*)?\)")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".kt": "kotlin", ".html": "html", ".cpp": "cpp", ".h": "cpp"}
_HIDDEN = "---\nsearch:\n  exclude: true\n---\n"


def pages(root: Path) -> dict[str, str]:
    """Return the page, by its path in the site, of every file and folder outside of ``docs/`` that a page links to."""
    linked = {}
    for page in sorted((root / "docs").rglob("*.md")):
        for path in _links_out(page.read_text(encoding="utf-8"), page.relative_to(root / "docs").as_posix()):
            linked[_page_of(path)] = _text_of(root, path)
    for path in [file for name in list(linked) for file in _files_of_folder(root, name)]:
        linked.setdefault(_page_of(path), _text_of(root, path))
    return linked


def with_links_inside(markdown: str, page: str) -> str:
    """Return the text of a page with its links out of ``docs/`` sent to the pages of these files.

    Args:
        markdown: Text of the page.
        page: Its path in ``docs/``, as in ``how-to/training.md``.
    """

    def inside(link: re.Match[str]) -> str:
        path = _outside(page, link[1] + link[2])
        if path is None:
            return link[0]
        return f"]({os.path.relpath(_page_of(path), os.path.dirname(page))}{link[3] or ''})"

    return OUTSIDE.sub(inside, markdown)


def _links_out(markdown: str, page: str) -> list[str]:
    paths = (_outside(page, link[1] + link[2]) for link in OUTSIDE.finditer(markdown))
    return [path for path in paths if path is not None]


def _outside(page: str, target: str) -> str | None:
    """Return the path from the root of the repository; None for a target within ``docs/``."""
    path = os.path.normpath(os.path.join("docs", os.path.dirname(page), target))
    return None if path.startswith("docs/") else path


def _page_of(path: str) -> str:
    return f"{FOLDER}/{path if path.endswith('.md') else path + '.md'}"


def _files_of_folder(root: Path, page: str) -> list[str]:
    folder = root / page.removeprefix(f"{FOLDER}/").removesuffix(".md")
    return [path.relative_to(root).as_posix() for path in _python_files(folder)] if folder.is_dir() else []


def _python_files(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.glob("*.py")) if path.name != "__init__.py"]


def _text_of(root: Path, path: str) -> str:
    source = root / path
    if source.is_dir():
        lines = [f"- [{file.name}]({source.name}/{file.name}.md)" for file in _python_files(source)]
        return "\n".join([f"{_HIDDEN}# {path}/", "", *lines])
    text = source.read_text(encoding="utf-8")
    if path.endswith(".md"):
        return _HIDDEN + _without_links(text)
    return f"{_HIDDEN}# {path}\n\n`````{LANGUAGES.get(source.suffix, 'text')}\n{text}\n`````\n"


def _without_links(text: str) -> str:
    """Return Markdown whose links to other files of the repository are plain text."""
    return re.sub(r"\[([^\]]+)\]\((?!http|#)[^)]+\)", r"\1", text)
