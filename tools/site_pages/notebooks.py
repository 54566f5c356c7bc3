"""The notebooks of ``docs/notebooks`` as pages."""

from __future__ import annotations

import json
import re
from pathlib import Path


def pages(docs: Path) -> dict[str, str]:
    """Return the page of every notebook as Markdown, by its path in the site."""
    files = sorted((docs / "notebooks").glob("*.ipynb"))
    return {f"notebooks/{file.stem}.md": _page(file) for file in files}


def with_links_to_pages(markdown: str, page: str) -> str:
    """Return the text of a page with links to notebooks sent to their pages; GitHub shows the notebooks themselves."""
    return markdown if page.startswith("notebooks/") else re.sub(r"(\]\([^)\s]*)\.ipynb\)", r"\1.md)", markdown)


def _page(file: Path) -> str:
    cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
    title, *rest = (_cell(cell) for cell in cells)
    download = f"This page is a notebook: [{file.name}]({file.name}). A test runs it with the photos of `tests/photos`."
    return "\n\n".join([title, download, *rest])


def _cell(cell: dict[str, object]) -> str:
    source = cell["source"]
    text = "".join(source) if isinstance(source, list) else str(source)
    return text if cell["cell_type"] == "markdown" else f"```python\n{text}\n```"
