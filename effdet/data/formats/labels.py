"""Class names that objects carry as text, to labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from effdet.data.findings import FindingList


class Codes:
    """Numbers texts in the order in which they first come."""

    def __init__(self) -> None:
        self._codes: dict[str, int] = {}

    def __call__(self, texts: Iterable[str]) -> NDArray[np.int64]:
        """Return the number of each text."""
        codes = self._codes
        return np.array([codes.setdefault(text, len(codes)) for text in texts], dtype=np.int64)

    @property
    def texts(self) -> list[str]:
        """All texts, each at the place of its number."""
        return list(self._codes)


def number_labels(
    names: Sequence[str], listed: Sequence[str], findings: FindingList
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the class names, and the label of each object.

    Args:
        names: Class name of each object.
        listed: All classes in the order of a class list; empty: the names that occur, sorted.
        findings: Takes a warning for names that the list lacks.
    """
    codes = Codes()
    numbers = codes(names)
    classes, labels = order_classes(codes.texts, listed, findings)
    return classes, labels[numbers]


def order_classes(
    used: Sequence[str], listed: Sequence[str], findings: FindingList
) -> tuple[list[str], NDArray[np.int64]]:
    """Return the class names, and the label of each name in ``used``; arguments as for ``number_labels``."""
    classes = list(listed) or sorted(used)
    unknown = sorted(set(used) - set(classes))
    advice = "add them to the list; until then they are classes behind the others"
    findings.add_all("warning", "classes are not in the class list", unknown, repr, advice)
    classes += unknown
    label_of = {name: label for label, name in reversed(list(enumerate(classes)))}
    return classes, np.array([label_of[name] for name in used], dtype=np.int64)


def class_column(values: Any) -> list[str]:
    """Return texts with single spaces and none around."""
    return [" ".join(value.split()) for value in values]
