"""The comments behind the fields of a dataclass, as the table of its attributes on a page of the API."""

from __future__ import annotations

from typing import Any

import griffe

from effdet.runs.config_keys import comments_in_class


class FieldComments(griffe.Extension):
    """Adds a section ``Attributes`` to the docstring of a class whose fields have comments, but no docstrings."""

    def on_class_members(self, *, cls: griffe.Class, **kwargs: Any) -> None:
        """Add the section once the members of a class are known."""
        if cls.docstring is None or "Attributes:" in cls.docstring.value:
            return
        comments = comments_in_class(cls.source)
        rows = [f"    {name}: {comment}" for name, comment in comments.items() if not name.startswith("_")]
        if rows:
            cls.docstring.value += "\n\nAttributes:\n" + "\n".join(rows)
