"""The blocks of code on the pages of the site, and which of them the tests do not run.

``PYTHONPATH=tools python -m site_pages.blocks`` prints the blocks that are not run, each with its reason.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
RUN = ("python", "bash", "sh")  # languages of blocks that are run

_MARK = r"(?:<!-- (not run|only in sweeps): (\S.*?) -->\n)?"
_BLOCK = re.compile(_MARK + r"^```(\w*)\n(.*?)^```$", flags=re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    """A block between two lines of three backticks.

    Attributes:
        language: What stands after the backticks; empty if nothing does.
        code: The lines of the block.
        not_run: Why no test runs it, from the comment ``<!-- not run: WHY -->`` before it; otherwise empty.
        is_slow: Whether only ``make test-sweeps`` runs it, from ``<!-- only in sweeps: WHY -->``.
        line: Number of its first line on the page, from 1.
    """

    language: str
    code: str
    not_run: str
    is_slow: bool
    line: int


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, in order."""
    text = page.read_text(encoding="utf-8")
    found = _BLOCK.finditer(text)
    return [_block(text, each) for each in found]


def _block(text: str, found: re.Match[str]) -> Block:
    mark, why, language, code = found.groups()
    line = 1 + text.count("\n", 0, found.start(4))
    return Block(language, code, not_run=why if mark == "not run" else "", is_slow=mark == "only in sweeps", line=line)


def without_blocks(page: Path) -> str:
    """Return the text of a page around its blocks."""
    return _BLOCK.sub("", page.read_text(encoding="utf-8"))


def name(page: Path) -> str:
    """Return the path of a page, from the root of the project."""
    return str(page.relative_to(ROOT))


def not_run() -> list[str]:
    """Return a line for each block of Python or of commands that the tests do not run."""
    every = [(page, block) for page in PAGES for block in blocks(page) if block.not_run]
    return [f"{name(page)}:{block.line}: {block.language}: {block.not_run}" for page, block in every]


if __name__ == "__main__":
    print(*not_run(), sep="\n")
    print(
        f"{len(not_run())} blocks of {sum(block.language in RUN for page in PAGES for block in blocks(page))} not run"
    )
