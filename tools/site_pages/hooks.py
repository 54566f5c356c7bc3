"""The hooks of MkDocs: pages that are made at every build, and links that lead out of ``docs/``.

See https://www.mkdocs.org/dev-guide/plugins/#events for when each function is called.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tools")]

from mkdocs.structure.files import File, InclusionLevel  # noqa: E402

from site_pages import (  # noqa: E402
    api_names,
    command_pages,
    config_page,
    formulas,
    notebooks,
    search_repair,
    source_pages,
)

_MADE = {"commands": command_pages.markdown, "config": config_page.markdown}
_BOOSTS = {
    "questions": 4.0,
    "how-to/your_data": 4.0,
    "start/": 2.0,
    "how-to/": 2.0,
    "troubleshooting": 2.0,
    "explanations/": 1.5,
}  # of the search
_log = logging.getLogger("mkdocs.hooks.site_pages")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that no file of ``docs/`` holds."""
    for path, text in notebooks.pages(ROOT / "docs").items():
        files.append(File.generated(config, path, content=text))
    for path, text in source_pages.pages(ROOT).items():
        files.append(File.generated(config, path, content=text, inclusion=InclusionLevel.NOT_IN_NAV))
    for missing in api_names.without_page(ROOT / "docs"):
        _log.warning("%s is public, but no page of docs/reference/api shows it", missing)
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put in what is made from the code, send links out of ``docs/`` to pages of the site, and draw the formulas.

    What most readers look for is raised in the search.
    """
    boost = next((boost for folder, boost in _BOOSTS.items() if page.file.src_uri.startswith(folder)), 1.0)
    page.meta.setdefault("search", {"boost": boost})
    for name, made in _MADE.items():
        markdown = markdown.replace(f"<!-- the site puts here: {name} -->", made()) if name in markdown else markdown
    markdown = source_pages.with_links_inside(markdown, page.file.src_uri)
    return formulas.drawn(notebooks.with_links_to_pages(markdown, page.file.src_uri))


def on_post_build(config: MkDocsConfig) -> None:
    """Repair the search."""
    if not search_repair.repair(Path(config.site_dir)):
        _log.warning("the search of this Material for MkDocs is another one: see tools/site_pages/search_repair.py")
