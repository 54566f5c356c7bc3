"""The comments behind the fields of a dataclass, as the table of its attributes on a page of the API."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import griffe

_COMMENT = re.compile(r"\s# (.+)$")


class FieldComments(griffe.Extension):
    """Adds a section ``Attributes`` to the docstring of a class whose fields have comments, but no docstrings."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add the section once the members of a class are known."""
        if cls.docstring is None or "Attributes:" in cls.docstring.value:
            return
        rows = [f"    {name}: {comment}" for name, comment in _comments(cls).items()]
        if rows:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)


def _comments(cls: griffe.Class) -> dict[str, str]:
    """Return the comment at the end of each public field."""
    file = cls.module.filepath
    assert isinstance(file, Path)
    lines = cls.module.lines_collection[file]
    fields = (one for one in cls.attributes.values() if one.annotation is not None and not one.name.startswith("_"))
    found = {one.name: _COMMENT.search(lines[(one.endlineno or 0) - 1]) for one in fields}
    return {name: match[1] for name, match in found.items() if match}
