"""The page of all config keys, made from ``effdet/config/sections.py``."""

from __future__ import annotations

import re

from effdet.runs.config_keys import keys_as_markdown

_KEY = re.compile(r"^\| `([\w.]+)`", flags=re.MULTILINE)


def markdown() -> str:
    """Return a section for each part of a config, as ``effdet config --markdown`` prints them.

    On a narrow screen a key may go on in a second line after a dot.
    """
    return _KEY.sub(lambda key: f"| <code>{key[1].replace('.', '.<wbr>')}</code>", keys_as_markdown())
