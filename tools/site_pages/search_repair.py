"""Repair a fault of lunr, the search engine inside Material for MkDocs, in the built site.

lunr joins equal nodes of its tree of words. It compares nodes by a text of their edges, each a letter and the number of
the next node, with nothing between: the edges "1" to node 2 and "3" to node 4 read like the edge "1" to node 234. So in
a site with many numbers lunr may join different nodes. A search then finds words that are on no page, raises an error
and shows no results.
"""

from __future__ import annotations

from pathlib import Path

_FAULTY = "e=e+s+o.id}return e}"
_REPAIRED = 'e=e+s+o.id+","}return e}'


def repair(site: Path) -> bool:
    """Repair the search of a built site.

    Args:
        site: Folder of the site.

    Returns:
        Whether every script of the search had the fault once and is repaired now.
    """
    scripts = sorted(site.glob("assets/javascripts/workers/search.*.js"))
    texts = [script.read_text(encoding="utf-8") for script in scripts]
    for script, text in zip(scripts, texts, strict=True):
        script.write_text(text.replace(_FAULTY, _REPAIRED), encoding="utf-8")
    return bool(texts) and all(text.count(_FAULTY) == 1 for text in texts)
